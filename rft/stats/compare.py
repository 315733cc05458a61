"""Two evaluation results, paired by problem -> everything that a table, a report or a verdict says about them.

Called by `rft compare`, the evaluation programs and reports. One metric is tested, the headline unless another is
named before looking; further figures come with intervals and without p-values. Intervals are 95 % each, p-values and
claims are corrected for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rft.errors import RftError
from rft.stats import paired, power, verdict
from rft.stats.intervals import Interval, change_interval, tango
from rft.stats.multiple import holm
from rft.stats.results import EvalResult, Figure, figure, metric_names, per_problem


@dataclass(frozen=True)
class Row:
    """One metric of both; difference = second - first, its interval paired over problems."""

    metric: str
    first: Figure
    second: Figure
    difference: float
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """second against first, on the problems that both have.

    rows         tested metric first, then every other one that both have
    test         p unadjusted, problems up and down
    p            what the claim rests on: adjusted where `comparisons` > 1 (Holm)
    alpha        risk of any false claim among the `comparisons`
    detectable   with the observed discordance, at alpha / comparisons
    claim        better | worse | none | diagnostic
    verdict      one sentence
    problem_ids  P, in the first's order; values_first, values_second: the tested metric, (P,); up, down: ids
    labels       settings that differ, and problems left out, under `force`; () otherwise
    """

    first: str
    second: str
    mode: str
    rows: tuple[Row, ...]
    test: paired.PairedTest
    p: float
    comparisons: int
    alpha: float
    detectable: power.Detectable
    claim: str
    verdict: str
    problem_ids: tuple[str, ...]
    values_first: tuple[float, ...]
    values_second: tuple[float, ...]
    up: tuple[str, ...]
    down: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def row(self) -> Row:
        """The tested metric."""
        return self.rows[0]


def compare(
    first: EvalResult, second: EvalResult, metric: str | None = None, force: bool = False, alpha: float = power.ALPHA
) -> Comparison:
    """Paired comparison.

    metric  the one to test; None: pass@1 of single answers, else avg@n
    raises  RftError: settings or problems differ and `force` is not given; no problem in common; a bad result
    """
    return compare_many(first, [second], metric, force, alpha)[0]


def compare_many(
    base: EvalResult,
    others: Sequence[EvalResult],
    metric: str | None = None,
    force: bool = False,
    alpha: float = power.ALPHA,
) -> list[Comparison]:
    """`base` against each of `others` (checkpoints of a run, one set and mode), corrected for their number by Holm."""
    if not others:
        raise RftError(f"{base.name}: nothing to compare it with; name a second result")
    found = [_pair(base, other, metric, force, alpha, len(others)) for other in others]
    adjusted = holm([one.test.p for one in found])
    return [_concluded(replace(one, p=p)) for one, p in zip(found, adjusted, strict=True)]


def _concluded(one: Comparison) -> Comparison:
    if one.mode.startswith("nondet_proxy"):
        claim = "diagnostic"
    elif one.p <= one.alpha and one.row.difference:
        claim = "better" if one.row.difference > 0 else "worse"
    else:
        claim = "none"
    one = replace(one, claim=claim)
    return replace(one, verdict=verdict.sentence(one))


def _pair(first: EvalResult, second: EvalResult, metric, force: bool, alpha: float, comparisons: int) -> Comparison:
    if not 0 < alpha < power.POWER:
        raise RftError(f"alpha {alpha}: give the risk of a false claim, above 0 and below {power.POWER}")
    labels = differing(first, second)
    if labels and not force:
        raise RftError(
            f"{first.name} and {second.name} cannot be compared ({'; '.join(labels)}): evaluate alike, or --force"
        )
    one, other = _common(first, second)
    names = [name for name in metric_names(one) if name in metric_names(other)]
    tested = metric or (names[0] if names else None)
    if tested not in names:
        raise RftError(
            f"{first.name} and {second.name} do not both have {metric or 'the same headline'}:"
            f" {', '.join(metric_names(one))} and {', '.join(metric_names(other))}; name a metric of both"
        )
    rows = tuple(_row(one, other, name) for name in [tested, *(name for name in names if name != tested)])
    values = per_problem(one, tested), per_problem(other, tested)
    return Comparison(
        first=first.name,
        second=second.name,
        mode=second.mode if second.diagnostic else first.mode,
        rows=rows,
        test=_test(one, other, values, rows[0]),
        p=1.0,
        comparisons=comparisons,
        alpha=alpha,
        detectable=_detectable(one, other, values, rows[0], alpha / comparisons),
        claim="",
        verdict="",
        problem_ids=tuple(one.problem_ids),
        values_first=tuple(values[0].tolist()),
        values_second=tuple(values[1].tolist()),
        up=tuple(name for name, a, b in zip(one.problem_ids, *values, strict=True) if b > a),
        down=tuple(name for name, a, b in zip(one.problem_ids, *values, strict=True) if b < a),
        labels=tuple(labels),
    )


def differing(first: EvalResult, second: EvalResult) -> list[str]:
    """What forbids a comparison, in words: mode, settings, answers a problem, problems; [] where nothing does."""
    from rft.evals import settings

    found = [] if first.mode == second.mode else [f"mode: {first.mode} and {second.mode}"]
    found += [text for text in settings.differences(dict(first.settings), dict(second.settings)) if text not in found]
    samples = first.checked().shape[1], second.checked().shape[1]
    if samples[0] != samples[1]:
        found.append(f"answers a problem: {samples[0]} and {samples[1]}")
    one, other = set(first.problem_ids), set(second.problem_ids)
    if one != other:
        found.append(f"problems: {len(one & other)} in common of {len(one)} and {len(other)}")
    return found


def _common(first: EvalResult, second: EvalResult) -> tuple[EvalResult, EvalResult]:
    """Both with the problems that they share, in the first's order."""
    where = {name: position for position, name in enumerate(second.problem_ids)}
    shared = [name for name in first.problem_ids if name in where]
    if not shared:
        raise RftError(f"{first.name} and {second.name} have no problem in common; evaluate both on one set")
    own = {name: position for position, name in enumerate(first.problem_ids)}
    return _rows_of(first, shared, own), _rows_of(second, shared, where)


def _rows_of(result: EvalResult, names: list[str], where: dict) -> EvalResult:
    order = [where[name] for name in names]
    answers = None if result.answers is None else [result.answers[position] for position in order]
    return replace(result, problem_ids=names, correct=result.checked()[order], answers=answers)


def _single(row: Row) -> bool:
    return row.first.interval.method == row.second.interval.method == "Wilson"


def _row(first: EvalResult, second: EvalResult, metric: str) -> Row:
    a, b = per_problem(first, metric), per_problem(second, metric)
    figures = figure(first, metric), figure(second, metric)
    d = b - a
    row = Row(metric, *figures, float(d.mean()), change_interval(d))
    if _single(row):
        row = replace(row, interval=tango(int((d > 0).sum()), int((d < 0).sum()), len(d)))
    return row


def _test(one: EvalResult, other: EvalResult, values, row: Row) -> paired.PairedTest:
    if _single(row):
        return paired.mcnemar(*values)
    if row.metric.startswith("avg"):
        return paired.sign_flip(*paired.changes(one.checked(), other.checked()))
    return paired.sign_flip(values[1] - values[0], _grid(row))


def _grid(row: Row) -> float | None:
    """Whole multiples of what the problems' pass@k or maj@n are; None where that is not worth an exact test."""
    import math

    kind, _, k = row.metric.partition("@")
    if kind == "pass":
        unit = math.lcm(*(math.comb(figure.samples, int(k)) for figure in (row.first, row.second)))
    else:
        unit = math.lcm(*range(1, row.first.samples + 1))  # both have n: a tie among t candidates counts 1/t
    return 1 / unit if unit <= 100_000 else None


def _detectable(one: EvalResult, other: EvalResult, values, row: Row, alpha: float) -> power.Detectable:
    if row.metric.startswith("avg") or _single(row):
        return power.detectable_observed(one.checked(), other.checked(), alpha=alpha)
    return power.detectable_observed(*values, alpha=alpha)
