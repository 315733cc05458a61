"""Adapters with expert targets: merged as PEFT merges them, and requantised at the least error that MXFP4 allows."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import json

import export_kit as kit
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_plan import tiny_dir  # noqa: F401

from rft.errors import RftError
from rft.export.requantise import Error, codes_at, requantise
from rft.mxfp4 import dequantise, dequantise_expert, quantise

BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.fixture(scope="module")
def model(tiny_dir):
    return tiny_dir / "model"


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "final"
    return kit.make_adapter(model, folder, target_modules=["q_proj"], target_parameters=BOTH)


@pytest.mark.parametrize("targets", [BOTH, BOTH[:1], BOTH[1:]])
def test_bf16_has_the_weights_that_peft_merges(model, tmp_path, targets):
    """To one step of bf16: PEFT sums over the rank in another order."""
    adapter = kit.make_adapter(model, tmp_path / "adapter", target_modules=[], target_parameters=targets)
    kit.run_export(adapter, model, tmp_path / "out", "bf16")
    wanted, ours = kit.merged_in_memory(model, adapter).state_dict(), kit.tensors(tmp_path / "out")
    before = kit.load_checkpoint(model).state_dict()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=2**-8, atol=1e-7)
        assert torch.equal(tensor, before[name]) != name.endswith(tuple(target.split(".")[-1] for target in targets))


def test_mxfp4_is_the_merge_within_the_error_that_is_reported(model, adapter, tmp_path, capsys):
    report = kit.run_export(adapter, model, tmp_path / "out", "mxfp4")
    ours, wanted = kit.tensors(tmp_path / "out"), kit.merged_in_memory(model, adapter).state_dict()
    stems = {name.removesuffix("_blocks") for name in ours if name.endswith("_blocks")}
    assert report["requantised"].keys() == stems and len(stems) == 8
    for stem, error in report["requantised"].items():
        made = dequantise_expert(ours[f"{stem}_blocks"], ours[f"{stem}_scales"], torch.float32)
        lost = (made - wanted[stem].float()).norm() / wanted[stem].float().norm()
        assert float(lost) == pytest.approx(error["relative_error"], rel=0.02)  # bf16 rounds the reference
        assert 0 < error["relative_error"] <= error["ocp_relative_error"] < 0.2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Requantised experts" in card and all(stem in card for stem in stems)
    saved = json.loads((tmp_path / "out" / "rft_export.json").read_text())
    assert saved["requantised"] == report["requantised"]


def test_scales_that_come_before_their_blocks_change_nothing(model, adapter, tmp_path):
    base = kit.shard(model, tmp_path / "sharded", parts=5)
    kit.run_export(adapter, model, tmp_path / "one", "mxfp4")
    kit.run_export(adapter, base, tmp_path / "many", "mxfp4")
    one, many = kit.tensors(tmp_path / "one"), kit.tensors(tmp_path / "many")
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)


def test_experts_that_the_adapter_left_alone_keep_their_bytes(model, adapter, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    found = load_file(adapter / "adapter_model.safetensors")
    rank, experts = 8, 8
    for name, tensor in found.items():
        if "experts" in name and ".lora_A." in name:
            tensor.view(experts, rank, -1)[1:] = 0  # only expert 0 learned something
    save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    kit.run_export(folder, model, tmp_path / "out", "mxfp4")
    before, after = kit.tensors(model), kit.tensors(tmp_path / "out")
    for name in before:
        if name.endswith(("_blocks", "_scales")):
            assert torch.equal(before[name][1:], after[name][1:])
            assert name.endswith("_scales") or not torch.equal(before[name][0], after[name][0])


def test_each_block_gets_the_best_of_all_scales():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(100, 8 * 32, generator=generator) * torch.logspace(-3, 3, 100)[:, None]
    values[:8] = values[:8].sign() * 7.9 * 2.0**-4  # just below the next exponent, where the OCP rule saturates
    error = Error()
    blocks, scales = requantise(values, *quantise(torch.zeros_like(values)), error)
    ours = (dequantise(blocks, scales, torch.float64) - values.double()).square().unflatten(-1, (-1, 32)).sum(-1)
    every = []
    for scale in range(253):
        _, lost = codes_at(values.unflatten(-1, (-1, 32)), torch.full((100, 8), scale - 127, dtype=torch.int32))
        every.append(lost)
    best = torch.stack(every).amin(0)
    assert torch.allclose(ours, best, rtol=1e-5)
    assert error.added == pytest.approx(float(best.sum()), rel=1e-6)
    old = dequantise(*quantise(values), torch.float64) - values.double()
    assert error.ocp == pytest.approx(float(old.square().sum()), rel=1e-6) and error.ocp > 1.01 * error.added


def test_what_mxfp4_holds_already_is_kept_exactly():
    generator = torch.Generator().manual_seed(4)
    blocks = torch.randint(0, 256, (16, 4, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(0, 253, (16, 4), dtype=torch.uint8, generator=generator)
    values, error = dequantise(blocks, scales, torch.float32), Error()
    same = requantise(values, blocks, scales, error)
    assert torch.equal(same[0], blocks) and torch.equal(same[1], scales) and error.added == 0
    other = requantise(values, torch.zeros_like(blocks), scales, Error())  # the bytes are not there to be kept
    assert torch.equal(dequantise(*other, torch.float32), values)


def test_a_layout_that_shapes_cannot_tell_is_refused_without_a_version(model, adapter, tmp_path):
    """All sizes of the tiny model differ, so an adapter of other sizes fits no weight of it."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    found = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {n: t[:, :-32].contiguous() if "experts" in n and ".lora_A." in n else t for n, t in found.items()},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(RftError, match="fits not one weight"):
        kit.run_export(folder, model, tmp_path / "out", "mxfp4")
