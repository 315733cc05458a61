"""Keep rotary frequencies in fp32 through ``deepspeed.initialize``.

DeepSpeed casts the whole module with ``module.bfloat16()`` (runtime/engine.py), buffers included.
``rotary_emb.inv_freq`` then has 8 bits of mantissa: at position 8,192 the fastest YaRN bands are off by more than a
turn, and the trainer scores other positions than the ones that vLLM generated at. Called by the patched strategy around
every ``initialize``.
"""

import torch
from torch import nn


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the rotary buffers of `model`, by the tail of their module path ("...rotary_emb.inv_freq")."""
    return {name: buffer.detach().clone() for name, buffer in _rotary_buffers(model)}


def restore(engine: nn.Module, saved: dict[str, torch.Tensor]) -> None:
    """Put the saved fp32 values back, on the device where the cast buffers now live.

    raises  RuntimeError if a saved buffer has no counterpart: a renamed module must not pass in silence
    """
    modules = dict(engine.named_modules())
    for name, value in saved.items():
        path = name.rpartition(".")[0]
        tail = path.removeprefix("model.")  # Actor wraps the model that the engine holds as `module`
        owner = next((m for p, m in modules.items() if p.removeprefix("module.") in (path, tail)), None)
        if owner is None:
            raise RuntimeError(f"rotary buffer {name} not found after deepspeed.initialize")
        owner.inv_freq = value.to(owner.inv_freq.device)


def _rotary_buffers(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, buffer) for name, buffer in model.named_buffers() if name.rpartition(".")[2] == "inv_freq"]
