#!/usr/bin/env python
"""A gpt-oss checkpoint of any size with random weights: MXFP4 experts, the rest bf16, several shards and their index.

    python benchmarks/synthetic_model.py OUT                       # about 1 GB
    python benchmarks/synthetic_model.py OUT --like 20b --layers 1

For measuring memory and time: every trait that decides them is gpt-oss's (names, dtypes, layouts, sinks, sliding and
full layers, YaRN), the values mean nothing. One layer is in memory at a time. The same seed gives the same bytes.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where rft is not installed

YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}


@dataclass(frozen=True)
class Shape:
    """Entries of config.json that decide sizes."""

    num_hidden_layers: int
    num_local_experts: int
    num_experts_per_tok: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    sliding_window: int = 128


GB = Shape(8, 32, 4, 1440, 1440, 16, 4, 64, 20_480)  # 1.03 GB of MXFP4 checkpoint, 3.4 GB of bf16
REAL = {
    "20b": Shape(24, 32, 4, 2880, 2880, 64, 8, 64, 201_088),
    "120b": Shape(36, 128, 4, 2880, 2880, 64, 8, 64, 201_088),
}


def make(folder: Path, shape: Shape = GB, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`, which must not exist; returns it."""
    import torch
    from safetensors.torch import save_file

    from rft.dequantise import INDEX_NAME

    folder = Path(folder)
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    shards = shape.num_hidden_layers + 1
    weight_map, total = {}, 0
    for index in range(shards):
        tensors = _outside(shape, generator) if index == 0 else _layer(shape, index - 1, generator)
        name = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
    (folder / "config.json").write_text(json.dumps(_config(shape), indent=1, sort_keys=True) + "\n")
    (folder / "tokenizer.json").write_text("{}\n")  # its loaders look for one; nothing here is text
    return folder


def _config(shape: Shape) -> dict:
    from rft.tiny.model import QUANTIZATION_CONFIG

    layers = ["sliding_attention", "full_attention"] * shape.num_hidden_layers
    return asdict(shape) | {
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "dtype": "bfloat16",
        "attention_bias": True,
        "tie_word_embeddings": False,
        "layer_types": layers[: shape.num_hidden_layers],
        "rope_theta": 150000.0,
        "rope_scaling": YARN | {"original_max_position_embeddings": 4096},
        "max_position_embeddings": 131072,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "quantization_config": QUANTIZATION_CONFIG,
    }


def _outside(shape: Shape, generator) -> dict:
    width = (shape.vocab_size, shape.hidden_size)
    return {
        "model.embed_tokens.weight": _normal(generator, *width),
        "lm_head.weight": _normal(generator, *width),
        "model.norm.weight": _normal(generator, shape.hidden_size) + 1,
    }


def _layer(shape: Shape, index: int, generator) -> dict:
    import torch

    hidden, experts = shape.hidden_size, shape.num_local_experts
    q, kv = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    tensors = {
        "input_layernorm.weight": _normal(generator, hidden) + 1,
        "post_attention_layernorm.weight": _normal(generator, hidden) + 1,
        "self_attn.sinks": _normal(generator, shape.num_attention_heads),
        "mlp.router.weight": _normal(generator, experts, hidden),
        "mlp.router.bias": _normal(generator, experts),
    }
    for name, rows, columns in (("q", q, hidden), ("k", kv, hidden), ("v", kv, hidden), ("o", hidden, q)):
        tensors[f"self_attn.{name}_proj.weight"] = _normal(generator, rows, columns)
        tensors[f"self_attn.{name}_proj.bias"] = _normal(generator, rows)
    products = (("gate_up_proj", 2 * shape.intermediate_size, hidden), ("down_proj", hidden, shape.intermediate_size))
    for name, rows, columns in products:
        byte = {"dtype": torch.uint8, "generator": generator}
        stem = f"mlp.experts.{name}"
        tensors[f"{stem}_blocks"] = torch.randint(0, 256, (experts, rows, columns // 32, 16), **byte)
        # codes' mean square is 8.6, so that 2**(120 - 127) gives weights of about 0.02
        tensors[f"{stem}_scales"] = torch.randint(119, 122, (experts, rows, columns // 32), **byte)
        tensors[f"{stem}_bias"] = _normal(generator, experts, rows)
    return {f"model.layers.{index}.{name}": tensor for name, tensor in tensors.items()}


def _normal(generator, *shape: int, std: float = 0.02):
    import torch

    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, std, generator=generator)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--like", choices=sorted(REAL), help="real geometry; default: a model of 1 GB")
    parser.add_argument("--layers", type=int, help="as many instead of the geometry's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    shape = REAL.get(args.like, GB)
    if args.layers:
        shape = replace(shape, num_hidden_layers=args.layers)
    if args.out.exists():
        print(f"error: {args.out} exists; remove it or name another folder", file=sys.stderr)
        return 2
    print(make(args.out, shape, args.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
