"""One line of metrics a step, and where its seconds went.

Used by the patched ``PPOTrainer`` in the controller process. The step is timed by laps: each lap books the time since
the previous one to a phase, so that the phases add up to the step's wall time.
"""

import json
import os
import time

from rft import metrics_file, prompts

FILE = "training_metrics.jsonl"
PHASES = ("generate", "experience", "train", "sync", "save")


class StepLog:
    """Writes ``training_metrics.jsonl``.

    prompt_count  prompts in the training pool
    """

    def __init__(self, args, prompt_count: int):
        self.args = args
        self.total_steps = prompts.rollout_steps(prompt_count, args.rollout_batch_size, args.num_episodes)
        self.start()

    def start(self) -> None:
        """A new step begins."""
        self.began = self.lapped = time.perf_counter()
        self.phases = dict.fromkeys(PHASES, 0.0)

    def lap(self, phase: str) -> float:
        """Book the time since the last lap to `phase`; the seconds booked."""
        now = time.perf_counter()
        seconds, self.lapped = now - self.lapped, now
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds
        return seconds

    def write(self, step: int, episode: int, status: dict) -> None:
        """Append the step's line; `status` holds its figures, of which only numbers are written."""
        figures = {k: v for k, v in status.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        record = {
            "event": "train",
            "time": time.time(),
            "step": step,
            "total_steps": self.total_steps,
            "episode": episode,
            **figures,
            **{f"{phase}_s": seconds for phase, seconds in self.phases.items()},
            "step_s": time.perf_counter() - self.began,
        }
        metrics_file.append(os.path.join(metrics_file.folder(), FILE), record)


def drop_after(step: int, sync_version: int) -> None:
    """Before continuing at `step`: remove the lines of what will be run again, and a line torn by the kill."""
    for name, key, last in ((FILE, "step", step), ("sync_log.jsonl", "version", sync_version)):
        path = os.path.join(metrics_file.folder(), name)
        if os.path.exists(path):
            metrics_file.write_all(path, [record for record in _whole_lines(path) if record[key] <= last])


def _whole_lines(path: str) -> list[dict]:
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    return records
