"""Confidence intervals of accuracies and of paired differences, problems being what was drawn by chance.

    wilson         greedy accuracy: Wilson's score interval (JASA 22, 1927)
    mean_interval  accuracy from several samples a problem, pass@k, maj@n, rates: Wilson's interval with the number of
                   independent 0/1 trials that has the problems' observed variance, and Student's quantile (the survey
                   statistician's effective sample size; Korn and Graubard, Survey Methodology 24, 1998)
    bootstrap      any mean over problems, and differences: BCa bootstrap (Efron 1987) at Hesterberg's expanded level
                   (The American Statistician 69, 2015, section 4.3), without which it is too narrow for few problems
    tango          difference of paired proportions: Tango's score interval (Statistics in Medicine 17, 1998)
    change_interval    mean change of several samples a problem: bootstrap, and tango's where too few problems changed

Where all values are equal there is no spread to resample: the interval then allows for the share of problems that could
behave otherwise and yet be absent from these P, Wilson's upper limit for 0 of P. So 0 of 18 is [0 %, 17.6 %], never
[0 %, 0 %]. Coverage is measured in tests/test_stats_coverage.py.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from rft.errors import RftError

LEVEL = 0.95
RESAMPLES = 9999
SEED = 20261120
FEW = 6  # 2 * 2^-5 > 0.05: five changes one way are not significant
_BATCH = 2_000_000  # resampled values held at a time, 16 MB


@dataclass(frozen=True)
class Interval:
    """low <= high; level: the confidence, a fraction; method: how it was made, in words."""

    low: float
    high: float
    method: str
    level: float = LEVEL

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def wilson(right: float, n: float, level: float = LEVEL) -> Interval:
    """Interval of a proportion: `right` of `n` independent trials, 0 <= right <= n, n > 0."""
    if not 0 <= right <= n or n <= 0:
        raise RftError(f"Wilson interval of {right} of {n}: give 0 <= right <= n, n > 0")
    return Interval(*_wilson(right / n, n, _z(level)), "Wilson", level)


def mean_interval(values, level: float = LEVEL) -> Interval:
    """Interval of the mean of values in [0, 1], one a problem, (P,)."""
    import numpy as np
    from scipy import stats

    values = _values(values)
    if not ((values >= 0) & (values <= 1)).all():
        raise RftError(f"mean_interval: value {values[(values < 0) | (values > 1)][0]} is not in [0, 1]")
    count, mean, variance = len(values), float(values.mean()), float(values.var(ddof=1)) if len(values) > 1 else 0.0
    if np.ptp(values) == 0:
        return _without_spread(count, mean, 0.0, level)
    trials = mean * (1 - mean) / (variance / count)
    quantile = float(stats.t.ppf((1 + level) / 2, count - 1))
    return Interval(*_wilson(mean, trials, quantile), "Wilson over problems", level)


def bootstrap(
    values, least: float = 0.0, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """Interval of the mean of one value a problem, (P,), problems resampled.

    least  smallest possible value: 0.0 for correctness, -1.0 for differences of two; the largest is 1.0
    """
    return _bootstrap(_values(values).tobytes(), least, level, resamples, seed)


@functools.lru_cache(maxsize=1024)  # the base of many checkpoints is resampled once
def _bootstrap(data: bytes, least: float, level: float, resamples: int, seed: int) -> Interval:
    import numpy as np
    from scipy import stats

    values = np.frombuffer(data)
    count = len(values)
    if np.ptp(values) == 0:
        return _without_spread(count, float(values[0]), least, level)
    wide = math.sqrt(count / (count - 1)) * float(stats.t.ppf((1 + level) / 2, count - 1))
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BATCH // count),
        confidence_level=1 - 2 * float(stats.norm.sf(wide)),
        method="BCa",
        rng=seed,
    ).confidence_interval
    method = f"BCa bootstrap over problems, {resamples} resamples, seed {seed}"
    return Interval(float(found.low), float(found.high), method, level)


def tango(up: int, down: int, n: int, level: float = LEVEL) -> Interval:
    """Interval of (up - down) / n, the difference of two paired proportions.

    up, down  problems of n right in the second only and in the first only
    The differences that the score test does not reject; the nuisance parameter, the share of `down`, is its constrained
    maximum-likelihood value at each. Asymptotic: near the threshold it can exclude 0 where the exact test of
    rft.stats.paired, which decides, does not reject.
    """
    from scipy.optimize import brentq

    if min(up, down) < 0 or up + down > n or n < 1:
        raise RftError(f"paired interval of {up} up and {down} down of {n}: give up + down <= n, n > 0")
    z, estimate = _z(level), (up - down) / n

    def score(difference: float) -> float:
        linear = (2 * n - up + down) * difference - up - down
        constant = -down * difference * (1 - difference)
        share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return (up - down - n * difference) / math.sqrt(variance) if variance > 0 else 0.0

    edge = 1e-12  # the variance is 0 at ±1
    low = -1.0 if estimate == -1 else brentq(lambda d: score(d) - z, -1 + edge, estimate, xtol=1e-12)
    high = 1.0 if estimate == 1 else brentq(lambda d: score(d) + z, estimate, 1 - edge, xtol=1e-12)
    return Interval(low, high, "Tango's score interval", level)


def change_interval(changes, level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """Interval of the mean of (P,) changes in [-1, 1], one a problem, problems resampled.

    With fewer than 6 changed problems (which no exact test tells from none) a resample knows too little of the rest:
    then tango's interval of the signs, times the largest change seen.
    """
    import numpy as np

    values = _values(changes)
    changed = int((values != 0).sum())
    if not 0 < changed < FEW:
        return bootstrap(values, -1.0, level, resamples)
    signs = tango(int((values > 0).sum()), int((values < 0).sum()), len(values), level)
    largest, mean = float(np.abs(values).max()), float(values.mean())
    method = f"{signs.method}, times the largest change: {changed} problems changed"
    return Interval(min(mean, largest * signs.low), max(mean, largest * signs.high), method, level)


def _without_spread(count: int, value: float, least: float, level: float) -> Interval:
    """All `count` values are `value`: unseen problems may be anything in [least, 1]."""
    unseen = _wilson(0.0, count, _z(level))[1]
    low, high = value - unseen * (value - least), value + unseen * (1.0 - value)
    return Interval(low, high, "Wilson's limit for 0 of P: no problem differs", level)


def _wilson(share: float, n: float, z: float) -> tuple[float, float]:
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if share == 0 else (centre - half) / scale  # rounding aside they are exactly so
    high = 1.0 if share == 1 else (centre + half) / scale
    return low, high


def _z(level: float) -> float:
    from statistics import NormalDist

    if not 0 < level < 1:
        raise RftError(f"confidence level {level}: give a fraction between 0 and 1")
    return NormalDist().inv_cdf((1 + level) / 2)


def _values(values):
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise RftError(f"interval over problems: needs one finite value a problem, got shape {array.shape}")
    return array
