"""Sizes, terms and pools of the plan (rft/plan/): against what transformers builds and the published figures."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rft.errors import RftError
from rft.plan import actor, engine, node, seconds, tables
from rft.plan import constants as c
from rft.plan.activations import Shape, score_moments, scores, train_moments
from rft.plan.geometry import PROJECTIONS, find, from_config
from rft.plan.setting import Setting
from rft.plan.terms import KEPT_BLOCK, Pool, Term, total

ROOT = Path(__file__).resolve().parent.parent
SMALL = {
    "num_hidden_layers": 3,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 300,
    "sliding_window": 8,
}


def setting(model="120b", **fields) -> Setting:
    given = {
        "geometry": find(model),
        "ranks": 4,
        "engines": 2,
        "tensor_parallel": 2,
        "prompt_tok": 1024,
        "answer_tok": 3072,
        "prompts": 8,
        "samples": 8,
        "train_batch": 8,
        "micro_train": 1,
        "micro_rollout": 1,
        "lora_rank": 64,
        "targets": PROJECTIONS,
        "utilisation": 0.85,
        "gpu_bytes": 80 << 30,
    }
    return Setting(**{**given, **fields})


def test_published_sizes():
    """engine-facts 4, and what the source documents have wrong: 20b dequantised is no 84 GB, 120b MXFP4 no 30 GB."""
    small, large = find("20b"), find("openai/gpt-oss-120b")
    assert [round(g.parameters / 1e9, 3) for g in (small, large)] == [20.915, 116.829]
    assert [round(g.mxfp4_bytes / 1e9, 2) for g in (small, large)] == [13.76, 65.25]
    assert [round(g.bf16_bytes / 1e9, 1) for g in (small, large)] == [41.8, 233.7]
    assert [round(2 * g.attention_weights / 1e9, 3) for g in (small, large)] == [1.274, 1.911]
    assert [g.targeted_parameters(32) for g in (small, large)] == [15_925_248, 23_887_872]
    assert 2 * large.targeted_parameters(64) == 95_551_488


def test_active_parameters_are_the_published_ones():
    """3.6 B and 5.1 B a token, as the model card says."""
    assert [round(find(name).active_parameters / 1e9, 1) for name in ("20b", "120b")] == [3.6, 5.1]


def test_geometry_is_what_transformers_builds(tmp_path):
    import torch
    from transformers import GptOssConfig, GptOssForCausalLM

    from rft.tiny.model import save_checkpoint

    config = GptOssConfig(**SMALL)
    model = GptOssForCausalLM(config)
    g = from_config(SMALL, "small")
    assert g.parameters == sum(p.numel() for p in model.parameters())
    layer = model.model.layers[0].mlp.experts
    assert g.experts_module_bytes("dequantised") == 2 * sum(p.numel() for p in layer.parameters())

    save_checkpoint(model.to(torch.bfloat16), config, tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    header = int.from_bytes(data[:8], "little")
    assert g.mxfp4_bytes == len(data) - 8 - header
    assert find(str(tmp_path)).parameters == g.parameters


def test_adapter_parameters_are_pefts():
    from peft import LoraConfig, get_peft_model
    from transformers import GptOssConfig, GptOssForCausalLM

    g = from_config(SMALL, "small")
    for targets in (PROJECTIONS, ("q_proj", "o_proj")):
        model = GptOssForCausalLM(GptOssConfig(**SMALL))
        peft = get_peft_model(model, LoraConfig(r=4, target_modules=list(targets)))
        assert g.targeted_parameters(4, targets) == sum(p.numel() for p in peft.parameters() if p.requires_grad)
    with pytest.raises(RftError, match=r"gate_up_proj.*leave it out"):
        g.targeted_parameters(4, ("gate_up_proj",))


def test_a_window_bounds_the_cache():
    g = from_config(SMALL, "small")  # layers 0 and 2 slide
    assert g.kv_bytes(4) == 2 * 2 * 32 * 3 * 4
    assert g.kv_bytes(100) == 2 * 2 * 32 * (100 + 2 * 8)


@pytest.mark.parametrize("broken", [{"model_type": "llama"}, {"num_hidden_layers": None}])
def test_other_checkpoints_are_refused(tmp_path, broken):
    config = {key: value for key, value in {**SMALL, **broken}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RftError, match="gpt"):
        find(str(tmp_path))
    with pytest.raises(RftError, match="--model nowhere"):
        find("nowhere")


def test_the_peak_is_the_fullest_moment():
    pool = Pool("p", limit=100)
    pool.add(Term("base", 50))
    pool.at("a", Term("x", 30), Term("y", 5))
    pool.at("b", Term("x", 20), Term("y", 10))
    assert (pool.peak, pool.fullest, pool.fits, pool.largest.name) == (85, "a", True, "base")
    pool.at("c", Term("z", 51))
    assert (pool.peak, pool.fullest, pool.fits, pool.largest.name) == (101, "c", False, "z")
    assert total(pool.terms()) == pool.peak


def test_a_heap_keeps_small_blocks():
    """Big blocks of one moment and small ones of another add up, and a share of the small ones is lost to holes."""
    pool = Pool("p", kept_share=0.5)
    pool.at("a", Term("big", 4 * KEPT_BLOCK, 2 * KEPT_BLOCK), Term("small", 100))
    pool.at("b", Term("small", 1000, 10))
    assert pool.peak == 4 * KEPT_BLOCK + 1000 + 500
    assert total(pool.terms()) == pool.peak


def test_eager_scores_grow_with_the_square_and_others_do_not():
    g = find("120b")
    worst = {
        kind: [
            max(map(total, train_moments(g, Shape(1, tokens, 64, attention=kind, logprobs="chunked")).values()))
            for tokens in (4096, 8192)
        ]
        for kind in ("eager", "flex")
    }
    assert scores(g, Shape(1, 4096, 64)) == 2 * 64 * 4096 * 4097
    assert worst["eager"][1] > 3.5 * worst["eager"][0]
    assert worst["flex"][1] < 2.1 * worst["flex"][0]


def test_chunked_logprobs_do_not_grow_with_the_vocabulary_times_length():
    g = find("20b")
    full, chunked = (
        total(train_moments(g, Shape(1, 8192, 8, logprobs=kind))["logits"]) for kind in ("full", "chunked")
    )
    assert full - chunked > 8192 * g.vocabulary * 4


def test_scoring_takes_less_than_training():
    g = find("20b")
    for shape in (Shape(1, 4096, 8), Shape(4, 512, 8, gpu=False), Shape(1, 2048, 8, checkpointing=False)):
        score, train = (max(map(total, of(g, shape).values())) for of in (score_moments, train_moments))
        assert score < train


def test_the_whole_120b_does_not_pass_through_one_gpu():
    """What `deepspeed.initialize` does with a model that was not partitioned while it was built."""
    planned = node.plan(setting(offload=True, adam_offload=True))
    gpu = planned.worst
    assert not planned.fits and gpu.fullest == "deepspeed.initialize"
    assert gpu.largest.bytes == find("120b").bf16_bytes
    assert node.plan(setting(offload=True, adam_offload=True, streamed=True)).fits


def test_resident_experts_need_no_offload():
    for model in ("20b", "120b"):
        planned = node.plan(setting(model, experts="resident", streamed=True))
        held = next(term for term in planned.pools[0].terms() if term.name == "base weights")
        assert planned.fits and held.bytes == -(-find(model).mxfp4_bytes // 4)


def test_host_memory_of_whole_copies():
    """4 x 233.7 GB = 935 GB, as engine-facts 7 says; streamed with offload: one copy."""
    always, loading = actor.host_terms(setting(offload=True, adam_offload=True))
    copies = [t for t in [*always, *loading] if t.name in ("offloaded base weights", "whole copies while loading")]
    assert total(copies) == 4 * find("120b").bf16_bytes
    host = node.host(setting(offload=True, adam_offload=True, streamed=True))
    assert find("120b").bf16_bytes < host.peak < 1.3 * find("120b").bf16_bytes


def test_the_engine_needs_room_for_one_sequence():
    room = engine.cache(setting())
    assert room.sequences > 100 and engine.gpu(setting()).fits
    tight = setting(gpu_bytes=40 << 30)
    assert engine.cache(tight).sequences < 1 and not engine.gpu(tight).fits
    assert engine.weight_bytes(setting(tensor_parallel=1)) < 1.03 * find("120b").mxfp4_bytes


def test_a_sleeping_engine_gives_its_memory_back():
    fields = {"ranks": 1, "engines": 1, "tensor_parallel": 1, "colocated": True, "experts": "resident"}
    shared = setting("20b", streamed=True, utilisation=0.4, **fields)
    awake, sleeping = (node.shared_gpu(shared.changed(sleeps=sleeps)).peak for sleeps in (False, True))
    assert awake > sleeping + 10e9
    assert node.host(shared.changed(sleeps=True)).peak > node.host(shared).peak + 12e9


def test_the_step_is_as_slow_as_its_weights():
    """Offloaded bf16 goes over PCIe once a pass; resident experts do not."""
    offload = seconds.phases(setting(offload=True, adam_offload=True))
    resident = seconds.phases(setting(experts="resident", streamed=True))
    assert offload["train"] > 3 * resident["train"] and offload["generate"] == resident["generate"]
    assert seconds.phases(setting(cpu=True)) == {}
    longer = seconds.phases(setting(reference_passes=True))
    assert longer["old_logprob"] == pytest.approx(2 * seconds.phases(setting())["old_logprob"])


def test_checkpoint_bytes():
    found = node.disk(setting(max_ckpt_num=3))
    assert found["adapter"] == 95_551_488 and found["resume state"] == 6 * found["adapter"]
    assert found["checkpoints kept"] == 4 * found["one checkpoint"]


def test_constants_are_the_libraries_own():
    """DeepSpeed's defaults by its own source, the resident chunk by its module."""
    import importlib.util

    from rft.resident.products import CHUNK_EXPERTS

    folder = Path(next(iter(importlib.util.find_spec("deepspeed").submodule_search_locations)))
    source = (folder / "runtime" / "zero" / "config.py").read_text()

    def default(name: str) -> float:
        return float(re.search(rf"{name}: int = Field\(pp_int\(([0-9e]+)\)", source).group(1))

    assert default("max_live_parameters") == default("max_reuse_distance") == c.MAX_LIVE_PARAMETERS
    assert default("prefetch_bucket_size") == c.PREFETCH_ELEMENTS
    assert default("reduce_bucket_size") == c.REDUCE_BUCKET_ELEMENTS
    assert CHUNK_EXPERTS == c.RESIDENT_CHUNK_EXPERTS
    assert "self.module.to(self.device)" in (folder / "runtime" / "engine.py").read_text()


def test_help_imports_nothing_heavy():
    code = "import sys; from rft.plan.cli import parser; parser().format_help()\n"
    code += "import rft.plan.tables, rft.plan.advice, rft.plan.calibrate\n"
    code += "print(sorted({'torch', 'numpy', 'datasets', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_tables_in_the_documents_are_printed_ones():
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    assert tables.sizes() in text
