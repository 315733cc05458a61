"""One line on the terminal per training step and per evaluation, from the run's training_metrics.jsonl.

Reads the file incrementally and never writes to the run. A line is taken only once its newline is there, so a torn line
waits for its rest; a line that is no JSON object is passed over. Figures as in the metrics file: reward and correctness
as means over the step's samples, entropy in nats, seconds a phase.

Used by the launcher's main thread, a poll at a time.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from rft.runs import duration

PHASES = (
    ("gen", "generate_s"),
    ("reward", "reward_s"),
    ("logp", "old_logprob_s"),
    ("train", "train_s"),
    ("sync", "sync_s"),
    ("save", "save_s"),
)
RECENT = 10  # steps that the ETA averages over: engines warm up, answers change length
QUIET_STATUS_S = 60.0  # between status lines where the output is no terminal
MIN_SHOWN_S = 0.05  # a phase shorter than this is left out


class Follower:
    """New whole lines of a growing JSONL file."""

    def __init__(self, path: Path, from_end: bool = False):
        """from_end: skip what is there already (a resumed run continues its file)."""
        self.path = Path(path)
        self._rest = b""
        self._offset = self.path.stat().st_size if from_end and self.path.exists() else 0

    def poll(self) -> list[dict]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [value for value in map(_object, lines) if value is not None]


def _object(line: bytes) -> dict | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _number(value, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def train_line(line: dict, eta_s: float | None = None) -> str:
    """``step   3/40  reward 0.438  correct 0.438  entropy 1.23  grad 0.52  gen 4.1s …  ETA 5m12s``."""
    step, total = line.get("step", "?"), line.get("total_steps")
    parts = [f"step {step!s:>{len(str(total or step))}}" + (f"/{total}" if total else "")]
    for label, key, form in (
        ("reward", "reward_mean", ".3f"),
        ("correct", "correctness", ".3f"),
        ("entropy", "entropy_mean", ".3f"),
        ("grad", "grad_norm", ".3g"),
        ("kl", "kl", ".2g"),
    ):
        if key in line:
            parts.append(f"{label} {_number(line[key], form)}")
    spent = [(name, line[key]) for name, key in PHASES if isinstance(line.get(key), int | float)]
    seconds = [f"{name} {value:.1f}" for name, value in spent if value >= MIN_SHOWN_S]
    if seconds:
        parts.append(" ".join(seconds) + " s")
    if eta_s is not None:
        parts.append(f"ETA {duration(eta_s)}")
    return "  ".join(parts)


def eval_line(line: dict) -> str:
    """``eval after step 10  greedy_pass@1 0.420  (200 problems, n=1, T=0, heldout)  4.2 s``."""
    about = [f"{line['n_problems']} problems"] if "n_problems" in line else []
    about += [f"n={line['n']}"] if "n" in line else []
    about += [f"T={line['temperature']:g}"] if isinstance(line.get("temperature"), int | float) else []
    about += [Path(str(line["dataset"])).name] if line.get("dataset") else []
    text = f"eval after step {line.get('step', '?')}  {line.get('mode', 'accuracy')} "
    text += _number(line.get("accuracy"), ".3f")
    text += f"  ({', '.join(about)})" if about else ""
    return text + (f"  {line['eval_s']:.1f} s" if isinstance(line.get("eval_s"), int | float) else "")


class Progress:
    """Prints a line per step and evaluation, and until the first one now and then what is being waited for."""

    def __init__(self, metrics_file: Path, from_end: bool = False, out: TextIO | None = None):
        self._out = out or sys.stdout
        self._tty = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._follower = Follower(metrics_file, from_end)
        self._seconds: list[float] = []
        self._before: float | None = None
        self._status_at = time.monotonic()
        self._status_width = 0
        self.started = False

    def say(self, text: str) -> None:
        """A line that stays."""
        self._clear()
        print(text, file=self._out, flush=True)

    def status(self, text: str) -> None:
        """A line that the next one replaces (on a terminal), or one a minute."""
        now = time.monotonic()
        if self._tty:
            print("\r" + text.ljust(self._status_width), end="", file=self._out, flush=True)
            self._status_width = len(text)
        elif now - self._status_at >= QUIET_STATUS_S:
            self._status_at = now
            print(text, file=self._out, flush=True)

    def poll(self) -> None:
        """Prints what is new in the metrics file."""
        for line in self._follower.poll():
            self.started = True
            if line.get("event") == "train":
                self.say(train_line(line, self._eta(line)))
            elif line.get("event") == "eval":
                self.say(eval_line(line))

    def _clear(self) -> None:
        if self._tty and self._status_width:
            print("\r" + " " * self._status_width + "\r", end="", file=self._out)
            self._status_width = 0

    def _eta(self, line: dict) -> float | None:
        """Remaining steps times the mean wall time of the recent ones; evaluations and saves between steps count."""
        now, step, total = line.get("time"), line.get("step"), line.get("total_steps")
        if isinstance(now, int | float):
            first = line.get("step_s")
            spent = now - self._before if self._before is not None else first
            self._before = now
            if isinstance(spent, int | float) and spent > 0:
                self._seconds = [*self._seconds, spent][-RECENT:]
        if not self._seconds or not isinstance(step, int) or not isinstance(total, int):
            return None
        return max(0, total - step) * sum(self._seconds) / len(self._seconds)
