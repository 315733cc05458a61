"""The last evaluation of every mode, with a 95 % interval, and how far it is from the first one known.

The interval is Wilson's, over problems: answers to one problem are no independent draws. Where the per-problem file is
there, n is the number of independent problems that would have the spread that is seen, p (1 - p) / var(mean) - for one
answer a problem that is the number of problems; without the file it is the number of problems, which is never too many.
"""

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

from rft.monitor.history import History, number, step_of
from rft.monitor.tail import parse
from rft.stats.intervals import wilson

FILE_BYTES_READ = 50_000_000  # a per-problem file longer than this is not read


@dataclass(frozen=True)
class Evaluation:
    """accuracy, low, high in [0, 1]; change: since the mode's first evaluation, at step `since` (None: this is it)."""

    mode: str
    dataset: str
    step: int
    accuracy: float | None
    low: float | None
    high: float | None
    n: int | None
    n_problems: int | None
    change: float | None
    since: int | None
    values: list[tuple[int, float]]


def effective_problems(per_problem: list[float]) -> float:
    """p (1 - p) / var(mean) of P per-problem accuracies, at least P; P itself where nothing varies."""
    count = len(per_problem)
    mean = sum(per_problem) / count
    squares = sum((value - mean) ** 2 for value in per_problem)
    if squares == 0 or count < 2:
        return float(count)
    return max(float(count), mean * (1 - mean) * count * (count - 1) / squares)


def latest(history: History, samples: Path) -> list[Evaluation]:
    """One for each mode and data set, in the order in which they first came."""
    return [_evaluation(mode, dataset, lines, samples) for (mode, dataset), lines in history.evals.items()]


def _evaluation(mode: str, dataset: str, lines: list[dict], samples: Path) -> Evaluation:
    last, first = lines[-1], lines[0]
    accuracy, step = number(last.get("accuracy")), step_of(last)
    problems = number(last.get("n_problems"))
    low = high = None
    if accuracy is not None and problems and 0 <= accuracy <= 1:
        kind = "greedy" if number(last.get("temperature")) == 0 else "sampled"
        shares = per_problem(samples / f"eval_step{step}_{kind}.jsonl")
        fits = len(shares) == problems and math.isclose(sum(shares) / len(shares), accuracy, abs_tol=1e-6)
        independent = effective_problems(shares) if fits else problems  # else the file is another evaluation's
        interval = wilson(accuracy * independent, independent)
        low, high = interval.low, interval.high
    values = [(step_of(line), value) for line in lines if (value := number(line.get("accuracy"))) is not None]
    change = since = None
    if len(values) > 1 and accuracy is not None:
        since, change = step_of(first), accuracy - values[0][1]
    n = number(last.get("n"))
    count = int(problems) if problems else None
    return Evaluation(mode, dataset, step, accuracy, low, high, int(n) if n else None, count, change, since, values)


def per_problem(path: Path) -> list[float]:
    """Each problem's mean of `correct` (in older files `rewards`); [] where there is no file, too long a one, or not
    every line has the field.
    """
    try:
        found = os.stat(path)
        return _per_problem(path, found.st_mtime_ns, found.st_size) if found.st_size <= FILE_BYTES_READ else []
    except OSError:
        return []


@functools.lru_cache(maxsize=16)
def _per_problem(path: Path, _changed: int, _size: int) -> list[float]:
    with open(path, "rb") as file:
        records = [parse(line) for line in file]
    shares = []
    for record in records:
        correct = record.get("correct", record.get("rewards")) if record else None
        values = list(map(number, correct)) if isinstance(correct, list) else []
        if not values or None in values:
            return []
        shares.append(sum(values) / len(values))
    return shares
