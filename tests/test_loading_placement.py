"""The arithmetic of placements against published figures, real checkpoints and exhaustive counting."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import pytest
from loading_kit import SMALL, small  # noqa: F401

from rft.errors import RftError
from rft.loading import placement
from rft.loading.placement import FORMS, GPT_OSS_20B, GPT_OSS_120B, Geometry, place
from rft.loading.shards import Checkpoint
from rft.loading.stream import load_model


def test_published_sizes():
    assert round(GPT_OSS_20B.parameters / 1e9, 3) == 20.915 and round(GPT_OSS_120B.parameters / 1e9, 3) == 116.829
    sizes = [placement.model_bytes(g, form) / 1e9 for g in (GPT_OSS_20B, GPT_OSS_120B) for form in FORMS]
    assert [round(size, 2) for size in sizes] == [13.76, 41.83, 65.25, 233.66]
    assert GPT_OSS_120B.lora_parameters(64) == 47_775_744 and GPT_OSS_20B.lora_parameters(32) == 15_925_248


def test_sizes_are_those_of_a_real_checkpoint_and_of_the_loaded_model(small):
    geometry = Geometry.of_config(json.loads((small / "config.json").read_text()))
    assert placement.model_bytes(geometry, "resident") == Checkpoint(small).nbytes
    model = load_model(str(small), "eager", quiet=True)
    assert geometry.parameters == sum(p.numel() for p in model.parameters())
    assert placement.model_bytes(geometry, "dequantised") == sum(p.nbytes for p in model.parameters())


def test_ranks_share_what_whole_holds():
    for form in FORMS:
        whole = place(GPT_OSS_120B, "whole", form, 4, tokens=4096)
        shared = place(GPT_OSS_120B, "zero3", form, 4, tokens=4096)
        assert shared.held_bytes * 4 == whole.held_bytes == placement.model_bytes(GPT_OSS_120B, form)
        assert whole.pass_bytes == whole.transient_bytes == 0
        assert shared.pass_bytes == whole.held_bytes * 3 // 4  # a rank has a quarter of every layer already


def test_one_rank_moves_nothing():
    for name in placement.PLACEMENTS:
        placed = place(GPT_OSS_20B, name, "resident", 1, tokens=4096)
        assert placed.step_bytes == placed.transient_bytes == 0
        assert placed.held_bytes == placement.model_bytes(GPT_OSS_20B, "resident")


def test_a_step_is_its_passes_and_the_adapters_gradient():
    one = place(GPT_OSS_20B, "zero3", "resident", 4, tokens=4096, micro_batches=5)
    lora = 2 * GPT_OSS_20B.lora_parameters(32) * 2 * 3 // 4
    assert one.step_bytes == 15 * one.pass_bytes + lora


def test_resident_experts_gather_3_76_times_fewer_bytes_than_bf16():
    bare = {form: placement.expert_layer_bytes(GPT_OSS_120B, form) - GPT_OSS_120B.expert_biases * 2 for form in FORMS}
    assert bare["dequantised"] / bare["resident"] == pytest.approx(16 / 4.25)


def test_tokens_that_travel_are_counted_right():
    """Every choice of 3 of 8 experts on 4 ranks, by hand, for a token of rank 0."""
    geometry = replace(GPT_OSS_20B, experts=8, top_k=3)
    visits = [len({expert // 2 for expert in chosen} - {0}) for chosen in combinations(range(8), 3)]
    wanted = 2 * (sum(visits) / len(visits)) * geometry.hidden * 2 * 1000
    assert placement.expert_parallel_layer_bytes(geometry, 4, tokens=1000) == pytest.approx(wanted, abs=1)


def test_break_even_is_where_both_move_the_same():
    tokens = placement.break_even_tokens(GPT_OSS_120B, "resident", 4)
    gathered = placement.expert_layer_bytes(GPT_OSS_120B, "resident") * 3 // 4
    assert placement.expert_parallel_layer_bytes(GPT_OSS_120B, 4, tokens) == pytest.approx(gathered, rel=1e-3)
    assert placement.break_even_tokens(GPT_OSS_120B, "dequantised", 4) > 3 * tokens


def test_choice():
    gpu, working = int(80e9), int(12e9)
    assert placement.choose(GPT_OSS_20B, "resident", 4, gpu, working, 4096).placement == "whole"
    assert placement.choose(GPT_OSS_120B, "resident", 4, gpu, int(20e9), 8192).placement == "zero3"
    assert placement.choose(GPT_OSS_120B, "resident", 4, gpu, working, 4096).placement == "whole"
    assert placement.choose(GPT_OSS_120B, "dequantised", 4, gpu, int(20e9), 8192) is None


def test_what_it_refuses():
    with pytest.raises(RftError, match="placement 'zero2'"):
        place(GPT_OSS_20B, "zero2", "resident", 4, 1)
    with pytest.raises(RftError, match="experts 'bf16'"):
        place(GPT_OSS_20B, "zero3", "bf16", 4, 1)
    with pytest.raises(RftError, match="ranks 0"):
        place(GPT_OSS_20B, "zero3", "resident", 0, 1)
    with pytest.raises(RftError, match="32 experts"):
        place(GPT_OSS_20B, "expert_parallel", "resident", 3, 1)
    with pytest.raises(RftError, match="no head_dim"):
        Geometry.of_config({name: 1 for name in SMALL.__dataclass_fields__ if name != "head_dim"})


def test_it_needs_no_torch():
    modules = "rft.loading.placement, rft.loading.shards, rft.loading.digests"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
