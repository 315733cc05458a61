"""Tests of the difference between two models on the same problems.

    mcnemar    greedy, one answer each: exact, two-sided; the flips up are Binomial(up + down, 1/2) under no difference
    sign_flip  several samples each: under no difference a problem's change is as likely the other way round, so all 2^P
               signs of the changes are equally likely. Exact by convolution where the changes lie on a grid (multiples
               of 1/n), exact by enumeration where few problems change, else Monte Carlo with a stated seed

On single answers both are the same test. Problems that do not change say nothing and drop out of either.
"""

from __future__ import annotations

from dataclasses import dataclass

from rft.errors import RftError
from rft.stats.arrays import binary, correctness

ENUMERATED = 14  # 2^14 sign patterns at the most
RESAMPLES = 19_999
SEED = 20261120
_CELLS = 200_000_000  # additions that a convolution may cost: under a second
_BATCH = 1_000_000


@dataclass(frozen=True)
class PairedTest:
    """p: two-sided; up, down: problems that got better, worse; method: which test, in words."""

    p: float
    up: int
    down: int
    method: str


def mcnemar(first, second) -> PairedTest:
    """Exact McNemar test of two (P,) or (P, 1) arrays of 0 and 1, paired by position."""
    from scipy import stats

    one, other = binary(first, "first"), binary(second, "second")
    if one.shape != other.shape or one.shape[1] != 1:
        raise RftError(f"McNemar's test takes one answer a problem of both, got {one.shape} and {other.shape}")
    up, down = int((other > one).sum()), int((other < one).sum())
    p = float(stats.binomtest(up, up + down).pvalue) if up + down else 1.0
    return PairedTest(p, up, down, "exact McNemar")


def changes(first, second):
    """(P,) mean correctness of the second less that of the first, and its grid: all are whole multiples of it.

    first, second  (P, n) and (P, m); the grid is None where correctness is not 0/1
    """
    import math

    import numpy as np

    one, other = correctness(first, "first"), correctness(second, "second")
    if len(one) != len(other):
        raise RftError(f"paired test: {len(one)} and {len(other)} problems; compare results over the same problems")
    whole = all(np.isin(array, (0.0, 1.0)).all() for array in (one, other))
    grid = 1 / math.lcm(one.shape[1], other.shape[1]) if whole else None
    return other.mean(axis=1) - one.mean(axis=1), grid


def sign_flip(differences, grid: float | None = None, resamples: int = RESAMPLES, seed: int = SEED) -> PairedTest:
    """Two-sided permutation test that the mean of (P,) changes is 0, over the signs of the changes.

    grid    where given every change is a whole multiple of it (RftError otherwise); makes the test exact for any P
    raises  RftError: no change, or one that is no number
    """
    import numpy as np

    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise RftError(f"permutation test: needs one finite change a problem, got shape {d.shape}")
    steps = None
    if grid is not None:
        steps = np.rint(d / grid).astype(np.int64)
        if not np.allclose(steps * grid, d, rtol=0, atol=1e-6 * grid):
            raise RftError(f"permutation test: change {d[np.argmax(abs(steps * grid - d))]} is no multiple of {grid}")
        d = np.where(steps == 0, 0.0, d)
    moved = d[d != 0]
    count, up, down = len(moved), int((d > 0).sum()), int((d < 0).sum())
    if not count:
        return PairedTest(1.0, 0, 0, "exact sign flips: no problem changed")
    if steps is not None and count * int(abs(steps).sum()) <= _CELLS:
        return PairedTest(_convolved(steps[steps != 0]), up, down, "exact sign flips over problems")
    exact = count <= ENUMERATED
    p = _scipy(moved, 2**count if exact else resamples, seed)
    method = "exact sign flips over problems" if exact else f"{resamples} random sign flips over problems, seed {seed}"
    return PairedTest(p, up, down, method)


def _convolved(steps) -> float:
    """P(|sum of randomly signed steps| >= |sum of steps|); steps: whole numbers, none 0."""
    import numpy as np

    sizes = np.sort(abs(steps))
    total = int(sizes.sum())
    chance = np.zeros(2 * total + 1)  # chance[total + s] of the sum s
    chance[total], reach = 1.0, 0
    for size in sizes.tolist():
        low, high = total - reach, total + reach + 1
        spread = chance[low:high] * 0.5
        chance[low:high] = 0.0
        chance[low - size : high - size] += spread
        chance[low + size : high + size] += spread
        reach += size
    seen = abs(int(steps.sum()))
    tail = float(chance[total + seen :].sum())
    return min(1.0, 2 * tail) if seen else 1.0


def _scipy(moved, resamples: int, seed: int) -> float:
    """scipy.stats.permutation_test over pairs (change, 0): all patterns where `resamples` suffice, else random ones."""
    import numpy as np
    from scipy import stats

    if len(moved) == 1:
        return 1.0
    found = stats.permutation_test(
        (moved, np.zeros_like(moved)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _BATCH // len(moved)),
        rng=seed,
    )
    return min(1.0, float(found.pvalue))
