"""The MXFP4 codec against transformers and a brute-force reference, and the dequantised copy of a checkpoint."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_plan import tiny_dir  # noqa: F401
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from rft import dequantise, mxfp4
from rft.errors import RftError


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """bf16 as integers, so that -0.0 and 0.0 differ."""
    return tensor.contiguous().view(torch.int16)


def test_every_byte_times_every_scale_is_bit_exact_against_transformers():
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    blocks = every_byte.expand(1, 255, 16, 16).contiguous()
    scales = torch.arange(255, dtype=torch.uint8)[None, :, None].expand(1, 255, 16).contiguous()
    ours, theirs = mxfp4.dequantise_expert(blocks, scales), convert_moe_packed_tensors(blocks, scales)
    assert ours.shape == theirs.shape == (1, 512, 255)
    assert torch.equal(bits(ours), bits(theirs))
    # The one scale that `dequantise` refuses: what does not ask, decodes it as transformers does, finite nowhere.
    nan = torch.full((1, 1, 16), mxfp4.SCALE_NAN, dtype=torch.uint8)
    ours = mxfp4.decode(blocks[:, :1], nan)
    theirs = convert_moe_packed_tensors(blocks[:, :1], nan).transpose(1, 2)
    assert torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(ours.isinf(), theirs.isinf())
    assert not ours.isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_types_hold_the_same_values(dtype):
    blocks = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(253, 16, 16)
    scales = torch.arange(253, dtype=torch.uint8)[:, None].expand(253, 16)
    wide = mxfp4.dequantise(blocks, scales, dtype)
    assert wide.dtype == dtype
    assert torch.equal(wide.double(), mxfp4.dequantise(blocks, scales).double())


def test_strided_blocks_decode_as_contiguous_ones():
    """A slice of experts or rows, as placements and chunks take it."""
    blocks = torch.randint(0, 256, (4, 6, 3, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scales = torch.randint(118, 124, (4, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    whole = mxfp4.dequantise(blocks, scales)
    assert torch.equal(mxfp4.dequantise(blocks[1::2, ::3], scales[1::2, ::3]), whole[1::2, ::3])
    swapped = mxfp4.dequantise(blocks.transpose(0, 1), scales.transpose(0, 1))
    assert torch.equal(swapped, whole.transpose(0, 1))
    assert mxfp4.dequantise(blocks[:0], scales[:0]).shape == (0, 6, 96)


def test_dequantising_to_bf16_loses_nothing_up_to_the_largest_finite_scale():
    blocks = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(253, 16, 16)
    scales = torch.arange(253, dtype=torch.uint8)[:, None].expand(253, 16)
    exact = mxfp4.dequantise(blocks, scales, torch.float64)
    assert torch.equal(mxfp4.dequantise(blocks, scales).double(), exact)


def test_pack_and_unpack_are_inverse_and_the_even_element_is_the_low_nibble():
    codes = torch.randint(0, 16, (3, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mxfp4.unpack(mxfp4.pack(codes)), codes)
    assert mxfp4.pack(torch.tensor([1, 15], dtype=torch.uint8)).tolist() == [0xF1]


def nearest_by_search(block: list[float]) -> tuple[int, list[float]]:
    """OCP MX v1.0 section 6.3 by hand: the scale's byte, each value's nearest representable, ties to even."""
    import math

    largest = max(map(abs, block))
    exponent = max(-127, min(127, math.floor(math.log2(largest)) - 2)) if largest else 0
    values = []
    for x in block:
        distances = [(abs(abs(x) / 2.0**exponent - v), code % 2, v) for code, v in enumerate(mxfp4.CODE_VALUES[:8])]
        values.append(math.copysign(min(distances)[2] * 2.0**exponent, x))
    return exponent + 127, values


@pytest.mark.parametrize("spread", [1e-30, 0.02, 1.0, 1e4])
def test_quantise_picks_the_nearest_code(spread):
    weight = torch.randn(5, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * spread
    blocks, scales = mxfp4.quantise(weight)
    found = mxfp4.dequantise(blocks, scales, torch.float64)
    for row in range(5):
        for group in range(2):
            scale, values = nearest_by_search(weight[row, group * 32 : group * 32 + 32].tolist())
            assert scales[row, group] == scale
            assert found[row, group * 32 : group * 32 + 32].tolist() == pytest.approx(values, rel=1e-6, abs=0)


def test_ties_go_to_the_even_code_and_too_large_values_saturate():
    block = torch.zeros(1, 32)
    block[0, :10] = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -5.0, 7.9])
    values = mxfp4.dequantise(*mxfp4.quantise(block), torch.float32)
    assert values[0, :10].tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, -0.0, -4.0, 6.0]


def test_quantising_what_is_representable_changes_nothing_and_zeros_stay_zero():
    values = mxfp4.dequantise(*mxfp4.quantise(torch.randn(4, 96, generator=torch.Generator().manual_seed(2))))
    again = mxfp4.dequantise(*mxfp4.quantise(values))
    assert torch.equal(again, values)
    assert not mxfp4.dequantise(*mxfp4.quantise(torch.zeros(1, 32))).any()


@pytest.mark.parametrize(
    "weight", [torch.zeros(2, 33), torch.full((1, 32), float("nan")), torch.full((1, 32), float("inf"))]
)
def test_quantise_refuses_what_mxfp4_cannot_hold(weight):
    with pytest.raises(ValueError, match=r"multiple of 32|not finite"):
        mxfp4.quantise(weight)


def test_a_nan_scale_and_mismatched_shapes_are_a_damaged_checkpoint():
    blocks = torch.zeros(1, 2, 16, dtype=torch.uint8)
    with pytest.raises(RftError, match="damaged"):
        mxfp4.dequantise(blocks, torch.tensor([[127, 255]], dtype=torch.uint8))
    with pytest.raises(RftError, match="do not match"):
        mxfp4.dequantise(blocks, torch.zeros(1, 3, dtype=torch.uint8))


# --- the copy of a whole checkpoint -------------------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path, tiny_dir):
    """The tiny checkpoint in two shards with an index, blocks and scales of one tensor on either side of the cut."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    tensors = load_file(tiny_dir / "model" / "model.safetensors")
    homes = {name: f"model-0000{2 if name.endswith('_scales') else 1}-of-00002.safetensors" for name in tensors}
    for shard in set(homes.values()):
        save_file({n: t for n, t in tensors.items() if homes[n] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / dequantise.INDEX_NAME).write_text(json.dumps({"weight_map": homes}))
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(tiny_dir / "model" / name, folder / name)
    return folder


def test_a_sharded_checkpoint_gives_the_same_twin(sharded, tiny_dir, tmp_path):
    twin = dequantise.dequantise_checkpoint(sharded, tmp_path / "twin")
    index = json.loads((twin / dequantise.INDEX_NAME).read_text())
    found = {}
    for shard in set(index["weight_map"].values()):
        found |= load_file(twin / shard)
    expected = load_file(tiny_dir / "model-bf16" / "model.safetensors")
    assert found.keys() == expected.keys() == index["weight_map"].keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (twin / "tokenizer.json").exists()
    config = json.loads((twin / "config.json").read_text())
    assert "quantization_config" not in config
    assert config[dequantise.SOURCE_KEY] == dequantise.checkpoint_digest(sharded)


def test_a_second_call_uses_the_twin_again_and_refuses_another_folder(sharded, tmp_path):
    twin = dequantise.dequantise_checkpoint(sharded, tmp_path / "twin")
    before = (twin / "config.json").stat().st_mtime_ns
    assert dequantise.dequantise_checkpoint(sharded, twin) == twin
    assert (twin / "config.json").stat().st_mtime_ns == before
    (tmp_path / "other").mkdir()
    with pytest.raises(RftError, match="not the twin"):
        dequantise.dequantise_checkpoint(sharded, tmp_path / "other")


def test_bad_sources_give_one_clear_line_and_leave_nothing(sharded, tiny_dir, tmp_path, capsys):
    cases = {
        str(tiny_dir / "model-bf16"): "nothing to dequantise",
        str(tmp_path / "absent"): "does not exist",
    }
    for source, words in cases.items():
        assert dequantise.main([source, str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    (sharded / "model-00002-of-00002.safetensors").unlink()
    assert dequantise.main([str(sharded), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "model-00002-of-00002.safetensors" in error and error.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_a_torn_shard_is_named(sharded, tmp_path):
    shard = sharded / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(RftError, match="model-00001-of-00002"):
        dequantise.dequantise_checkpoint(sharded, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
