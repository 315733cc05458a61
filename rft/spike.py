"""Which prompts were in an optimizer step whose gradient spiked.

Called by the patched ``ActorPPOTrainer`` on every ZeRO rank. A step beyond the threshold, or one that is not finite,
becomes a line of ``spike_log.jsonl`` from each rank, with the hashes of that rank's prompts; `prompt_hash` of a prompt
of the data set (after the chat template) gives the same hash.
"""

import hashlib
import math
import os
import time

import torch

from rft import metrics_file


def prompt_hash(prompt: str) -> str:
    """16 hex digits of the prompt's text, as it stood before the response, special tokens included."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def path() -> str:
    """``$SPIKE_LOG_PATH``, or ``spike_log.jsonl`` among the metrics."""
    return os.environ.get("SPIKE_LOG_PATH") or os.path.join(metrics_file.folder(), "spike_log.jsonl")


class SpikeLog:
    """Collects the prompts of one optimizer step at a time.

    threshold  2-norm of the whole gradient before clipping
    """

    def __init__(self, threshold: float, tokenizer):
        self.threshold, self.tokenizer = threshold, tokenizer
        self.optimizer_step = 0
        self.prompts: list[torch.Tensor] = []
        self.ratios: list = []

    def add(self, sequences: torch.Tensor, action_mask: torch.Tensor, ratio) -> None:
        """One micro-batch: sequences (B, S), action_mask (B, S-1) 1 = sampled token, its `RatioStats`."""
        for row, mask in zip(sequences, action_mask, strict=True):
            if mask.any():
                self.prompts.append(row[: int(mask.int().argmax()) + 1].cpu())
        self.ratios.append(ratio)

    def end_step(self, grad_norm) -> None:
        """Close the optimizer step; writes a line if its gradient spiked."""
        norm = float(grad_norm)
        self.optimizer_step += 1
        if norm > self.threshold or not math.isfinite(norm):
            metrics_file.append(path(), self.record(norm))
        self.prompts, self.ratios = [], []

    def record(self, norm: float) -> dict:
        texts = [self.tokenizer.decode(ids, skip_special_tokens=False) for ids in self.prompts]
        keys = ("log_ratio_raw_max", "log_ratio_max", "ratio_max", "log_ratio_abs_p99")
        distributed = torch.distributed.is_initialized()
        return {
            "time": time.time(),
            "optimizer_step": self.optimizer_step,
            "rank": torch.distributed.get_rank() if distributed else 0,
            "grad_norm": norm,
            "threshold": self.threshold,
            "prompt_hashes": sorted({prompt_hash(text) for text in texts}),
            **{key: max((getattr(r, key) for r in self.ratios), default=None) for key in keys},
        }
