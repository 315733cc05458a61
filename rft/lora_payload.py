"""What travels from the trainer to the engines at a sync, and what each tensor-parallel rank makes of it.

Packed by the trainer's rank 0 (`rft.lora_sync`), unpacked by vLLM's workers (`rft.engine_lora`); both cut shards with
the same function, so that the trainer can say which digest each engine rank must come to hold. The payload is a
safetensors buffer: a table of names, shapes, dtypes and offsets, then the bytes. ``bytes`` is what survives vLLM's
``collective_rpc``; arrays and tensors arrive as lists without their data.

Shapes, for one layer: r LoRA rank, D hidden size, Q/K/V output rows of the projections, all of them before tensor
parallelism. A is (r, in), B is (out, r); y += scaling * (x A^T) B^T.
"""

import hashlib
import re
from dataclasses import asdict, dataclass

import torch

PROJECTIONS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "o_proj": ("o_proj",)}
NAME = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn\.([qkvo]_proj)\.lora_([AB])\.weight$")


@dataclass(frozen=True)
class Geometry:
    """Attention shapes of the model and how many engine ranks share them."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    lora_rank: int
    tp_size: int

    @classmethod
    def of(cls, config, lora_rank: int, tp_size: int) -> "Geometry":
        """From a transformers configuration of gpt-oss.

        raises  ValueError if heads do not divide over the engine's ranks (KV heads may be fewer: they are replicated)
        """
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        if heads % tp_size or (kv_heads % tp_size and tp_size % kv_heads):
            raise ValueError(f"{heads} heads, {kv_heads} KV heads do not divide over {tp_size} tensor-parallel ranks")
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(config.num_hidden_layers, config.hidden_size, heads, kv_heads, head_dim, lora_rank, tp_size)

    def rows(self, projection: str, rank: int) -> slice:
        """Rows of B (q, k, v) or columns of A (o) that engine rank `rank` holds."""
        if projection in ("q_proj", "o_proj"):
            size = self.heads // self.tp_size * self.head_dim
            return slice(rank * size, (rank + 1) * size)
        shared = max(1, self.tp_size // self.kv_heads)  # this many ranks hold the same KV head
        size = max(1, self.kv_heads // self.tp_size) * self.head_dim
        return slice(rank // shared * size, (rank // shared + 1) * size)

    def expected(self, projection: str) -> dict[str, tuple[int, int]]:
        """Shapes of A and B, whole."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        inner = wide if projection == "o_proj" else self.hidden
        outer = {"q_proj": wide, "k_proj": narrow, "v_proj": narrow, "o_proj": self.hidden}[projection]
        return {"A": (self.lora_rank, inner), "B": (outer, self.lora_rank)}


def pack(tensors: dict[str, torch.Tensor], version: int, scaling: float, geometry: Geometry) -> bytes:
    """A payload of the adapter's tensors (PEFT's on-disk names), whole and on the CPU."""
    from safetensors.torch import save

    meta = {"version": version, "scaling": scaling, **asdict(geometry)}
    return save({k: v.contiguous() for k, v in tensors.items()}, {k: repr(v) for k, v in meta.items()})


def unpack(payload: bytes) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The payload's metadata and tensors.

    raises  ValueError if it is cut short or otherwise no safetensors buffer
    """
    import json
    import struct

    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(payload)
        (length,) = struct.unpack("<Q", payload[:8])
        raw = json.loads(payload[8 : 8 + length])["__metadata__"]
    except (SafetensorError, struct.error, KeyError, ValueError) as error:
        raise ValueError(f"adapter payload of {len(payload)} bytes is damaged: {error}") from error
    return {key: float(value) if "." in value or "e" in value else int(value) for key, value in raw.items()}, tensors


def by_layer(tensors: dict[str, torch.Tensor], geometry: Geometry) -> dict[tuple[int, str, str], torch.Tensor]:
    """Tensors by (layer, projection, "A" or "B").

    raises  ValueError for a name that is no attention projection, a layer out of range, a wrong shape or half a pair
    """
    found: dict[tuple[int, str, str], torch.Tensor] = {}
    for name, tensor in tensors.items():
        match = NAME.search(name)
        if match is None:
            raise ValueError(f"{name} is no LoRA tensor of an attention projection (q_proj, k_proj, v_proj, o_proj)")
        layer, projection, kind = int(match[1]), match[2], match[3]
        wanted = geometry.expected(projection)[kind]
        if layer >= geometry.layers or tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected {wanted} in one of {geometry.layers} layers"
            )
        found[layer, projection, kind] = tensor
    for layer, projection, kind in found:
        if (layer, projection, "B" if kind == "A" else "A") not in found:
            raise ValueError(f"layer {layer} {projection}: A or B is missing")
    return found


def shard(found: dict, geometry: Geometry, layer: int, module: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What engine rank `rank` holds for a layer's `module` ("qkv_proj" or "o_proj"): A stacked, B stacked.

    returns  (n*r, in_local) and (out_local, r), n = 3 for qkv_proj, 1 for o_proj; zeros for a projection without LoRA
    """
    stacked_a, stacked_b = [], []
    for projection in PROJECTIONS[module]:
        shapes, part = geometry.expected(projection), geometry.rows(projection, rank)
        a, b = (found.get((layer, projection, kind)) for kind in "AB")
        a = torch.zeros(shapes["A"], dtype=torch.bfloat16) if a is None else a
        b = torch.zeros(shapes["B"], dtype=torch.bfloat16) if b is None else b
        stacked_a.append(a[:, part] if projection == "o_proj" else a)
        stacked_b.append(b if projection == "o_proj" else b[part])
    return torch.cat(stacked_a), torch.cat(stacked_b)


def digest(parts: list[torch.Tensor]) -> str:
    """sha256 over the bytes of `parts` in order, hex; of what a rank *holds* when called on its live buffers."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.detach().to("cpu").contiguous().view(torch.uint8).numpy())
    return total.hexdigest()


def expected_digest(found: dict, geometry: Geometry, rank: int) -> str:
    """The digest that engine rank `rank` must report once it holds the adapter."""
    return digest(
        [t for layer in range(geometry.layers) for m in PROJECTIONS for t in shard(found, geometry, layer, m, rank)]
    )
