"""One line of metrics a step, and where its seconds went.

Used by the patched ``PPOTrainer`` in the controller process. A line is one append (rft/metrics_file.py), written after
the step's checkpoint and before its evaluation: what a crash in an evaluation leaves is whole. A line's seconds are
those since the previous line, so the evaluation between two stands in the later one, and nothing is counted twice or
never. What each figure means stands in `rft.metrics`.
"""

import json
import math
import os
import time

from rft import metrics_file, prompts
from rft.metrics import PHASES, RENAMED
from rft.phases import StepClock

FILE = "training_metrics.jsonl"
#: (file, key of a line's place): lines of steps that a continued run runs again are dropped from these
LOGS = ((FILE, "step"), ("sync_log.jsonl", "version"))

__all__ = ["FILE", "PHASES", "StepLog", "drop_after"]


class StepLog:
    """Writes ``training_metrics.jsonl``.

    args          the run's arguments
    prompt_count  prompts in the training pool
    """

    def __init__(self, args, prompt_count: int):
        self.target_lr = getattr(args, "actor_learning_rate", None)
        self.total_steps = prompts.rollout_steps(prompt_count, args.rollout_batch_size, args.num_episodes)
        self.clock = StepClock(time.perf_counter)
        self.began: float | None = None

    def start(self) -> None:
        """A step begins; the first call starts the clock."""
        if self.began is None:
            self.began = time.perf_counter()
        self.clock.start()

    def lap(self, phase: str) -> float:
        """Book the time since the last lap to `phase`; the seconds booked."""
        return self.clock.lap(phase)

    def reward_waited(self, seconds: float) -> None:
        """Of the time booked to ``generate``, these last seconds went by waiting for rewards (`phases.RewardTail`)."""
        self.clock.move(seconds, "generate", "reward")

    def write(self, step: int, episode: int, status: dict) -> dict:
        """Append the step's line; `status` holds its figures, of which only numbers are written. Returns the line."""
        seconds, now = self.clock.take(), time.perf_counter()
        record = self._record(step, episode, status, seconds, now)
        self.began = now
        metrics_file.append(os.path.join(metrics_file.folder(), FILE), record)
        return record

    def draft(self, step: int, episode: int, status: dict) -> dict:
        """The line as of now, for the step's checkpoint: a run that is killed between the two has lost none."""
        return self._record(step, episode, status, dict(self.clock.booked), time.perf_counter())

    def _record(self, step: int, episode: int, status: dict, seconds: dict[str, float], now: float) -> dict:
        figures = {k: v for k, v in status.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        for old, new in RENAMED.items():  # one figure, one name; upstream's loggers keep theirs
            value = figures.pop(old, None)
            if value is not None:
                figures.setdefault(new, value)
        figures.pop("parse_method", None)  # a mean of codes
        phases = {f"{phase}_s": spent for phase, spent in seconds.items()}
        derived = {
            "lr_share": _ratio(figures.get("actor_lr"), self.target_lr),
            "generate_tok_s": _ratio(figures.get("tokens_in_rollout"), phases["generate_s"]),
            "train_tok_s": _ratio(figures.get("tokens_in_batch"), phases["train_s"]),
        }
        record = {
            "event": "train",
            "time": time.time(),
            "step": step,
            "total_steps": self.total_steps,
            "episode": episode,
            **figures,
            **{name: value for name, value in derived.items() if value is not None},
            **phases,
            "step_s": now - self.began if self.began is not None else 0.0,
        }
        record["null_count"] = sum(isinstance(v, float) and not math.isfinite(v) for v in record.values())
        return record


def _ratio(value, by) -> float | None:
    """value / by; None where one is missing or `by` is 0."""
    return value / by if value is not None and by else None


def drop_after(step: int, sync_version: int, line: dict | None = None) -> None:
    """Before continuing at `step`: remove the lines of what will be run again, a line torn by the kill, and, of lines
    that say the same of the same step twice, all but the last. A line without a place stays.

    line  of `step`, as its checkpoint holds it (`StepLog.draft`): appended if the run was killed before it was written
    """
    written: list[dict] = []
    for name, key in LOGS:
        path = os.path.join(metrics_file.folder(), name)
        if os.path.exists(path):
            last = sync_version if key == "version" else step
            kept = [record for record in _whole_lines(path) if not _after(record.get(key), last)]
            if name == FILE:
                kept = written = _once(kept)
            metrics_file.write_all(path, kept)
    if line is not None and not any(one.get("event") == "train" and one.get("step") == step for one in written):
        metrics_file.append(os.path.join(metrics_file.folder(), FILE), line)


def _after(place, last: int) -> bool:
    return isinstance(place, int | float) and place > last


def _once(records: list[dict]) -> list[dict]:
    """Without the earlier lines of the same event, step and mode."""
    latest = {(r.get("event"), r.get("step"), r.get("mode"), r.get("dataset")): i for i, r in enumerate(records)}
    wanted = set(latest.values())
    return [record for i, record in enumerate(records) if i in wanted or record.get("step") is None]


def _whole_lines(path: str) -> list[dict]:
    records = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records
