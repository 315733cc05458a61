"""Does a run get worse while it trains? Rules over its evaluations, for early stopping and for the report.

    falling     the last 2 evaluations are both below the one before them, each by more than the paired noise: 1.645
                standard errors of the mean per-problem change, which chance exceeds downwards once in 20
    diverging   the OOD evaluation falls so while the training accuracy of the same steps rises (Theil-Sen slope, its
                95 % interval above 0)

Called by the trainer after each evaluation and by readers of a finished run, with results of one mode and set by step
(rft/evals/of_run.py's `own`). Pure functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

CONSECUTIVE = 2
DEVIATIONS = 1.645  # one-sided 95 %


@dataclass(frozen=True)
class Drop:
    """From the evaluation at `since` to the one at `step`; noise: what chance explains, all fractions."""

    since: int
    step: int
    change: float
    noise: float
    problems: int


def falling(results: Sequence[dict]) -> list[Drop]:
    """The last two drops against the evaluation before them, [] unless both exceed their noise."""
    if len(results) < CONSECUTIVE + 1:
        return []
    before = results[-CONSECUTIVE - 1]
    drops = [_change(before, later) for later in results[-CONSECUTIVE:]]
    return drops if all(drop.change < -drop.noise for drop in drops) else []


def _change(before: dict, later: dict) -> Drop:
    import numpy as np

    one, other = ({p["id"]: sum(p["correct"]) / len(p["correct"]) for p in r["problems"]} for r in (before, later))
    changes = np.asarray([other[key] - one[key] for key in one if key in other])
    noise = DEVIATIONS * float(changes.std(ddof=1) / np.sqrt(len(changes))) if len(changes) > 1 else 1.0
    return Drop(before["step"], later["step"], float(changes.mean()), noise, len(changes))


def warning(results: Sequence[dict], name: str) -> str | None:
    """One line for the log, None where nothing falls. name: of set and mode."""
    drops = falling(results)
    if not drops:
        return None
    told = ", ".join(f"{100 * d.change:+.1f} points at step {d.step} (noise {100 * d.noise:.1f})" for d in drops)
    return f"{name} falls against step {drops[0].since}: {told}, {drops[0].problems} problems; --early_stop stops here"


def diverging(results: Sequence[dict], training: Sequence[tuple[int, float]], name: str) -> str | None:
    """One line where `results` fall while training accuracy rises; training: (step, accuracy) of the run."""
    from scipy.stats import theilslopes

    drops = falling(results)
    inside = [(step, value) for step, value in training if drops and drops[0].since <= step <= drops[-1].step]
    if len(inside) < 4:
        return None
    slope, _, low, _ = theilslopes([value for _, value in inside], [step for step, _ in inside])
    if not low > 0:
        return None
    return (
        f"training accuracy rises ({slope:+.4f} a step since step {inside[0][0]}) while {name} falls "
        f"({100 * drops[-1].change:+.1f} points): what is learnt does not carry over"
    )
