"""The smoke test: what the first six steps already show, before compute is burnt.

The same rules serve `rft diagnose` and `SmokeGuard`, which the patched trainer asks after each of these steps
(`--stop_on_smoke_failure`). Six points are too few for an asymptotic test: a drop is tested with Kendall's exact
distribution (p of six strictly falling values: 1/720).
"""

from dataclasses import dataclass

import numpy as np

from rft.diagnosis.conditions import NO, Answer, AnyOf, found, percent, unknown
from rft.diagnosis.history import Columns, History
from rft.diagnosis.rules import Rule
from rft.errors import RftError

STEPS = 6  # the first ones of a run
LEAST = 4  # of them before anything is said


@dataclass(frozen=True)
class Stuck:
    """Exactly the same one of `values` in every step after the first `skip`."""

    figure: str
    values: tuple[float, ...]
    skip: int = 0

    def words(self) -> str:
        return f"{self.figure} is {' or '.join(f'{v:g}' for v in self.values)} in every step"

    def check(self, history: History) -> Answer:
        steps, seen = history.series(self.figure)
        steps, seen = steps[self.skip :], seen[self.skip :]
        if len(seen) < LEAST - self.skip:
            return unknown(self.figure)
        for value in self.values:
            if np.all(np.abs(seen - value) <= 1e-9):
                return found(f"{self.figure} is {value:g} in every step {steps[0]}-{steps[-1]}", steps, seen)
        return NO


@dataclass(frozen=True)
class Most:
    """The median of the steps, so that of half of them at least, is beyond a value."""

    figure: str
    sign: str
    value: float

    def words(self) -> str:
        return f"{self.figure} {self.sign} {self.value:g} in most steps"

    def check(self, history: History) -> Answer:
        steps, seen = history.series(self.figure)
        if len(seen) < LEAST:
            return unknown(self.figure)
        middle = float(np.median(seen))
        if not (middle > self.value if self.sign == ">" else middle < self.value):
            return NO
        return found(f"{self.figure} is {middle:.4g} (median of steps {steps[0]}-{steps[-1]})", steps, seen)


@dataclass(frozen=True)
class Dropping:
    """Falls by `by` or more from first to last, Kendall's test at 99 %."""

    figure: str
    by: float

    def words(self) -> str:
        return f"{self.figure} drops by {self.by:g}"

    def check(self, history: History) -> Answer:
        from scipy.stats import kendalltau

        steps, seen = history.series(self.figure)
        if len(seen) < STEPS - 1:  # four falling values are p = 0.04
            return unknown(self.figure)
        if seen[0] - seen[-1] < self.by:
            return NO
        p = float(kendalltau(steps, seen, alternative="less").pvalue)
        if not p <= 0.01:
            return NO
        text = f"{self.figure} drops from {seen[0]:.3g} to {seen[-1]:.3g} by step {steps[-1]} ({percent(p)})"
        return found(text, steps, seen)


def _rule(name: str, title: str, when, action: str) -> Rule:
    return Rule(f"smoke_{name}", f"smoke test: {title}", when, action, "smoke")


SMOKE: tuple[Rule, ...] = (
    _rule(
        "reward",
        "the reward is stuck",
        Stuck("reward_mean", (0.0, 1.0)),
        "at 0: look for a bug in data or reward (rft score on samples_stepN.jsonl); at 1: take harder prompts",
    ),
    _rule(
        "has_boxed",
        "answers lose their box",
        AnyOf(Most("has_boxed", "<", 0.5), Dropping("has_boxed", 0.1)),
        "check chat template and prompt; below 95 % at 8192 tokens train on answers first (SFT)",
    ),
    _rule(
        "grad_norm",
        "no gradient, or one that is far too large",
        AnyOf(Stuck("grad_norm", (0.0,)), Most("grad_norm", ">", 100.0)),
        "0: the adapter is frozen or all advantages are 0; above 100: lower --actor_learning_rate",
    ),
    _rule(
        "advantage",
        "advantages are stuck at 0",
        Stuck("advantage_std", (0.0,), skip=1),
        "every group's rewards are equal, or the advantages are computed wrongly: compare reward_std",
    ),
    _rule(
        "truncation",
        "more than half of the answers are cut off",
        Most("truncated", ">", 0.5),
        "raise --generate_max_len",
    ),
    _rule(
        "clip_ratio",
        "most updates are clipped",
        Most("ppo_clip_ratio", ">", 0.4),
        "lower --actor_learning_rate",
    ),
)


def first_steps(history: History) -> History:
    """Steps 1 to `STEPS`; empty where the file begins later (the copied end of a run)."""
    return history.until(STEPS)


def failures(history: History) -> list[tuple[Rule, Answer]]:
    """Smoke rules that the first steps meet."""
    beginning = first_steps(history)
    answers = ((rule, rule.when.check(beginning)) for rule in SMOKE)
    return [(rule, answer) for rule, answer in answers if answer.met]


class SmokeGuard:
    """Stops a run whose first six steps fail the smoke test.

    enabled  --stop_on_smoke_failure; without it `check` does nothing
    """

    def __init__(self, enabled: bool):
        self.enabled, self._columns = enabled, Columns()

    def check(self, step: int, figures: dict) -> None:
        """After each step, with its line's figures; the verdict falls after step six. In the controller.

        raises  RftError naming every rule that is met, with its evidence and remedy
        """
        if not self.enabled or step > STEPS:
            return
        self._columns.add({**figures, "event": "train", "step": step})
        if step < STEPS:
            return
        met = failures(self._columns.history())
        if met:
            said = "; ".join(f"{answer.evidence[0].text}: {rule.action}" for rule, answer in met)
            raise RftError(
                f"the smoke test of steps 1-{STEPS} fails: {said}; without --stop_on_smoke_failure the run would go on"
            )
