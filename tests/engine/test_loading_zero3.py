"""The streamed loader under real DeepSpeed on 2 ranks: ZeRO-3, ZeRO-3 with offload, and ZeRO-2 (whole on each rank)."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from ranks import ROOT, run_ranks

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
WAYS = {"zero3": ["3"], "zero3_offload": ["3", "--offload"], "zero2": ["2"]}
FORMS = ("dequantised", "resident")


@pytest.fixture(scope="session", params=list(WAYS))
def found(request, tiny_dir, tmp_path_factory) -> tuple[str, list[dict]]:
    out = tmp_path_factory.mktemp(request.param)
    broken = out / "broken"
    shutil.copytree(tiny_dir / "model", broken)
    os.truncate(broken / "model.safetensors", (broken / "model.safetensors").stat().st_size - 1000)
    return request.param, run_ranks("loading_probe.py", out, tiny_dir / "model", broken, out, *WAYS[request.param])


@pytest.mark.parametrize("form", FORMS)
def test_parameters_buffers_and_logits_are_those_of_the_whole_model(found, form):
    for rank in found[1]:
        got = rank[form]
        assert got["names_differ"] == [] and got["values_differ"] == []
        assert got["buffers_equal"] and got["rope_fp32"] and got["logits_equal"]


def test_dequantised_logits_are_transformers_bit_for_bit(found):
    for rank in found[1]:
        assert rank["dequantised"]["equal_to_transformers"]
        # A mean of logits up to 12, in bf16: where two experts tie but for rounding, a token goes elsewhere.
        assert rank["resident"]["near_transformers"] < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_a_rank_holds_its_share_from_the_start(found, form):
    """No parameter is ever whole before `deepspeed.initialize`; padding is less than a byte a parameter and rank."""
    way, ranks = found
    for rank in ranks:
        got = rank[form]
        share = got["model"] if way == "zero2" else got["model"] // 2
        assert share <= got["held"] <= share + 400 and got["whole_on_load"] == []


@pytest.mark.parametrize("form", FORMS)
def test_a_training_step_is_that_of_one_process(found, form):
    for rank in found[1]:
        got = rank[form]
        mine, alone = got["grad_norm"]
        assert mine == pytest.approx(alone, rel=0.02)  # bf16 gradients
        assert got["frozen_unchanged"] and got["trained"]


def test_uint8_stays_uint8(found):
    for rank in found[1]:
        assert rank["resident"]["uint8_stays"] == 16  # 4 layers: blocks and scales of two products
        assert rank["resident"]["dtypes"] == ["torch.bfloat16", "torch.uint8"]
        assert rank["dequantised"]["dtypes"] == ["torch.bfloat16"]


def test_resident_experts_gather_as_many_times_fewer_bytes_as_mxfp4_is_smaller(found):
    """16 bits a weight against 4.25: a factor of 3.76. What is not an expert's weight is gathered alike."""
    way, ranks = found
    if way == "zero2":
        assert all(rank[form]["forward_gathers"] == {} for rank in ranks for form in FORMS)
        return
    for rank in ranks:
        for key in ("forward_gathers", "step_gathers"):
            dense, resident = rank["dequantised"][key], rank["resident"][key]
            weights = dense["torch.bfloat16"] - resident["torch.bfloat16"]  # experts, in bf16
            assert weights / resident["torch.uint8"] == pytest.approx(16 / 4.25, rel=1e-3)


def test_gathers_of_a_training_pass(found):
    """What placement.PASSES_TRAIN counts: forward, recomputed forward and backward gather each layer's experts."""
    way, ranks = found
    if way != "zero2":
        from rft.loading.placement import PASSES_TRAIN

        for rank in ranks:
            got = rank["resident"]
            times = got["step_gathers"]["torch.uint8"] / got["forward_gathers"]["torch.uint8"]
            assert 2 <= times <= PASSES_TRAIN


def test_several_dtypes_in_one_gather(found):
    """DeepSpeed's own coalesced gather reads all parameters of a call in the dtype of the first."""
    way, ranks = found
    if way == "zero3":
        assert all(rank["mixed_gather"] == {"as_it_is": False, "each_dtype": True} for rank in ranks)


def test_one_ranks_damaged_checkpoint_is_every_ranks_error(found):
    way, ranks = found
    if way == "zero3":
        assert "truncated within" in ranks[0]["failure"] and "rank 1" in ranks[0]["failure"]
        assert "model.safetensors: truncated within" in ranks[1]["failure"]


def test_the_benchmark_runs(tmp_path):
    """Small, two ways, two ranks: every section, and the numbers as JSON at the end."""
    command = [sys.executable, str(ROOT / "benchmarks" / "loading.py"), "--small", "--gather-ranks", "2", "--json"]
    command += ["--tokens", "16", "--ways", "dequantised", "resident"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["one"].keys() == found["ranks"].keys() == {"dequantised", "resident"}
    assert len(found["gathers"]) == 4 and len(found["holds"]) == 4
