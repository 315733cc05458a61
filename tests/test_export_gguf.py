"""`rft export --format gguf` and `gguf-lora`, loaded by llama.cpp itself where llama-cpp-python is installed."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import datetime
import json
import re

import export_kit as kit
import numpy as np
import pytest
import torch
from tiny_plan import tiny_dir  # noqa: F401
from transformers import AutoTokenizer

from rft.checkpoint import verify
from rft.errors import RftError
from rft.export import adapter as adapters
from rft.export import base as bases
from rft.export import gguf_adapter, gguf_model, modelfile
from rft.export.gguf_file import repack
from rft.mxfp4 import dequantise
from rft.tiny.model import load_checkpoint

CHAT = [{"role": "user", "content": "What is 17 + 25?"}]


@pytest.fixture(scope="module")
def model(tiny_dir):
    return tiny_dir / "model"


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    options = {"rank_pattern": {"o_proj": 4}, "alpha_pattern": {"v_proj": 5}}  # scalings that differ by target
    return kit.make_adapter(model, tmp_path_factory.mktemp("adapter") / "final", **options)


def export(adapter, model, out, **options):
    found = adapters.read(adapter)
    base = bases.find(found, str(model))
    return gguf_model.export(found, base, out, **options)


def tensors(path) -> dict:
    from gguf import GGUFReader

    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def test_the_library_reads_back_the_merged_values(model, adapter, tmp_path):
    """Experts bit for bit as in the checkpoint, though gate and up are apart and the nibbles lie otherwise."""
    from gguf.quants import dequantize

    facts = {"recipe": {"prompt_max_len": "64", "generate_max_len": "32"}}
    export(adapter, model, tmp_path / "out", facts=facts)
    found = tensors(tmp_path / "out" / "model.gguf")
    wanted = kit.merged_in_memory(model, adapter).state_dict()

    def values(name):
        return torch.from_numpy(dequantize(found[name].data, found[name].tensor_type)).bfloat16()

    for layer in range(4):
        stem = f"model.layers.{layer}.mlp.experts"
        gate_up = wanted[f"{stem}.gate_up_proj"].transpose(1, 2)  # (E, out, in)
        assert torch.equal(values(f"blk.{layer}.ffn_gate_exps.weight"), gate_up[:, 0::2])
        assert torch.equal(values(f"blk.{layer}.ffn_up_exps.weight"), gate_up[:, 1::2])
        down = wanted[f"{stem}.down_proj"].transpose(1, 2)
        assert torch.equal(values(f"blk.{layer}.ffn_down_exps.weight"), down)
        assert torch.equal(values(f"blk.{layer}.ffn_up_exps.bias"), wanted[f"{stem}.gate_up_proj_bias"][:, 1::2])
        for theirs, ours in (("attn_q", "q_proj"), ("attn_output", "o_proj"), ("attn_k", "k_proj")):
            name = f"model.layers.{layer}.self_attn.{ours}.weight"
            assert torch.equal(values(f"blk.{layer}.{theirs}.weight"), wanted[name])
    assert len(found) == 3 + 4 * (13 + 6) and verify(tmp_path / "out") is None
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert "FROM ./model.gguf" in text and "PARAMETER num_ctx 96" in text and "PARAMETER num_predict 32" in text


def test_repacked_blocks_hold_the_same_values():
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    generator = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (6, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (6, 3), dtype=torch.uint8, generator=generator)
    theirs = dequantize(repack(blocks, scales).numpy(), GGMLQuantizationType.MXFP4)
    assert np.array_equal(theirs, dequantise(blocks, scales, torch.float32).numpy())


def test_expert_targets_are_merged_into_the_file_but_not_into_an_adapter(model, tmp_path):
    adapter = kit.make_adapter(
        model, tmp_path / "adapter", target_modules=[], target_parameters=["mlp.experts.down_proj"]
    )
    report = export(adapter, model, tmp_path / "out")
    assert len(report["requantised"]) == 4
    found = adapters.read(adapter)
    with pytest.raises(RftError, match=r"down_proj.*--format gguf"):
        gguf_adapter.export(found, bases.find(found, str(model)), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


# --- llama.cpp -----------------------------------------------------------------------------------------------------


def llama_log_probs(file, ids, **options):
    """(T, V) float64 log-probs of llama.cpp on one thread, with a float32 cache."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: llama.cpp was not asked")
    made = llama_cpp.Llama(
        str(file),
        n_ctx=128,
        logits_all=True,
        verbose=False,
        n_threads=1,
        n_threads_batch=1,
        type_k=0,
        type_v=0,
        **options,
    )
    made.eval(ids)
    scores = torch.tensor(np.array(made.scores[: len(ids)]), dtype=torch.float64)
    made.close()
    return scores.log_softmax(-1)


def reference(model, ids, wide: bool):
    """transformers' log-probs; wide: float32. With YaRN's bands rounded, as llama.cpp has them for every model."""
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

    model = model.float() if wide else model
    model.config.rope_scaling["truncate"] = True
    model.model.rotary_emb = GptOssRotaryEmbedding(model.config)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def gap(ours, theirs) -> float:
    """Mean over positions of the expected |Δ log p|, nats."""
    return float((theirs.exp() * (ours - theirs).abs()).sum(-1).mean())


@pytest.fixture(scope="module")
def ids(model):
    return AutoTokenizer.from_pretrained(model).apply_chat_template(CHAT, add_generation_prompt=True)


def test_in_float32_llama_cpp_computes_what_transformers_computes(model, adapter, ids, tmp_path):
    export(adapter, model, tmp_path / "wide", float32=True)
    merged = kit.merged_in_memory(model, adapter)
    assert gap(llama_log_probs(tmp_path / "wide" / "model.gguf", ids), reference(merged, ids, True)) < 1e-5


def test_as_exported_it_is_as_near_as_bf16_is_to_float32(model, adapter, ids, tmp_path):
    export(adapter, model, tmp_path / "out")
    exact = reference(kit.merged_in_memory(model, adapter), ids, True)
    rounded = reference(kit.merged_in_memory(model, adapter), ids, False)
    ours = llama_log_probs(tmp_path / "out" / "model.gguf", ids)
    assert gap(ours, exact) < 3 * gap(rounded, exact) + 0.002
    assert gap(ours, exact) < 0.1 * gap(reference(load_checkpoint(model), ids, True), exact)  # the base is far off


def test_the_adapter_alone_on_the_base_is_the_merged_model(model, adapter, ids, tmp_path):
    nothing = kit.make_adapter(model, tmp_path / "nothing", scale=0.0)
    export(nothing, model, tmp_path / "base", float32=True)
    found = adapters.read(adapter)
    gguf_adapter.export(found, bases.find(found, str(model)), tmp_path / "lora")
    base, lora = tmp_path / "base" / "model.gguf", tmp_path / "lora" / "adapter.gguf"
    # merged in float32, without the step to bf16 that an export takes
    from peft import PeftModel

    merged = PeftModel.from_pretrained(load_checkpoint(model).float(), adapter).merge_and_unload().eval()
    ours = llama_log_probs(base, ids, lora_path=str(lora))
    assert gap(ours, reference(merged, ids, True)) < 1e-5
    assert gap(llama_log_probs(base, ids), reference(merged, ids, True)) > 1e-3


def test_llama_cpp_cuts_text_into_the_same_tokens(model, adapter, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: llama.cpp was not asked")
    export(adapter, model, tmp_path / "out")
    made = llama_cpp.Llama(str(tmp_path / "out" / "model.gguf"), vocab_only=True, verbose=False)
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, tokenize=False)
    for text in (prompt, "日本 é 🙂\n\t", " 2 }} \\boxed{3}<|return|>", "What is  +  it"):
        ours = made.tokenize(text.encode(), add_bos=False, special=True)
        assert ours == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert made.token_eos() == tokenizer.eos_token_id
    assert made.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    made.close()


# --- Modelfile -----------------------------------------------------------------------------------------------------


def fill(template: str, messages: list[dict]) -> str:
    """Go's text/template as far as ours go: if/else if on .System and .Role, range, fields."""
    system = "".join(m["content"] for m in messages if m["role"] == "system")
    head, body, tail = re.fullmatch(
        r"(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)", template, re.S
    ).groups()
    head = re.sub(r"\{\{ if \.System \}\}(.*?)\{\{ end \}\}", lambda m: m[1] if system else "", head, flags=re.S)
    head = head.replace("{{ .System }}", system).replace("{{ currentDate }}", datetime.date.today().isoformat())
    parts = re.split(r"\{\{ (?:else )?if eq \.Role \"(\w+)\" \}\}", body)
    by_role = dict(zip(parts[1::2], parts[2::2], strict=True))
    said = [by_role.get(m["role"], "").replace("{{ .Content }}", m["content"]) for m in messages]
    return head + "".join(said) + tail


@pytest.mark.parametrize("roles", ["u", "su", "uau", "suauau"])
def test_the_go_template_says_what_the_chat_template_says(model, roles):
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": names[role], "content": f"{role}{number} {{x}}"} for number, role in enumerate(roles)]
    ours = fill(modelfile.template(modelfile.fragments(tokenizer)), messages)
    assert ours == tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def test_the_day_is_left_to_ollama_and_what_cannot_be_said_is_refused(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = tokenizer.chat_template
    tokenizer.chat_template = "Current date: {{ strftime_now('%Y-%m-%d') }}\n" + plain
    assert "Current date: {{ currentDate }}" in modelfile.template(modelfile.fragments(tokenizer))
    tokenizer.chat_template = plain.replace("message.content", "loop.index|string + message.content")
    with pytest.raises(RftError, match="by hand"):
        modelfile.fragments(tokenizer)


def test_stop_tokens_and_the_runs_numbers_are_parameters(model, adapter, tmp_path):
    found = adapters.read(adapter)
    facts = {"recipe": {"temperature": "0.7", "top_p": "0.9"}}
    gguf_adapter.export(found, bases.find(found, str(model)), tmp_path / "lora", facts)
    lines = (tmp_path / "lora" / "Modelfile").read_text().splitlines()
    assert "ADAPTER ./adapter.gguf" in lines and "PARAMETER temperature 0.7" in lines
    stops = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    names = AutoTokenizer.from_pretrained(model).convert_ids_to_tokens(stops)
    assert [line for line in lines if " stop " in line] == [f'PARAMETER stop "{name}"' for name in names]
