"""Is a noisy series going up, going down, or neither: a robust test with a stated confidence.

Mann-Kendall's test (Kendall's tau of the values against the steps) says whether there is a monotone trend; the
Theil-Sen slope says how large it is. Both stand outliers. Figures of neighbouring steps are alike, which makes the
plain test find trends in noise: the variance is corrected for autocorrelation as Hamed and Rao do (J. Hydrology 204,
1998, eq. 10), never below the plain one. A series longer than `BLOCKS` is replaced by the medians of that many blocks.

Called by the conditions of the rules. Values are finite; steps ascend; neither need be evenly spaced.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.99  # of a trend, one-sided, over all windows that are looked at
BLOCKS = 256
MIN_POINTS = 8  # below it a test at 99 % has no power against noise
MAX_LAG = 20
SHIFT = 3.0  # robust standard deviations


@dataclass(frozen=True)
class Trend:
    """start, end: the fitted line's values at both ends; low, high: two-sided interval of end - start at `CONFIDENCE`;
    p_up, p_down: one-sided p-values of a rise and of a fall.
    """

    first_step: int
    last_step: int
    points: int
    start: float
    end: float
    low: float
    high: float
    p_up: float
    p_down: float
    test: str = "Mann-Kendall"

    @property
    def change(self) -> float:
        return self.end - self.start

    def words(self, direction: int) -> str:
        """``from 0.3 to 0.5 over steps 1-60 (Mann-Kendall p = …; …)``; p of the direction, +1 or -1."""
        p = self.p_up if direction > 0 else self.p_down
        told = "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
        size = f"Theil-Sen change {self.change:+.3g}" if self.test == "Mann-Kendall" else f"shift {self.change:+.3g}"
        interval = f"{CONFIDENCE:.0%} interval {self.low:+.3g} to {self.high:+.3g}"
        steps = f"steps {self.first_step}-{self.last_step}"
        return f"from {self.start:.4g} to {self.end:.4g} over {steps} ({self.test} {told}; {size}, {interval})"


def blocks(steps: np.ndarray, values: np.ndarray, count: int = BLOCKS) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) thinned to at most `count` points: the medians of equal runs of neighbours."""
    if len(values) <= count:
        return steps.astype(float), values
    edges = np.linspace(0, len(values), count + 1).astype(int)
    pairs = list(itertools.pairwise(edges))
    return (
        np.array([np.median(steps[a:b]) for a, b in pairs]),
        np.array([np.median(values[a:b]) for a, b in pairs]),
    )


def variance_factor(residuals: np.ndarray) -> float:
    """By how much autocorrelation of the detrended ranks widens the variance of S, at least 1: Hamed and Rao's sum over
    the lags up to the first that is not significant, or (1 + r) / (1 - r) of a first-order process with the lag-1
    autocorrelation r, which a short series may hide, whichever is larger."""
    from scipy.stats import rankdata

    n = len(residuals)
    if n < 10 or np.ptp(residuals) == 0:
        return 1.0
    ranks = rankdata(residuals)
    ranks = ranks - ranks.mean()
    power = float(ranks @ ranks)
    rho = [float(ranks[:-lag] @ ranks[lag:]) / power for lag in range(1, min(MAX_LAG, n // 4) + 1)]
    weights = [(n - lag) * (n - lag - 1) * (n - lag - 2) for lag in range(1, len(rho) + 1)]
    count = next((i for i, r in enumerate(rho) if abs(r) <= 1.96 / math.sqrt(n)), len(rho))
    total = sum(w * r for w, r in zip(weights[:count], rho[:count], strict=True))
    first_order = (1 + rho[0]) / (1 - rho[0]) if 0 < rho[0] < 1 else 1.0
    return max(1.0, first_order, 1 + 2 * total / (n * (n - 1) * (n - 2)))


def without_trend(y: np.ndarray, line: np.ndarray) -> np.ndarray:
    """What is left of y without its trend: the line, or the step between two levels if that fits better. A collapse is
    a step; against a line its two levels would look like autocorrelation, and hide it."""
    n = len(y)
    splits = np.arange(3, n - 2)
    if not len(splits):
        return y - line
    sums, squares = np.cumsum(y), np.cumsum(y * y)
    left, right = sums[splits - 1], sums[-1] - sums[splits - 1]
    costs = squares[-1] - left**2 / splits - right**2 / (n - splits)
    split = int(splits[np.argmin(costs)])
    step = np.where(np.arange(n) < split, y[:split].mean(), y[split:].mean())
    return min((y - line - np.mean(y - line), y - step), key=lambda rest: float(rest @ rest))


def trend(steps: np.ndarray, values: np.ndarray) -> Trend | None:
    """Of the whole series; None below `MIN_POINTS` points."""
    from scipy.stats import kendalltau, norm, theilslopes

    if len(values) < MIN_POINTS:
        return None
    x, y = blocks(np.asarray(steps), np.asarray(values, dtype=float))
    first, last, span = int(steps[0]), int(steps[-1]), float(x[-1] - x[0])
    if np.ptp(y) == 0:
        level = float(y[0])
        return Trend(first, last, len(values), level, level, 0.0, 0.0, 1.0, 1.0)
    fit = theilslopes(y, x, alpha=CONFIDENCE)
    factor = math.sqrt(variance_factor(without_trend(y, fit.slope * x)))
    tau, p = kendalltau(x, y)
    z = math.copysign(float(norm.isf(p / 2)) / factor, tau) if p > 0 else math.copysign(math.inf, tau)
    middle = float(np.median(y - fit.slope * x))
    low = fit.slope - (fit.slope - fit.low_slope) * factor
    high = fit.slope + (fit.high_slope - fit.slope) * factor
    ends = (middle + fit.slope * float(x[0]), middle + fit.slope * float(x[-1]))
    return Trend(first, last, len(values), *ends, low * span, high * span, float(norm.sf(z)), float(norm.cdf(z)))


def windows(count: int) -> list[slice]:
    """What is looked at for a trend: all, the last half, the last quarter; those of at least `MIN_POINTS`."""
    starts = sorted({0, count // 2, count - count // 4})
    return [slice(start, count) for start in starts if count - start >= MIN_POINTS]


def significant(steps: np.ndarray, values: np.ndarray, direction: int, by: float) -> Trend | None:
    """The trend of the first window in which the series goes `direction` (+1, -1) by at least `by`, or else a shift of
    its end against what came just before or against the start; None without either.

    The confidence is shared among the windows and the two shifts (Bonferroni). A trend has to have led somewhere: the
    level now is at least half of `by` beyond the one before the window (for the whole run: the first one), so that
    neither a rise that was lost again nor the recovery from a dip counts as a rise.
    """
    looked_at = windows(len(values))
    alpha = (1 - CONFIDENCE) / (len(looked_at) + 2)
    for window in looked_at:
        found = trend(steps[window], values[window])
        p = found.p_up if direction > 0 else found.p_down
        before = float(np.median(values[: window.start])) if window.start else head(values)
        led = direction * (tail(values) - before)
        if p <= alpha and direction * found.change >= by and led >= by / 2 and led > 0:
            return found
    for since_start in (False, True):
        found = shift(steps, values, since_start)
        p = 1.0 if found is None else found.p_up if direction > 0 else found.p_down
        if p <= alpha and direction * found.change >= by:
            return found
    return None


def shift(steps: np.ndarray, values: np.ndarray, since_start: bool = False) -> Trend | None:
    """Has the end of the series (`edge` values) left the level of the three times as many values before it: the fresh
    collapse that the Theil-Sen slope, which a quarter of the values cannot move, does not show yet. Or the level of the
    first ones: a collapse in the middle, neither a line nor a step.

    Mann-Whitney's test, its variance widened as the trend's; a shift below `SHIFT` robust standard deviations of the
    noise is none. The interval is that of the difference of medians under normal noise. None where the series is short.
    """
    from scipy.stats import mannwhitneyu, norm

    late = edge(len(values))
    early = min(3 * late, len(values) - late)
    if early < MIN_POINTS:
        return None
    start = 0 if since_start else len(values) - late - early
    x, y = values[start : start + early], values[-late:]
    rest = np.concatenate([x - np.median(x), y - np.median(y)])
    change, noise = float(np.median(y) - np.median(x)), spread(rest)
    if abs(change) < SHIFT * noise or change == 0:
        return None
    factor = math.sqrt(variance_factor(rest))
    z = float(norm.isf(mannwhitneyu(y, x, alternative="greater").pvalue)) / factor
    error = float(norm.isf((1 - CONFIDENCE) / 2)) * factor * 1.2533 * noise * math.sqrt(1 / late + 1 / early)
    ends = float(np.median(x)), float(np.median(y))
    bounds = change - error, change + error
    return Trend(
        int(steps[start]),
        int(steps[-1]),
        late + early,
        *ends,
        *bounds,
        float(norm.sf(z)),
        float(norm.cdf(z)),
        "Mann-Whitney",
    )


def edge(count: int) -> int:
    """How many steps make an end of a series: a tenth of it, 5 to 50."""
    return min(count, max(5, min(50, count // 10)))


def head(values: np.ndarray) -> float:
    """The level that the series began at: median of its first tenth."""
    return float(np.median(values[: edge(len(values))]))


def tail(values: np.ndarray) -> float:
    """The level that it has now: median of its last tenth."""
    return float(np.median(values[-edge(len(values)) :]))


def peak(values: np.ndarray) -> float:
    """The highest level that it held: largest median of `edge` neighbours."""
    width = edge(len(values))
    return float(np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1).max())


def spread(values: np.ndarray) -> float:
    """Robust standard deviation: 1.4826 times the median absolute deviation from the median."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def medians_around(values: np.ndarray, before: int, after: int) -> np.ndarray:
    """(N,) median of each value with up to `before` values before it and `after` behind it."""
    width, count = before + after + 1, len(values)
    if count <= width:
        return np.array([np.median(values[max(0, i - before) : i + after + 1]) for i in range(count)])
    whole = np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)
    first = [np.median(values[: i + after + 1]) for i in range(before)]
    last = [np.median(values[i - before :]) for i in range(count - after, count)]
    return np.concatenate([first, whole, last])
