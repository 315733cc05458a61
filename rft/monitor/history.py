"""What was read of a run's metrics, in bounded memory: the training steps, thinned with age, and the evaluations.

A step that comes again (a resumed run repeats those after its checkpoint) replaces what stood from it on, evaluations
after it included. Figures that are no finite numbers do not count.
"""

import itertools
import math
from collections.abc import Iterable

STEPS_KEPT = 1500  # beyond it every second one of the older half goes,
FIRST_KEPT = 20  # but for the first ones: a run's beginning is judged by itself
EVALS_KEPT = 64  # of a mode, the first among them


def number(value) -> float | None:
    """The value as a finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def step_of(record: dict) -> int | None:
    step = number(record.get("step"))
    return int(step) if step is not None else None


def _ends(lines: list[dict]) -> list[dict]:
    return lines if len(lines) <= EVALS_KEPT else [lines[0], *lines[1 - EVALS_KEPT :]]


class History:
    """train: lines of training steps, steps ascending; evals: (mode, data set) -> lines, steps ascending."""

    def __init__(self):
        self.train: list[dict] = []
        self.evals: dict[tuple[str, str], list[dict]] = {}

    def add(self, records: Iterable[dict]) -> None:
        for record in records:
            step = step_of(record)
            if step is None:
                continue
            if record.get("event") == "eval":
                kind = (str(record.get("mode", "accuracy")), str(record.get("dataset", "")))
                self._place(self.evals.setdefault(kind, []), record, step)
            elif record.get("event", "train") == "train":
                if self.train and step_of(self.train[-1]) >= step:
                    self.evals = {kind: [e for e in lines if step_of(e) < step] for kind, lines in self.evals.items()}
                self._place(self.train, record, step)
        if len(self.train) > STEPS_KEPT:
            half = len(self.train) // 2
            self.train = self.train[:FIRST_KEPT] + self.train[FIRST_KEPT:half:2] + self.train[half:]
        self.evals = {kind: _ends(lines) for kind, lines in self.evals.items() if lines}

    @staticmethod
    def _place(lines: list[dict], record: dict, step: int) -> None:
        while lines and step_of(lines[-1]) >= step:
            lines.pop()
        lines.append(record)

    @property
    def last(self) -> dict:
        """The newest training step; {} before the first."""
        return self.train[-1] if self.train else {}

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of every kept step that has the figure."""
        pairs = ((step_of(line), number(line.get(name))) for line in self.train)
        return [(step, value) for step, value in pairs if value is not None]

    def recent_mean(self, name: str, count: int = 20) -> float | None:
        """Mean of the figure over those of the last `count` steps that have it."""
        values = [value for line in self.train[-count:] if (value := number(line.get(name))) is not None]
        return number(sum(values) / len(values)) if values else None

    def seconds_per_step(self, count: int = 20) -> float | None:
        """Mean wall time of the last `count` steps, with what stands between them (evaluations).

        A gap of more than 20 times the median (the run was stopped and resumed) is left out; of a single line it is its
        `step_s`; None before the first.
        """
        lines = self.train[-count - 1 :]
        gaps = []
        for before, after in itertools.pairwise(lines):
            first, second = number(before.get("time")), number(after.get("time"))
            if first is not None and second is not None and second > first:
                gaps.append((second - first) / max(1, step_of(after) - step_of(before)))
        if not gaps:
            return number(self.last.get("step_s"))
        median = sorted(gaps)[len(gaps) // 2]
        kept = [gap for gap in gaps if gap <= 20 * median]
        return number(sum(kept) / len(kept))

    def eta_s(self) -> float | None:
        """Seconds to the last step at the recent pace; None where that is not known."""
        pace, total = self.seconds_per_step(), number(self.last.get("total_steps"))
        if pace is None or total is None:
            return None
        return number(max(0.0, total - step_of(self.last)) * pace)
