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


def digest(model: nn.Module) -> str:
    """sha256 over this rank's share of the frozen parameters and over all buffers, hex."""
    total = hashlib.sha256()
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    for name, tensor in [*frozen, *model.named_buffers()]:
        local = getattr(tensor, "ds_tensor", tensor).detach().to("cpu").contiguous().flatten()
        total.update(name.encode())
        total.update(local.view(torch.uint8).numpy())
    return total.hexdigest()


class BaseDigest:
    """Remembers the first digest of `model` and compares every later one with it."""

    def __init__(self, model: nn.Module, rank: int):
        self.model, self.rank = model, rank
        self.first = self._write(step=0)

    def _write(self, step: int) -> str:
        value = digest(self.model)
        path = os.path.join(metrics_file.folder(), "base_digest.jsonl")
        metrics_file.append(path, {"step": step, "rank": self.rank, "digest": value})
        return value

    def check(self, step: int) -> None:
        """raises RftError if the base changed since the start"""
        if self._write(step) != self.first:
            raise RftError(f"actor rank {self.rank}: frozen base weights changed by step {step}; this run is invalid")
