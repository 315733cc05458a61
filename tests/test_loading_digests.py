"""Shards against the sums that somebody wrote down, in each place where they are looked for."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import json
import shutil

import pytest
from loading_kit import copied, shard, small  # noqa: F401

from rft.errors import RftError
from rft.loading import digests
from rft.loading.shards import Checkpoint
from rft.loading.stream import load_model
from rft.provenance import sha256


def sums(folder) -> dict[str, str]:
    return {path.name: sha256(path) for path in Checkpoint(folder).shards}


def damage(path) -> None:
    """One bit of the data, which no length tells."""
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def test_no_known_sum_is_no_error(small):
    assert digests.known(small, Checkpoint(small).shards) == {}
    assert digests.check(small, Checkpoint(small).shards) == 0


@pytest.mark.parametrize("home", ["digests.json", "manifest.json"])
def test_a_flipped_bit_is_found(copied, home):
    wanted = sums(copied)
    if home == "digests.json":
        (copied / home).write_text(json.dumps(wanted))
    else:
        entries = {f"{copied.name}/{name}": value for name, value in wanted.items()} | {"train.jsonl": "0" * 64}
        (copied.parent / home).write_text(json.dumps({"sha256": entries}))
    load_model(str(copied), "eager", quiet=True)
    path = shard(copied, 2)
    damage(path)
    with pytest.raises(RftError) as error:
        load_model(str(copied), "eager", quiet=True)
    assert path.name in str(error.value) and wanted[path.name] in str(error.value) and sha256(path) in str(error.value)
    load_model(str(copied), "eager", quiet=True, check_digests=False)


def test_the_hub_caches_blobs_are_their_sums(copied, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    shutil.move(copied, snapshot)
    for path in Checkpoint(snapshot).shards:
        blob = blobs / sha256(path)
        shutil.move(path, blob)
        path.symlink_to(blob)
    shards = Checkpoint(snapshot).shards
    assert digests.check(snapshot, shards) == len(shards) == 3
    damage(shards[0].resolve())
    with pytest.raises(RftError, match="damaged"):
        digests.check(snapshot, shards)


def test_ranks_share_the_work_and_miss_nothing(copied):
    (copied / "digests.json").write_text(json.dumps(sums(copied)))
    shards = Checkpoint(copied).shards
    assert [digests.check(copied, shards, rank, 2) for rank in (0, 1)] == [2, 1]
    damage(shards[1])
    failed = []
    for rank in (0, 1):
        try:
            digests.check(copied, shards, rank, 2)
        except RftError:
            failed.append(rank)
    assert failed == [1]


def test_sums_that_cannot_be_read_are_an_error(copied):
    (copied / "digests.json").write_text("{")
    with pytest.raises(RftError, match=r"digests\.json"):
        digests.check(copied, Checkpoint(copied).shards)
    (copied / "digests.json").write_text("[]")
    assert digests.check(copied, Checkpoint(copied).shards) == 0
