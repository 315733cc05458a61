"""Questions about held-out evaluations, and about a reward and what it stands for. Each gives a `conditions.Answer`."""

import math

import numpy as np

from rft.diagnosis import trends
from rft.diagnosis.conditions import NO, Answer, evidence, found, unknown
from rft.diagnosis.history import Evaluation, History


def standard_error(before: Evaluation, after: Evaluation) -> float:
    """Of the difference of two evaluations of the same problems: paired, where both have their answers; else as if they
    were independent, which is too large rather than too small."""
    if before.correct and after.correct and len(before.correct) == len(after.correct) > 1:
        gains = np.subtract(after.correct, before.correct)
        return max(float(np.std(gains, ddof=1)), 0.5 / len(gains) ** 0.5) / math.sqrt(len(gains))
    if not before.problems:
        return math.inf
    # the larger of the variances of one coin a problem: its n answers share the problem's difficulty
    return math.sqrt(sum(max(e.accuracy * (1 - e.accuracy), 0.25 / e.problems) / e.problems for e in (before, after)))


def evaluation_gain(lines: list[Evaluation]) -> tuple[float, float]:
    """(gain, its standard error) from the first third of the evaluations to the last third, at least one each."""
    third = max(1, len(lines) // 3)
    gain = np.mean([e.accuracy for e in lines[-third:]]) - np.mean([e.accuracy for e in lines[:third]])
    return float(gain), standard_error(lines[0], lines[-1])


def evaluation_behind(figure: str, least: float, share: float, evaluations: int):
    """`figure` rises in training (99 %) by `least` or more, and held-out accuracy does not follow: at 95 % its gain is
    below training's (or below what is left to 1), and its estimate below `share` of that. Of several modes on one data
    set none follows."""

    def ask(history: History) -> Answer:
        usable = {key: lines for key, lines in history.evals.items() if len(lines) >= evaluations}
        steps, values = history.series(figure)
        if not usable or len(values) < trends.MIN_POINTS:
            return unknown(f"{evaluations} evaluations" if not usable else figure)
        seen = trends.significant(steps, values, 1, least)
        if seen is None:
            return NO
        rise = min(seen.change, trends.tail(values) - trends.head(values)) / _scale(history)
        proofs: dict[str, list] = {}
        followed = set()
        for (mode, dataset, *_), lines in usable.items():
            gain, error = evaluation_gain(lines)
            hoped = min(rise, 1 - lines[0].accuracy)
            if gain > share * hoped or gain + 1.645 * error >= hoped:
                followed.add(dataset)
                continue
            accuracies = np.array([e.accuracy for e in lines])
            text = (
                f"{figure} rises {seen.words(1)}, while {mode} on {lines[0].problems} held-out problems goes from "
                f"{accuracies[0]:.3g} to {accuracies[-1]:.3g}: a gain of {gain:+.3g}, at 95 % at most "
                f"{gain + 1.645 * error:+.3g}"
            )
            proofs.setdefault(dataset, []).append(evidence(text, np.array([e.step for e in lines]), accuracies))
        named = tuple(e for dataset, found_here in proofs.items() if dataset not in followed for e in found_here)
        return Answer(True, named) if named else NO

    return ask


def _scale(history: History) -> float:
    """What a reward's rise is divided by to compare it with an accuracy's: the span of the rewards, at least 1."""
    _, low = history.series("reward_min")
    _, high = history.series("reward_max")
    return max(1.0, float(high.max() - low.min())) if len(low) and len(high) else 1.0


def evaluation_rises(history: History) -> Answer:
    """An evaluation's gain is above zero at 95 %."""
    usable = [lines for lines in history.evals.values() if len(lines) >= 2]
    if not usable:
        return unknown("evaluations")
    for lines in usable:
        gain, error = evaluation_gain(lines)
        if gain > 1.645 * error:
            text = f"evaluation rises by {gain:+.3g}"
            return found(text, np.array([e.step for e in lines]), np.array([e.accuracy for e in lines]))
    return NO


def gap_grows(left: str, right: str, by: float):
    """left minus right rises by `by` or more (99 %)."""

    def ask(history: History) -> Answer:
        a, x = history.series(left)
        b, y = history.series(right)
        both, i, j = np.intersect1d(a, b, return_indices=True)
        if len(both) < trends.MIN_POINTS:
            return unknown(left, right)
        gap = x[i] - y[j]
        seen = trends.significant(both, gap, 1, by)
        if seen is None:
            return NO
        text = f"{left} minus {right} grows {seen.words(1)}"
        return found(text, both, gap)

    return ask
