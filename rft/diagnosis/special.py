"""The questions of rules that a trend or a level cannot put: schedules, figures that stand still, digests.

Each takes a History and gives a `conditions.Answer`; `rules` says which rule asks what, and with which thresholds.
"""

import numpy as np

from rft.diagnosis import trends
from rft.diagnosis.conditions import NO, Answer, found, percent, unknown
from rft.diagnosis.history import History

WINDOW_GAIN = 0.03  # of a reward in [0, 1]


def target_share(history: History) -> tuple[np.ndarray, np.ndarray]:
    """(steps, learning rate as a share of its target): as logged, else worked out from the run's flags."""
    steps, share = history.series("lr_share")
    target = history.number("actor_learning_rate")
    if not len(share) and target:
        steps, rates = history.series("actor_lr")
        share = rates / target
    return steps, share


def target_missed(least: float, at_step: int, early: float):
    """The learning rate has not reached `least` of its target and will not by the last step, as it is going; or, where
    the run's length is not known, it is below `early` of it at `at_step`."""

    def ask(history: History) -> Answer:
        steps, share = target_share(history)
        if len(share) < trends.MIN_POINTS:
            return _still_rising_at_the_end(history)
        best = int(np.argmax(share))
        if share[best] >= least:
            return NO
        shown = f"the learning rate has reached {share[best]:.0%} of its target, at step {steps[best]} of "
        total = history.total_steps
        if total is None:
            if steps[-1] < at_step or share[-1] >= early:
                return NO
            return found(f"{shown}an unknown number, and stands at {share[-1]:.0%}", steps, share)
        if best < len(share) - 1 and share[-1] < 0.98 * share[best]:
            return found(f"{shown}{total}, and falls since, to {share[-1]:.0%}", steps, share)
        pace = (share[-1] - share[len(share) // 2]) / max(1, steps[-1] - steps[len(share) // 2])
        at_end = share[-1] + pace * max(0, total - steps[-1])
        if at_end >= least:
            return NO
        return found(f"{shown}{total}; at its pace it will be {at_end:.0%} at the end", steps, share)

    return ask


def _still_rising_at_the_end(history: History) -> Answer:
    """Where the target is not known: the last step has come and the warm-up has not ended."""
    steps, rates = history.series("actor_lr")
    total = history.total_steps
    if len(rates) < trends.MIN_POINTS or total is None or steps[-1] < total:
        return unknown("lr_share")
    if not np.all(np.diff(rates[len(rates) // 2 :]) > 0):
        return NO
    return found(
        f"the learning rate still rises at the last step, {steps[-1]}: the warm-up has not ended", steps, rates
    )


def warmed_up(share: float):
    """The learning rate has reached `share` of its target, where that is known."""

    def ask(history: History) -> Answer:
        _, shares = target_share(history)
        return Answer(not len(shares) or bool(shares.max() >= share))

    return ask


def no_gain(figure: str, p: float):
    """The figure does not rise over the whole run: Mann-Kendall's p is above `p`, one-sided; nor does its last half or
    quarter by `WINDOW_GAIN` (at a fifth of `p`)."""

    def ask(history: History) -> Answer:
        steps, values = history.series(figure)
        whole = trends.trend(steps, values)
        if whole is None:
            return unknown(figure)
        parts = [trends.trend(steps[window], values[window]) for window in trends.windows(len(values))[1:]]
        if whole.p_up <= p or any(part.p_up <= p / 5 and part.change >= WINDOW_GAIN for part in parts):
            return NO
        text = (
            f"{figure} does not rise over steps {whole.first_step}-{whole.last_step} (Mann-Kendall "
            f"{percent(whole.p_up)}; Theil-Sen change {whole.change:+.3g}, at most {whole.high:+.3g} at "
            f"{trends.CONFIDENCE:.0%})"
        )
        return found(text, steps, values)

    return ask


def gains(figure: str, p: float):
    """The opposite, where the figure is there."""

    def ask(history: History) -> Answer:
        answer = no_gain(figure, p)(history)
        return answer if answer.met is None else Answer(not answer.met)

    return ask


def zero(figure: str, least: int):
    """The figure is exactly 0 in the last `least` steps or more, though the learning rate is not."""

    def ask(history: History) -> Answer:
        steps, values = history.series(figure)
        if len(values) < least:
            return unknown(figure)
        rate_steps, rates = history.series("actor_lr")
        moving = rate_steps[rates > 0]
        if len(rates) and not len(moving):
            return NO
        later = steps > (moving[0] if len(moving) else steps[0])
        steps, values = steps[later], values[later]
        run = len(values) if not np.any(values) else len(values) - 1 - int(np.flatnonzero(values)[-1])
        if run < least:
            return NO
        return found(f"{figure} is exactly 0 in steps {steps[-run]}-{steps[-1]}", steps[-run:], values[-run:])

    return ask


def ratio_never_moves(least: int):
    """With several optimizer steps a rollout the ratio leaves 1 as soon as a weight moves; here it never does."""

    def ask(history: History) -> Answer:
        _, count = history.series("optimizer_steps")
        if not len(count):
            return unknown("optimizer_steps")
        if np.median(count) < 2:
            return NO
        return zero("log_ratio_raw_max", least)(history)

    return ask


def kl_is_measured(history: History) -> Answer:
    """A KL of 0 means something: the run has a reference (--init_kl_coef is not 0) as far as its flags are known."""
    return NO if history.number("init_kl_coef") == 0 else Answer(True)


def digests_stand(least: int):
    """The adapter that the engines were given has had the same digests for `least` syncs, the learning rate not 0."""

    def ask(history: History) -> Answer:
        lines = [s for s in history.syncs if s.get("digests") and isinstance(s.get("version"), int)]
        if len(lines) <= least:
            return unknown("sync_log.jsonl")
        _, rates = history.series("actor_lr")
        if len(rates) and not np.any(rates[-least:] > 0):
            return NO
        last, same = lines[-1], 0
        for line in reversed(lines):
            if line["digests"] != last["digests"]:
                break
            same += 1
        if same <= least:
            return NO
        versions = np.array([s["version"] for s in lines[-same:]])
        return found(f"the adapter's digests are the same in the last {same} syncs", versions, versions.astype(float))

    return ask
