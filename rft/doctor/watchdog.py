"""Is this step taking too long? Asked at every poll of the launcher, answered from the run's own metrics file.

A step may take k times its median; an evaluation and a save have medians of their own and are added where they are due,
so that neither counts as a hang and neither widens an ordinary step's limit. All in seconds.

    limit = max(floor, k * median(step)) + (k * median(save) if the next step saves) + (k * median(eval) if one is due)

step: `step_s` without its save and evaluation. Before there are `ENOUGH` steps, the first limit ($RFT_HANG_START_S)
holds: loading a model, compiling and a first evaluation are in it. Main thread of the launcher; reads a file's tail.
"""

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError

LOG, STOP, OFF = "log", "stop", "off"
FACTOR, FLOOR_S, START_S = 5.0, 300.0, 3600.0
ENOUGH, RECENT = 3, 20  # steps for a median
TAIL_BYTES = 2_000_000
VARIABLES = {"RFT_HANG_FACTOR": FACTOR, "RFT_HANG_FLOOR_S": FLOOR_S, "RFT_HANG_START_S": START_S}


@dataclass(frozen=True)
class Rules:
    """on_hang: log (a bundle), stop (a bundle, then the end of the run) or off; save_steps, eval_steps: 0 = never."""

    on_hang: str = LOG
    factor: float = FACTOR
    floor_s: float = FLOOR_S
    start_s: float = START_S
    save_steps: int = 0
    eval_steps: int = 0


def rules(env: Mapping[str, str], save_steps: float = 0, eval_steps: float = 0) -> Rules:
    """From RFT_ON_HANG, RFT_HANG_FACTOR, RFT_HANG_FLOOR_S, RFT_HANG_START_S. raises RftError on a bad value."""
    on_hang = env.get("RFT_ON_HANG") or LOG
    if on_hang not in (LOG, STOP, OFF):
        raise RftError(f"--on_hang {on_hang}: give log, stop or off")
    values = []
    for name, default in VARIABLES.items():
        try:
            value = float(env.get(name) or default)
        except ValueError:
            value = 0.0
        if not value > 0:
            raise RftError(f"{name}={env[name]}: give a number above 0")
        values.append(value)
    every = [int(steps) if 0 < steps < float("inf") else 0 for steps in (save_steps, eval_steps)]
    return Rules(on_hang, *values, *every)


@dataclass(frozen=True)
class Late:
    """after: the last thing that was finished; factor of which median the wait is (None before there is one)."""

    after: str
    step: int
    waited_s: float
    limit_s: float
    median_s: float | None

    def __str__(self) -> str:
        usual = (
            f", {self.waited_s / self.median_s:.1f} x a step's median of {self.median_s:.1f} s" if self.median_s else ""
        )
        return f"nothing for {self.waited_s:.0f} s after {self.after}{usual} (limit {self.limit_s:.0f} s)"


class Watchdog:
    """metrics_file: of the run, with the earlier steps of a continued one; now: a monotonic clock."""

    def __init__(self, metrics_file: Path, rules_: Rules, now=time.monotonic):
        self.file, self.rules, self._now = Path(metrics_file), rules_, now
        self._seen: tuple | None = None
        self._mark, self._began = now(), time.time()  # when the last new line was seen
        self._lines: list[dict] = self._read()  # what an earlier run left serves the medians alone
        self._trained = False
        self._last: dict | None = None
        self._key: tuple | None = _key(self._lines)
        self.told: tuple | None = None  # the hang that was reported: one report each

    def trained(self) -> bool:
        """Has this launch finished a step by now? Then there is something to save. Also called in a signal handler."""
        self._look()
        return self._trained

    def poll(self) -> Late | None:
        """A hang that was not reported yet."""
        self._look()
        limit, median = self.limit()
        waited = self._now() - self._mark
        marker = (self._key, self._last is None)
        if self.rules.on_hang == OFF or waited <= limit or self.told == marker:
            return None
        self.told = marker
        step = self._last.get("step", 0) if self._last else 0
        after = "the start" if self._last is None else f"{_said(self._last)} of step {step}"
        return Late(after, step, waited, limit, median)

    def limit(self) -> tuple[float, float | None]:
        """(seconds that the present wait may take, median of a step or None)."""
        train = [line for line in self._lines if line.get("event") == "train"]
        plain = [_plain(line) for line in train][-RECENT:]
        plain = [seconds for seconds in plain if seconds > 0]
        if self._last is None or len(plain) < ENOUGH:
            return self.rules.start_s, None
        k, median = self.rules.factor, statistics.median(plain)
        limit = max(self.rules.floor_s, k * median)
        step = self._last.get("step", 0)
        if _due(step + 1, self.rules.save_steps):
            limit += k * _median(
                [line.get("save_s") for line in train if _due(line.get("step", 0), self.rules.save_steps)]
            )
        if _due(step, self.rules.eval_steps):
            evals = _evaluations(self._lines)
            known = [seconds for at, seconds in evals.items() if at != step]
            limit += k * _median(known) if known else self.rules.start_s
        return limit, median

    def _look(self) -> None:
        state = self._state()
        if state != self._seen:
            self._seen, self._lines = state, self._read()
            key = _key(self._lines)
            if key is not None and key != self._key:
                self._mark, self._key, self._last, self.told = self._now(), key, self._lines[-1], None
                self._trained = self._trained or any(self._is_new(line) for line in self._lines)

    def _is_new(self, line: dict) -> bool:
        return line.get("event") == "train" and (line.get("time") or 0) >= self._began

    def _state(self) -> tuple | None:
        try:
            found = self.file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _read(self) -> list[dict]:
        """The last lines: a continued run's file is cut and written anew, so no offset can be kept."""
        try:
            with open(self.file, "rb") as file:
                file.seek(max(0, self.file.stat().st_size - TAIL_BYTES))
                *lines, _ = file.read().split(b"\n")
        except OSError:
            return []
        found = []
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and value.get("event") in ("train", "eval"):
                found.append(value)
        return found


def _key(lines: list[dict]) -> tuple | None:
    return (
        (lines[-1].get("event"), lines[-1].get("step"), lines[-1].get("mode"), lines[-1].get("time")) if lines else None
    )


def _said(line: dict) -> str:
    return "the evaluation" if line.get("event") == "eval" else "the end"


def _due(step: int, every: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _plain(line: dict) -> float:
    """Seconds of a step without its save and the evaluation before it."""
    parts = [line.get(key) or 0.0 for key in ("step_s", "save_s", "eval_s")]
    return parts[0] - parts[1] - parts[2]


def _evaluations(lines: list[dict]) -> dict[int, float]:
    """Seconds of the evaluations by step, all modes together."""
    found: dict[int, float] = {}
    for line in lines:
        if line.get("event") == "eval" and isinstance(line.get("eval_s"), int | float):
            found[line.get("step", 0)] = found.get(line.get("step", 0), 0.0) + line["eval_s"]
    return found


def _median(values: list) -> float:
    known = [value for value in values if isinstance(value, int | float) and value > 0]
    return statistics.median(known) if known else 0.0
