"""The shards' reader against safetensors itself, and what it says of every kind of damage."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import os
import re
import shutil

import pytest
import torch
from loading_kit import copied, edit_header, edit_json, shard, small  # noqa: F401
from safetensors import safe_open
from safetensors.torch import save_file

from rft.dequantise import INDEX_NAME
from rft.errors import RftError
from rft.loading.shards import Checkpoint, read_header

GATE = "model.layers.0.mlp.experts.gate_up_proj_blocks"


def message(folder) -> str:
    with pytest.raises(RftError) as error:
        Checkpoint(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_tensor_and_any_range_of_it_is_what_safetensors_reads(small):
    checkpoint, seen = Checkpoint(small), 0
    for path in checkpoint.shards:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                wanted = file.get_tensor(name).contiguous().view(-1).view(torch.uint8)
                entry = checkpoint[name]
                assert entry.shape == tuple(file.get_slice(name).get_shape()) and entry.nbytes == len(wanted)
                for start, end in ((0, len(wanted)), (1, len(wanted) - 1), (len(wanted) // 3, len(wanted) // 2)):
                    got = torch.empty(end - start, dtype=torch.uint8)
                    entry.read_into(got.numpy(), start)
                    assert torch.equal(got, wanted[start:end]), (name, start, end)
                seen += entry.nbytes
    assert seen == checkpoint.nbytes > 0


def test_a_range_beyond_the_tensor_is_refused(small):
    entry = Checkpoint(small)[GATE]
    for start in (-1, entry.nbytes - 9):
        with pytest.raises(ValueError, match="bytes"):
            entry.read_into(bytearray(10), start)


def test_a_shard_cut_anywhere_is_an_error_that_names_it(copied):
    path = shard(copied, 1)
    size, entries = path.stat().st_size, read_header(path)
    for cut in sorted({0, 5, 8, 100, size - 1} | {size * k // 23 for k in range(1, 23)}, reverse=True):
        os.truncate(path, cut)
        text = message(copied)
        assert path.name in text and "fetch" in text
        torn = next((e for e in entries if e.offset <= cut < e.offset + e.nbytes), None)
        if torn is not None:
            assert torn.name in text and f"{torn.nbytes:,} bytes expected, {cut - torn.offset:,} found" in text


def test_a_shard_that_shrinks_after_it_was_opened_is_an_error(copied):
    checkpoint = Checkpoint(copied)
    os.truncate(shard(copied, 1), shard(copied, 1).stat().st_size - 1)
    last = max(read_all(checkpoint, shard(copied, 1)), key=lambda entry: entry.offset)
    with pytest.raises(RftError, match=f"ends within {re.escape(last.name)}, 1 bytes early"):
        last.read_into(bytearray(last.nbytes))


def read_all(checkpoint, path):
    return [entry for entry in checkpoint.entries.values() if entry.shard == path]


def test_bytes_too_many_are_an_error(copied):
    with open(shard(copied, 0), "ab") as file:
        file.write(b"xyz")
    assert "3 bytes more than" in message(copied)


def test_a_shape_that_does_not_match_its_bytes_is_an_error_with_both(copied):
    def wider(header):
        header[GATE]["shape"][0] += 1

    edit_header(shard(copied, 1), wider)
    text = message(copied)
    assert GATE in text and "U8 [6, 192, 2, 16]" in text and "36,864 bytes" in text and "30,720" in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda header: header[GATE].update(dtype="F4"), "has dtype F4"),
        (lambda header: header[GATE].pop("dtype"), "lacks a tensor's dtype"),
        (lambda header: header.update({GATE: 3}), "lacks a tensor's dtype"),
    ],
)
def test_a_header_that_says_nonsense_is_an_error(copied, change, says):
    edit_header(shard(copied, 1), change)
    assert says in message(copied)


def test_another_kind_of_file_is_an_error(copied):
    shard(copied, 0).write_bytes(b"<!DOCTYPE html>" * 100)
    assert "do not begin as safetensors do" in message(copied)


def test_the_index_and_the_shards_must_agree(copied):
    index = copied / INDEX_NAME
    weight_map = {entry.name: entry.shard.name for entry in Checkpoint(copied).entries.values()}
    edit_json(index, weight_map=weight_map | {"model.extra": shard(copied, 0).name})
    assert "model.extra" in message(copied) and "nowhere" in message(copied)
    edit_json(index, weight_map=weight_map | {GATE: shard(copied, 2).name})
    assert GATE in message(copied) and f"in {shard(copied, 1).name}" in message(copied)


def test_a_tensor_in_two_shards_is_an_error(copied):
    (copied / INDEX_NAME).unlink()
    save_file({GATE: torch.zeros(2)}, copied / "zz.safetensors")
    text = message(copied)
    assert GATE in text and "zz.safetensors" in text


def test_a_missing_shard_is_an_error(copied):
    shard(copied, 2).unlink()
    assert "missing" in message(copied)


def test_a_folder_without_shards_is_an_error(tmp_path, small):
    shutil.copy(small / "config.json", tmp_path)
    assert "no .safetensors" in message(tmp_path)
