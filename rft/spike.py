"""The black box: what was in an optimizer step whose gradient spiked, and whether the step is taken.

Called by the patched ``ActorPPOTrainer`` on every ZeRO rank, in its training thread: `add` once a micro-batch, then,
before the weights move, the gate of rft/spike_gate.py asks `judge`; `end_step` closes the optimizer step. A spike
(rft/spike_rule.py) becomes a line of ``spike_log.jsonl`` from each rank, with the hashes of that rank's prompts, the
tail of its ratios and the tokens that pull hardest; its micro-batches go to ``spikes/`` beside it (rft/spike_dump.py).
Both are written before the run may stop. `prompt_hash` of a prompt of the data set (after the chat template) gives the
same hash. The norm and the verdict are the same on all ranks.
"""

import hashlib
import json
import math
import os
import time
from dataclasses import replace

import torch

from rft import lora_params, metrics_file, spike_dump, spike_tokens
from rft.errors import RftError
from rft.spike_rule import SpikeRule, Verdict

FILE, DUMPS = "spike_log.jsonl", "spikes"
WORST_TOKENS = 20
RATIO_KEYS = ("log_ratio_raw_max", "log_ratio_max", "ratio_max", "log_ratio_abs_p99")


def prompt_hash(prompt: str) -> str:
    """16 hex digits of the prompt's text, as it stood before the response, special tokens included."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def path() -> str:
    """``$SPIKE_LOG_PATH``, or ``spike_log.jsonl`` among the metrics."""
    return os.environ.get("SPIKE_LOG_PATH") or os.path.join(metrics_file.folder(), FILE)


def drop_after(optimizer_step: int) -> None:
    """A run continues after `optimizer_step`: remove lines of steps that it takes again, and a torn one."""
    if os.path.exists(path()):
        with open(path(), "rb") as file:
            lines = file.read().splitlines()
        kept = [r for r in map(_object, lines) if r and r.get("optimizer_step", 0) <= optimizer_step]
        metrics_file.write_all(path(), kept)


def _object(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


class SpikeLog:
    """Collects one optimizer step at a time.

    threshold  2-norm of the whole gradient before clipping; 0: no fixed limit
    args       the run's arguments: spike_zscore and on_spike (absent: off, "log"), and what a replay needs; None: no
               dumps
    """

    def __init__(self, threshold: float, tokenizer, args=None):
        self.rule = SpikeRule(threshold, getattr(args, "spike_zscore", 0.0), getattr(args, "on_spike", "log"))
        self.tokenizer, self.args = tokenizer, args
        self.clip = tuple(getattr(args, "eps_clip_low_high", None) or (math.inf, math.inf))
        self.model = None  # whose adapter is dumped; set by the gate
        self.optimizer_step = 0
        self.counts = dict.fromkeys(("spikes", "skipped_steps", "nonfinite_steps"), 0)
        self._clear()

    def _clear(self) -> None:
        self.prompts: list[torch.Tensor] = []
        self.batch_prompts: list[list[int | None]] = []  # row of a kept micro-batch -> its place in `prompts`
        self.ratios: list = []
        self.batches: list[dict] = []
        self.verdict: Verdict | None = None

    def add(
        self, sequences: torch.Tensor, action_mask: torch.Tensor, ratio, micro=None, log_probs=None, kl_ctl: float = 0.0
    ) -> None:
        """One micro-batch: sequences (B, S), action_mask (B, S-1) 1 = sampled token, its `RatioStats`.

        micro, log_probs  `batch_plan.MicroBatch` and the policy's log-probs (B, A) in it: kept by reference until the
                          step ends; without them there are no worst tokens and no dump
        """
        places: list[int | None] = []
        for row, mask in zip(sequences, action_mask, strict=True):
            places.append(len(self.prompts) if mask.any() else None)
            if mask.any():
                self.prompts.append(row[: int(mask.int().argmax()) + 1].cpu())
        self.ratios.append(ratio)
        if micro is not None and log_probs is not None:
            self.batches.append(spike_dump.micro_batch(micro, log_probs, kl_ctl))
            self.batch_prompts.append(places)

    def judge(self, norm: float, taken: bool = False) -> bool:
        """Whether the step must not be taken. Collective where a spike is dumped: the adapter is gathered.

        norm    2-norm of the whole gradient before clipping, NaN or inf where it is not finite
        taken   the step has been taken already: there is nothing to skip
        raises  RftError if the run is to stop
        """
        self.optimizer_step += 1
        verdict = self.rule.judge(norm)
        self.verdict = verdict = replace(verdict, skip=False) if taken else verdict
        if verdict.reason:
            self.counts["spikes"] += 1
            self.counts["skipped_steps"] += verdict.skip
            self.counts["nonfinite_steps"] += verdict.reason == "nonfinite"
            metrics_file.append(path(), {**self.record(verdict), **self._dump(verdict)})
            if verdict.stop:
                raise RftError(verdict.stop)
        return verdict.skip

    def end_step(self, grad_norm) -> float:
        """Close the optimizer step; its norm before clipping, NaN or inf where it was not finite.

        grad_norm  the norm as the engine tells it, for a run without the gate: the step is taken already, so a spike is
                   only logged. With the gate it is not looked at: DeepSpeed puts -1 in the place of what is not finite
        """
        if self.verdict is None:
            self.judge(float(grad_norm), taken=True)
        norm = self.verdict.norm
        self._clear()
        return norm

    def take_counts(self) -> dict[str, int]:
        """`spikes`, `skipped_steps`, `nonfinite_steps` since the last call."""
        taken, self.counts = self.counts, dict.fromkeys(self.counts, 0)
        return taken

    def record(self, verdict: Verdict) -> dict:
        hashes = [prompt_hash(self.tokenizer.decode(ids, skip_special_tokens=False)) for ids in self.prompts]
        worst = spike_tokens.worst(self.batches, self.clip, WORST_TOKENS)
        for token in worst:
            place = self.batch_prompts[token["micro_batch"]][token["row"]]
            token["prompt_hash"] = hashes[place] if place is not None else None
            token["text"] = self.tokenizer.decode(torch.tensor([token["token_id"]]), skip_special_tokens=False)
        return {
            "time": time.time(),
            "optimizer_step": self.optimizer_step,
            "rank": _rank(),
            "grad_norm": verdict.norm,
            "threshold": self.rule.threshold,
            "reason": verdict.reason,
            "action": verdict.action,
            "zscore": verdict.zscore,
            "prompt_hashes": sorted(set(hashes)),
            **{key: max((getattr(r, key) for r in self.ratios), default=None) for key in RATIO_KEYS},
            "worst_tokens": worst,
        }

    def _dump(self, verdict: Verdict) -> dict:
        """Write the micro-batches; what the line says of it. A dump that fails must not take the run with it."""
        if not self.batches or self.args is None:
            return {"dump": None}
        adapter = lora_params.gathered(self.model, _rank() == 0) if self.model is not None else {}
        meta = {
            "optimizer_step": self.optimizer_step,
            "rank": _rank(),
            "world": torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
            "grad_norm": verdict.norm if math.isfinite(verdict.norm) else None,
            "reason": verdict.reason,
            "settings": spike_dump.settings(self.args),
        }
        folder = os.path.join(os.path.dirname(path()), DUMPS)
        try:
            written = spike_dump.write(folder, meta, self.batches, adapter)
        except (OSError, RuntimeError) as err:  # torch.save answers a full disk with a RuntimeError
            return {"dump": None, "dump_error": str(err).splitlines()[0]}
        return {"dump": os.path.relpath(written, os.path.dirname(path())) if written else None}


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
