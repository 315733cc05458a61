"""One evaluation result as the statistics take it, and its figures with intervals.

Called by the evaluation programs (which make an EvalResult from their records), by rft.stats.compare and by reports.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from rft.errors import RftError
from rft.stats import arrays, passk
from rft.stats.intervals import Interval, bootstrap, mean_interval, wilson


@dataclass(frozen=True)
class EvalResult:
    """name: what the reader calls it; mode: `greedy_pass@1`, `sampling_pass@8`, `nondet_proxy_pass@8`.

    problem_ids  P names of problems, distinct (problem hashes): what results are paired by
    correct      P rows of n: 0/1, or a partial credit in [0, 1]
    settings     every setting that results must share to be compared (rft.evals.settings)
    answers      P rows of n extracted answers, None where there is none; None without maj@n
    """

    name: str
    mode: str
    problem_ids: Sequence[str]
    correct: Sequence[Sequence[float]]
    settings: Mapping[str, object] = field(default_factory=dict)
    answers: Sequence[Sequence[Hashable | None]] | None = None

    @property
    def diagnostic(self) -> bool:
        return self.mode.startswith("nondet_proxy")

    def checked(self):
        """(P, n) array of `correct`; RftError where it is empty, ragged, not graded or names a problem twice."""
        array = arrays.correctness(self.correct, self.name)
        ids = list(self.problem_ids)
        if len(ids) != len(array):
            raise RftError(f"{self.name}: {len(ids)} problem ids for {len(array)} problems; is the record file whole?")
        if len(set(ids)) < len(ids):
            double = next(one for position, one in enumerate(ids) if one in ids[:position])
            raise RftError(f"{self.name}: problem {double} stands in it twice; remove duplicates from the data set")
        return array


@dataclass(frozen=True)
class Figure:
    """One number of a result: `pass@4`; value and intervals are fractions over `problems` x `samples` answers.

    interval   the one to print: Wilson for single greedy answers, else Wilson over problems
    bootstrap  over problems
    """

    metric: str
    value: float
    interval: Interval
    bootstrap: Interval
    problems: int
    samples: int


def metric_names(result: EvalResult) -> list[str]:
    """What can be reported, the headline first: pass@1 for one answer; else avg@n, pass@1 … pass@n, maj@n."""
    array = result.checked()
    n = array.shape[1]
    if n == 1:
        return ["pass@1"]
    whole = set(array.flat) <= {0.0, 1.0}
    names = [f"avg@{n}", *(f"pass@{k}" for k in range(1, n + 1) if whole)]
    return names + ([f"maj@{n}"] if whole and result.answers is not None else [])


def per_problem(result: EvalResult, metric: str):
    """(P,) of one metric in the order of `problem_ids`; RftError for a metric that this result does not have."""
    array = result.checked()
    if metric not in metric_names(result):
        raise RftError(f"{result.name}: has no {metric}; it has {', '.join(metric_names(result))}")
    kind, _, k = metric.partition("@")
    if kind == "maj":
        return passk.maj_at_n(array, result.answers)
    if kind == "avg" or array.shape[1] == 1:
        return passk.avg_at_n(array)
    return passk.pass_at_k(array, int(k))


def figure(result: EvalResult, metric: str) -> Figure:
    """One figure with its intervals."""
    values = per_problem(result, metric)
    problems, samples = len(values), result.checked().shape[1]
    single = samples == 1 and set(values) <= {0.0, 1.0}
    interval = wilson(float(values.sum()), problems) if single else mean_interval(values)
    return Figure(metric, float(values.mean()), interval, bootstrap(values), problems, samples)


def figures(result: EvalResult) -> list[Figure]:
    """Every figure of a result, the headline first."""
    return [figure(result, metric) for metric in metric_names(result)]


def rate(flags, name: str) -> Figure:
    """A rate over responses (boxed, final channel, truncated): (P, n) flags, its intervals over problems."""
    array = arrays.binary(flags, name)
    problems, samples = array.shape
    values = array.mean(axis=1)
    interval = wilson(float(values.sum()), problems) if samples == 1 else mean_interval(values)
    return Figure(name, float(values.mean()), interval, bootstrap(values), problems, samples)
