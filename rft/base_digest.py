"""Proof that the frozen base stays frozen.

Called by the patched ``PolicyModelActor`` on every ZeRO rank under ``--check_base_digest``: after the model is prepared
and at every save. Each rank hashes its own partition of every frozen parameter, and the buffers, and writes a line to
``base_digest.jsonl``; a change stops the run. Seconds on small models; a minute a save for 120b.
"""

import hashlib
import os

import torch
from torch import nn

from rft import metrics_file
from rft.errors import RftError


def _frozen(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if not p.requires_grad]


def _bytes(tensor: torch.Tensor):
    return tensor.detach().to("cpu").contiguous().flatten().view(torch.uint8).numpy()


def digest(model: nn.Module) -> str:
    """sha256 over this rank's share of the frozen parameters and over all buffers, hex."""
    total = hashlib.sha256()
    for name, tensor in [*_frozen(model), *model.named_buffers()]:
        total.update(name.encode())
        total.update(_bytes(getattr(tensor, "ds_tensor", tensor)))
    return total.hexdigest()


def live_digests(model: nn.Module) -> dict[str, str]:
    """sha256 of every frozen parameter that ZeRO-3 keeps whole on this rank (the small ones, after their first use).

    The forward reads these copies, not the partitions, so that they can go bad on their own.
    """
    whole = [(name, p) for name, p in _frozen(model) if hasattr(p, "ds_id") and p.numel() == p.ds_numel]
    return {name: hashlib.sha256(_bytes(p)).hexdigest() for name, p in whole}


class BaseDigest:
    """Remembers the first digest of `model` and compares every later one with it."""

    def __init__(self, model: nn.Module, rank: int):
        self.model, self.rank = model, rank
        self.live: dict[str, str] = {}
        self.first = self._write(step=0)

    def _write(self, step: int) -> str:
        value = digest(self.model)
        path = os.path.join(metrics_file.folder(), "base_digest.jsonl")
        metrics_file.append(path, {"step": step, "rank": self.rank, "digest": value})
        return value

    def check(self, step: int) -> None:
        """raises RftError if the base changed since the start"""
        live = live_digests(self.model)
        moved = [name for name, value in live.items() if self.live.setdefault(name, value) != value]
        if self._write(step) != self.first or moved:
            raise RftError(
                f"actor rank {self.rank}: frozen base weights changed by step {step} "
                f"({moved[0] if moved else 'in its partition'}); this run is invalid"
            )
