"""The tiny gpt-oss's geometry, and its checkpoint on disk with MXFP4 experts.

Every trait of the real model at about a million parameters: alternating sliding and full layers (the window of 16 is
shorter than the prompts), sinks, top-2 of 8 experts, grouped-query attention, YaRN, attention bias, an untied head,
MXFP4 blocks and scales on disk. head_dim 32 and the head counts suit vLLM's CPU attention at TP=2.
"""

import json
from pathlib import Path

import torch

from rft.mxfp4 import dequantise_expert, quantise_expert
from rft.tiny.tokenizer import VOCAB_SIZE

EXPERT_TENSORS = ("gate_up_proj", "down_proj")
QUANTIZATION_CONFIG = {
    "quant_method": "mxfp4",
    "modules_to_not_convert": [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ],
}


def build_config(eos_token_id: int, pad_token_id: int):
    """`GptOssConfig` of the tiny model (without the quantisation entry)."""
    from transformers import GptOssConfig

    return GptOssConfig(
        num_hidden_layers=4,
        num_local_experts=8,
        num_experts_per_tok=2,
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=64,
        head_dim=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=16,
        rope_theta=150000.0,
        rope_scaling={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 128,
        },
        max_position_embeddings=4096,
        initializer_range=0.05,
        router_aux_loss_coef=0.9,
        tie_word_embeddings=False,
        attention_bias=True,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        architectures=["GptOssForCausalLM"],
    )


def build_model(config):
    """A fresh float32 `GptOssForCausalLM` with eager attention, initialised from torch's global generator."""
    from transformers import GptOssForCausalLM

    config._attn_implementation = "eager"
    return GptOssForCausalLM(config)


def round_experts(model) -> None:
    """Replace every expert weight by the value that MXFP4 gives it back (in place, same dtype)."""
    with torch.no_grad():
        for layer in model.model.layers:
            for name in EXPERT_TENSORS:
                weight = getattr(layer.mlp.experts, name)
                weight.copy_(dequantise_expert(*quantise_expert(weight), dtype=torch.float32))


def save_checkpoint(model, config, folder: Path) -> None:
    """Write config.json, generation_config.json and model.safetensors with MXFP4 experts and bf16 for the rest."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith(EXPERT_TENSORS):
            tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = quantise_expert(tensor)
        else:
            tensors[name] = tensor.to(torch.bfloat16).contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    entries = config.to_dict() | {"dtype": "bfloat16", "quantization_config": QUANTIZATION_CONFIG}
    entries.pop("_attn_implementation_autoset", None)
    (folder / "config.json").write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def save_generation_config(tokenizer, folder: Path) -> None:
    """Stop at <|return|>, <|call|> or <|endoftext|>, as gpt-oss does; sampling by default."""
    ids = tokenizer.convert_tokens_to_ids
    entries = {
        "bos_token_id": ids("<|startoftext|>"),
        "do_sample": True,
        "eos_token_id": [ids("<|return|>"), ids("<|endoftext|>"), ids("<|call|>")],
        "pad_token_id": ids("<|endoftext|>"),
    }
    (folder / "generation_config.json").write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")


def load_checkpoint(folder: Path, dtype: torch.dtype = torch.bfloat16):
    """The MXFP4 checkpoint dequantised on the CPU, as the trainer loads it."""
    from transformers import AutoModelForCausalLM, Mxfp4Config

    return AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=Mxfp4Config(dequantize=True),
        device_map="cpu",
        dtype=dtype,
        attn_implementation="eager",
    )
