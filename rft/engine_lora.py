"""The adapter inside a vLLM worker: a side path beside the attention projections, and its update.

Runs in every tensor-parallel rank of every engine. `attach` is called once by the plugin, between building the model
and loading its weights, so before any CUDA graph is captured; `apply_update` by the worker extension at each sync. The
side path adds s * (x A^T) B^T from static buffers to `qkv_proj` and `o_proj`. The base is never touched: no copy of it,
no product B A at a sync, no bf16 dead zone in which a small update disappears (merged into bf16, an update of lr 2e-5
arrives to 5 % at step 1). A rank's share of `o_proj` is a partial sum that rides on the layer's own all-reduce.
"""

import torch
from torch.nn import functional as F
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import LinearMethodBase

from rft import lora_payload
from rft.lora_payload import Geometry


class SidePath(LinearMethodBase):
    """A linear method that adds the adapter to the result of the layer's own method.

    Buffers on the layer: `rft_lora_a` (n*r, in), `rft_lora_b` (out, r); n LoRA pairs whose outputs stand one after the
    other, `rows` long each. The arithmetic is PEFT's: each product rounded to the activation's dtype, then scaled.
    """

    def __init__(self, layer: torch.nn.Module, inner: LinearMethodBase, rows: list[int], rank: int, scaling: float):
        self.inner, self.rows, self.rank, self.scaling = inner, rows, rank, scaling
        weight = layer.weight
        a = torch.zeros(len(rows) * rank, weight.shape[1], dtype=weight.dtype, device=weight.device)
        b = torch.zeros(sum(rows), rank, dtype=weight.dtype, device=weight.device)
        layer.register_buffer("rft_lora_a", a, persistent=False)
        layer.register_buffer("rft_lora_b", b, persistent=False)

    def create_weights(self, *args, **kwargs):
        return self.inner.create_weights(*args, **kwargs)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        self.inner.process_weights_after_loading(layer)

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        low = F.linear(x, layer.rft_lora_a)
        parts = [
            F.linear(low[..., i * self.rank : (i + 1) * self.rank], b)
            for i, b in enumerate(layer.rft_lora_b.split(self.rows))
        ]
        delta = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return self.inner.apply(layer, x, bias) + delta * self.scaling


def attach(model: torch.nn.Module, lora_rank: int, scaling: float) -> int:
    """Put a side path, all zero, on the attention projections of every layer; returns the number of layers."""
    layers = _attention_layers(model)
    for attention in layers:
        qkv = attention.qkv_proj
        rows = [qkv.num_heads * qkv.head_size, qkv.num_kv_heads * qkv.head_size, qkv.num_kv_heads * qkv.head_size]
        qkv.quant_method = SidePath(qkv, qkv.quant_method, rows, lora_rank, scaling)
        out = attention.o_proj
        out.quant_method = SidePath(out, out.quant_method, [out.output_size], lora_rank, scaling)
    return len(layers)


def apply_update(model: torch.nn.Module, payload: bytes) -> dict:
    """Take an adapter into the live buffers; what this rank holds afterwards.

    payload  as `rft.lora_payload.pack` makes it
    returns  ``{"rank", "tp_size", "version", "digest"}``, the digest computed from the buffers, not from the payload
    raises   ValueError, and changes nothing, if the payload is damaged or does not fit this engine
    """
    rank, tp_size = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
    meta, tensors = lora_payload.unpack(payload)
    geometry = Geometry(**{name: int(meta[name]) for name in Geometry.__dataclass_fields__})
    layers = _attention_layers(model)
    if not layers or not isinstance(layers[0].qkv_proj.quant_method, SidePath):
        raise ValueError("this engine has no side path for adapters: was it started with --vllm_sync_with_ray?")
    method = layers[0].qkv_proj.quant_method
    ours = (len(layers), tp_size, method.rank, method.scaling)
    theirs = (geometry.layers, geometry.tp_size, geometry.lora_rank, float(meta["scaling"]))
    if ours != theirs:
        raise ValueError(f"engine has (layers, TP, LoRA rank, scaling) {ours}, the adapter is for {theirs}")

    found = lora_payload.by_layer(tensors, geometry)
    new = [
        (getattr(attention, module), lora_payload.shard(found, geometry, index, module, rank))
        for index, attention in enumerate(layers)
        for module in lora_payload.PROJECTIONS
    ]
    for layer, (a, b) in new:
        if layer.rft_lora_a.shape != a.shape or layer.rft_lora_b.shape != b.shape:
            raise ValueError(f"{layer.prefix}: the adapter's shard does not have the shape of the engine's buffers")
    for layer, (a, b) in new:  # in place: CUDA graphs and compiled code hold these addresses
        layer.rft_lora_a.copy_(a)
        layer.rft_lora_b.copy_(b)
    held = [buffer for layer, _ in new for buffer in (layer.rft_lora_a, layer.rft_lora_b)]
    return {"rank": rank, "tp_size": tp_size, "version": int(meta["version"]), "digest": lora_payload.digest(held)}


def _attention_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Modules with `qkv_proj` and `o_proj`, in layer order."""
    return [module for module in model.modules() if hasattr(module, "qkv_proj") and hasattr(module, "o_proj")]
