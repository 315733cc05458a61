"""What a rule may ask of a run. A rule is a tree of these; each says in words what it asks and what it found.

`check` answers yes, no, or None where a figure is missing or the run is too short to say, with the evidence for a yes;
All, AnyOf and Not combine answers as Kleene's logic does. Thresholds stand in `rules`, not here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rft.diagnosis import trends
from rft.diagnosis.history import History


@dataclass(frozen=True)
class Evidence:
    """One finding in words, and the values behind it: step -> value, at most `VALUES` of them."""

    text: str
    first_step: int
    last_step: int
    values: dict[int, float]


@dataclass(frozen=True)
class Answer:
    met: bool | None
    evidence: tuple[Evidence, ...] = ()
    missing: tuple[str, ...] = ()  # why None


VALUES = 8
NO = Answer(False)


def unknown(*why: str) -> Answer:
    return Answer(None, missing=why)


def found(text: str, steps: np.ndarray, values: np.ndarray) -> Answer:
    return Answer(True, (evidence(text, steps, values),))


def evidence(text: str, steps: np.ndarray, values: np.ndarray) -> Evidence:
    """The series is shown by evenly spaced ones of its values, both ends among them."""
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(VALUES, len(steps))).astype(int))
    shown = {int(steps[i]): float(f"{values[i]:.4g}") for i in chosen if np.isfinite(values[i])}
    return Evidence(text, int(steps[0]), int(steps[-1]), shown)


def percent(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


@dataclass(frozen=True)
class Moved:
    """A monotone trend at `trends.CONFIDENCE`, in the whole run, its last half or its last quarter.

    direction  +1 up, -1 down
    by         the fitted change at the least, in the figure's unit
    share      the fitted change at the least, as a share of the level at the start of the run
    """

    figure: str
    direction: int
    by: float = 0.0
    share: float = 0.0

    def words(self) -> str:
        size = [f"{self.by:g}"] * (self.by > 0) + [f"{self.share:.0%} of its first level"] * (self.share > 0)
        return f"{self.figure} {'rises' if self.direction > 0 else 'falls'} by {' and '.join(size) or 'anything'}"

    def check(self, history: History) -> Answer:
        steps, values = history.series(self.figure)
        if len(values) < trends.MIN_POINTS:
            return unknown(self.figure)
        least = max(self.by, self.share * abs(trends.head(values)))
        seen = trends.significant(steps, values, self.direction, least)
        if seen is None:
            return NO
        text = f"{self.figure} {'rises' if self.direction > 0 else 'falls'} {seen.words(self.direction)}"
        inside = (steps >= seen.first_step) & (steps <= seen.last_step)
        return found(text, steps[inside], values[inside])


@dataclass(frozen=True)
class Steady:
    """No trend of that size: the Theil-Sen change over the whole run is smaller, and Mann-Kendall finds none of it."""

    figure: str
    by: float = 0.0
    share: float = 0.0

    def words(self) -> str:
        size = f"{self.by:g}" if self.by else f"{self.share:.0%} of its first level"
        return f"{self.figure} changes by less than {size}"

    def check(self, history: History) -> Answer:
        steps, values = history.series(self.figure)
        if len(values) < trends.MIN_POINTS:
            return unknown(self.figure)
        limit = max(self.by, self.share * abs(trends.head(values)))
        whole = trends.trend(steps, values)
        if abs(whole.change) >= limit or any(
            trends.significant(steps, values, direction, limit) for direction in (1, -1)
        ):
            return NO
        text = (
            f"{self.figure} stays at {whole.start:.4g} to {whole.end:.4g} over steps {whole.first_step}-"
            f"{whole.last_step} (Theil-Sen change {whole.change:+.2g}, {trends.CONFIDENCE:.0%} interval "
            f"{whole.low:+.2g} to {whole.high:+.2g})"
        )
        return found(text, steps, values)


@dataclass(frozen=True)
class Level:
    """The figure's median over a part of the run, and `most` of the steps there, are above or below a value.

    where  head | tail (a tenth of the run, 5 to 50 steps) | all
    """

    figure: str
    sign: str  # > or <
    value: float
    where: str = "tail"
    most: float = 0.6

    def words(self) -> str:
        part = {"head": "at the start", "tail": "lately", "all": "over the run"}[self.where]
        return f"{self.figure} {self.sign} {self.value:g} {part}"

    def check(self, history: History) -> Answer:
        steps, values = history.series(self.figure)
        if not len(values):
            return unknown(self.figure)
        width = {"head": slice(trends.edge(len(values))), "tail": slice(-trends.edge(len(values)), None)}
        part = width.get(self.where, slice(None))
        steps, values = steps[part], values[part]
        beyond = values > self.value if self.sign == ">" else values < self.value
        middle = float(np.median(values))
        if beyond.mean() < self.most or not (middle > self.value if self.sign == ">" else middle < self.value):
            return NO
        text = (
            f"{self.figure} is {middle:.4g} (median of steps {steps[0]}-{steps[-1]}; {beyond.mean():.0%} of them "
            f"{'above' if self.sign == '>' else 'below'} {self.value:g})"
        )
        return found(text, steps, values)


@dataclass(frozen=True)
class Shrunk:
    """The level now is at most `to` of what it was: at the start (of="head") or at its highest (of="peak")."""

    figure: str
    to: float
    of: str = "head"

    def words(self) -> str:
        return f"{self.figure} is at most {self.to:.0%} of its {'first' if self.of == 'head' else 'highest'} level"

    def check(self, history: History) -> Answer:
        steps, values = history.series(self.figure)
        if len(values) < trends.MIN_POINTS:
            return unknown(self.figure)
        before = trends.head(values) if self.of == "head" else trends.peak(values)
        now = trends.tail(values)
        if not (before > 0 and now <= self.to * before):
            return NO
        text = (
            f"{self.figure} went from {before:.4g} ({'first' if self.of == 'head' else 'highest'} level) to {now:.4g} "
            f"(steps {steps[-trends.edge(len(values))]}-{steps[-1]}), {now / before:.0%} of it"
        )
        return found(text, steps, values)


@dataclass(frozen=True)
class Grown:
    """The level now is at least `to` times the first one."""

    figure: str
    to: float

    def words(self) -> str:
        return f"{self.figure} is at least {self.to:g} times its first level"

    def check(self, history: History) -> Answer:
        steps, values = history.series(self.figure)
        if len(values) < trends.MIN_POINTS:
            return unknown(self.figure)
        before, now = trends.head(values), trends.tail(values)
        if now < self.to * before or now <= before:
            return NO
        return found(f"{self.figure} went from {before:.4g} to {now:.4g} (medians of both ends)", steps, values)


@dataclass(frozen=True)
class Steps:
    """At least so many steps are there: before that nothing can be said."""

    least: int

    def words(self) -> str:
        return f"{self.least} steps or more"

    def check(self, history: History) -> Answer:
        return Answer(True) if len(history) >= self.least else unknown(f"{self.least} steps")


@dataclass(frozen=True)
class Special:
    """A question that the others cannot put: a function of the history, and what it asks in words."""

    text: str
    ask: Callable[[History], Answer]

    def words(self) -> str:
        return self.text

    def check(self, history: History) -> Answer:
        return self.ask(history)


class _Several:
    def __init__(self, *parts):
        self.parts = parts

    def _words(self, between: str) -> str:
        return between.join(f"({p.words()})" if isinstance(p, _Several) else p.words() for p in self.parts)


class All(_Several):
    """Yes if every part says so; no as soon as one does."""

    def words(self) -> str:
        return self._words(" and ")

    def check(self, history: History) -> Answer:
        answers = []
        for part in self.parts:
            answers.append(part.check(history))
            if answers[-1].met is False:
                return NO
        missing = tuple(name for answer in answers for name in answer.missing)
        if any(answer.met is None for answer in answers):
            return unknown(*missing)
        return Answer(True, tuple(e for answer in answers for e in answer.evidence))


class AnyOf(_Several):
    """Yes if a part says so, with the evidence of all that do; no if all say no."""

    def words(self) -> str:
        return self._words(", or ")

    def check(self, history: History) -> Answer:
        answers = [part.check(history) for part in self.parts]
        if any(answer.met for answer in answers):
            return Answer(True, tuple(e for answer in answers if answer.met for e in answer.evidence))
        if any(answer.met is None for answer in answers):
            return unknown(*(name for answer in answers for name in answer.missing))
        return NO


class Not(_Several):
    """A yes becomes a no; what is not known counts as not there, so that a missing figure shields nobody."""

    def words(self) -> str:
        return f"not {self._words('')}"

    def check(self, history: History) -> Answer:
        return NO if self.parts[0].check(history).met else Answer(True)
