"""The actor under ZeRO-3 on 2 ranks, with and without offload: exact logits, gradients, saves (real DeepSpeed)."""

import json
from pathlib import Path

import pytest
from ranks import run_ranks

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.engine


@pytest.fixture(scope="session", params=["in_place", "offload"])
def found(request, tiny_dir, tmp_path_factory):
    """What each rank of actor_probe.py found, and the folder that it wrote to."""
    out = tmp_path_factory.mktemp(f"actor_{request.param}")
    offload = ["--offload"] * (request.param == "offload")
    return run_ranks("actor_probe.py", out, tiny_dir / "model", out, *offload), out


def test_logits_are_bit_identical(found):
    """ZeRO-3's logits are plain transformers' before training and after 20 steps with a save at each."""
    for rank in found[0]:
        assert rank["logits_equal_before"] and rank["logits_equal_after"] and rank["logits_moved"]


def test_the_actor_without_its_adapter_is_the_reference(found):
    """Bit for bit a separately loaded reference model, after 20 steps; and the adapter comes back."""
    for rank in found[0]:
        assert rank["reference"] == {
            "off_is_separate": True,
            "on_differs": True,
            "on_comes_back": True,
            "still_trained": True,
        }
        assert rank["logits_equal_with_adapter_off"]


def test_base_weights_are_unchanged(found):
    for rank in found[0]:
        assert set(rank["bases"]) == {rank["base_before"]} and len(rank["bases"]) == 20
        assert rank["live_bases_changed"] == [] and rank["kept_whole"] > 10


def test_gathers_are_whole(found):
    """DeepSpeed waits for the last of several gathers only; on gloo the others may still be under way."""
    assert all(rank["gathers_are_whole"] for rank in found[0])


def test_mxfp4_loads_dequantised_under_zero3(found, tiny_dir):
    config = json.loads((tiny_dir / "model" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "mxfp4"
    assert all(rank["logits_equal_before"] for rank in found[0])


def test_offload_is_wired(found):
    for rank in found[0]:
        assert ("cpu" in rank["param_offload"]) == rank["offload"]


def test_rope_stays_fp32(found):
    assert all(rank["rope_fp32"] for rank in found[0])


def test_no_router_loss_unless_asked(found):
    assert not any(rank["router_logits"] for rank in found[0])


def test_first_optimizer_step_has_ratio_one(found):
    """One optimizer step a rollout, so that every one is its rollout's first: log ratio exactly 0."""
    for rank in found[0]:
        assert rank["log_ratio"] == [[0.0, 0.0]] * 20
        assert all(norm > 0 for norm in rank["grad_norms"]) and rank["optimizer_steps"] == 20


def test_left_over_and_uneven_micro_batches_end_in_steps(found):
    """6 samples a rank at 4 a step: 2 steps; 5 and 6: 2 steps; 4 and 8: 2 steps; no rank waits for ever."""
    assert [rank["uneven_steps"] for rank in found[0]] == [6, 6]


def test_gradient_does_not_depend_on_the_micro_batch(found):
    reference_norm, reference_loss = found[0][0]["reference_gradient"]
    for rank in found[0]:
        for norm, loss in rank["gradients"].values():
            assert norm == pytest.approx(reference_norm, rel=0.02)  # bf16 gradients
            assert loss == pytest.approx(reference_loss, rel=1e-3, abs=1e-4)


def test_save_writes_the_adapter_alone(found, tiny_dir):
    ranks, out = found
    files = set(ranks[0]["files"])
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/tokenizer.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", "/config.json")) or "model-0" in name]
    assert ranks[0]["adapter_verifies"] is None
    base = (tiny_dir / "model-bf16" / "model.safetensors").stat().st_size
    adapter = (out / "adapter" / "adapter_model.safetensors").stat().st_size
    from safetensors import safe_open

    with safe_open(out / "adapter" / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
        size = sum(file.get_tensor(name).nbytes for name in names)
    assert all(".lora_" in name for name in names) and size <= adapter < size + 20_000 < base


def test_peft_loads_the_adapter_bit_equal(found):
    assert [rank["peft_differs_at"] for rank in found[0]] == [[], []]
