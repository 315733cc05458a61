"""The smallest difference that P problems can detect, for both tests of rft.stats.paired.

Greedy: exact unconditional power of the exact McNemar test, summed over the number of problems that flip. Its one
unknown is the discordance, the share of problems where the two models' answers differ in correctness; a difference
larger than the assumed discordance raises the discordance to itself (then all flips go one way).

Sampling: power of the paired t-test (noncentral t), which the sign-flip test reaches as P grows; its one unknown is the
standard deviation of the problems' changes. Never below what the changes' grid allows: the test needs at least 6
problems that change, each by 1/n at least.

Differences are fractions, two-sided tests; called before a run with assumptions, and by rft.stats.compare with what was
observed.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from rft.errors import RftError
from rft.stats.arrays import correctness

POWER = 0.8
ALPHA = 0.05
# Assumed where nothing was measured. 0.2: a fifth of a set flips or, for sampling, two answers to a problem disagree in
# a fifth of the pairs. 0.1: a checkpoint moves a problem's true accuracy by ±10 points.
DISCORDANCE = 0.2
CHANGE_SD = 0.1


@dataclass(frozen=True)
class Detectable:
    """difference: smallest true one found with `power` at two-sided `alpha`, a fraction; None where none can be.

    problems; basis: what was assumed or observed, in words
    """

    difference: float | None
    problems: int
    basis: str
    power: float = POWER
    alpha: float = ALPHA

    @property
    def words(self) -> str:
        """``18 problems can detect 41 points``."""
        if self.difference is None:
            return f"{self.problems} problems can detect no difference"
        points = 100 * self.difference
        return f"{self.problems} problems can detect {points:.{0 if points >= 10 else 1}f} points"


def mcnemar_power(problems: int, discordance: float, difference: float, alpha: float = ALPHA) -> float:
    """Chance that the exact McNemar test of `problems` rejects at `alpha`.

    discordance  share of problems that flip either way
    difference   flips up less flips down, a share; |difference| <= discordance
    """
    import numpy as np
    from scipy import stats

    if not 0 <= discordance <= 1 or abs(difference) > discordance + 1e-12:
        raise RftError(f"power: difference {difference} cannot exceed the discordance {discordance} (at most 1)")
    if discordance == 0:
        return 0.0
    share = min(1.0, (1 + abs(difference) / discordance) / 2)  # of the flips, those in the commoner direction
    flips = np.arange(problems + 1)
    few = _critical(problems, alpha)  # (P + 1,)
    rejects = stats.binom.cdf(few, flips, share) + stats.binom.sf(flips - few - 1, flips, share)
    return float(np.sum(stats.binom.pmf(flips, problems, discordance) * rejects))


def detectable_greedy(
    problems: int, discordance: float = DISCORDANCE, power: float = POWER, alpha: float = ALPHA, observed: bool = False
) -> Detectable:
    """Of `greedy_pass@1` on `problems` problems; `observed` says that the discordance was measured, not assumed."""
    _check(problems, power, alpha)
    basis = f"{'observed' if observed else 'assumed'} discordance {discordance:.3g}"

    def reached(difference: float) -> float:
        return mcnemar_power(problems, max(discordance, difference), difference, alpha) - power

    return Detectable(_smallest(reached), problems, basis, power, alpha)


def permutation_power(problems: int, sd: float, difference: float, alpha: float = ALPHA) -> float:
    """Chance that the paired test rejects: changes of standard deviation `sd` > 0 about `difference`."""
    from scipy import stats

    freedom, shift = problems - 1, abs(difference) * math.sqrt(problems) / sd
    critical = stats.t.isf(alpha / 2, freedom)
    if shift > 30:  # power is 1 to all digits unless P is 2 or 3, where the normal tail is near enough
        return float(stats.norm.sf(critical - shift))
    wrong_way = float(stats.nct.cdf(-critical, freedom, shift)) if shift < 4 else 0.0  # scipy: NaN where it vanishes
    return float(stats.nct.sf(critical, freedom, shift)) + wrong_way


def detectable_sampling(
    problems: int,
    samples: int,
    discordance: float = DISCORDANCE,
    change_sd: float = CHANGE_SD,
    power: float = POWER,
    alpha: float = ALPHA,
) -> Detectable:
    """Of avg@n before a run, n = `samples` a problem from either model.

    discordance  chance that two answers to a problem, one from each model, differ in correctness; with independent
                 answers of equally good models it is 2 E[p(1-p)], and their changes have variance discordance / n
    change_sd    standard deviation of the true changes over problems
    """
    if samples < 1 or not 0 <= discordance <= 1:
        raise RftError(f"power: {samples} samples, discordance {discordance}; at least 1 sample, a share in [0, 1]")
    basis = f"assumed discordance {discordance:.3g} of answers, true changes of sd {change_sd:.3g}"
    return _sampling(problems, samples, math.sqrt(discordance / samples + change_sd**2), basis, power, alpha)


def detectable_observed(first, second, power: float = POWER, alpha: float = ALPHA) -> Detectable:
    """After a run, from the correctness of both models, (P, n) and (P, m), paired by position.

    One binary answer each: McNemar's with the observed discordance. Else from the observed sd of the changes, which
    shared seeds make smaller than independent noise would; where no problem changed, from that noise.
    """
    import numpy as np

    one, other = correctness(first, "first"), correctness(second, "second")
    problems, samples = len(one), min(one.shape[1], other.shape[1])
    d = other.mean(axis=1) - one.mean(axis=1)
    if one.shape[1] == other.shape[1] == 1 and np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all():
        return detectable_greedy(problems, float((d != 0).mean()), power, alpha, observed=True)
    sd = float(d.std(ddof=1)) if problems > 1 else 0.0
    if sd > 0:
        return _sampling(problems, samples, sd, f"observed changes of sd {sd:.3g}", power, alpha)
    noise = math.sqrt(sum(float(a.var(axis=1, ddof=1).mean()) / a.shape[1] for a in (one, other) if a.shape[1] > 1))
    if noise > 0:
        return _sampling(problems, samples, noise, f"all change alike; sampling noise of sd {noise:.3g}", power, alpha)
    flips = detectable_greedy(problems, 0.0, power, alpha)  # answers never vary: a change is a whole problem's flip
    return Detectable(flips.difference, problems, "all change alike and no answer varies; whole problems", power, alpha)


def _sampling(problems: int, samples: int, sd: float, basis: str, power: float, alpha: float) -> Detectable:
    if sd <= 0:
        raise RftError(f"power: changes of sd {sd}; assume a discordance or true changes above 0")
    few = detectable_greedy(problems, 0.0, power, alpha).difference
    found = None if few is None else _smallest(lambda d: permutation_power(problems, sd, d, alpha) - power)
    return Detectable(None if found is None else max(found, few / samples), problems, basis, power, alpha)


def _smallest(reached) -> float | None:
    """The difference in (0, 1] where the rising `reached` crosses 0; None where it does not even at 1."""
    from scipy.optimize import brentq

    if reached(1.0) < 0:
        return None
    return float(brentq(reached, 1e-9, 1.0, xtol=1e-6))


@functools.lru_cache(maxsize=64)
def _critical(problems: int, alpha: float):
    """(P + 1,) for m flips: the largest number k of the rarer kind that is rejected, 2 P(X <= k) <= alpha; -1: none."""
    import numpy as np
    from scipy import stats

    flips = np.arange(problems + 1)
    k = stats.binom.ppf(alpha / 2, flips, 0.5)
    k = np.where(2 * stats.binom.cdf(k, flips, 0.5) > alpha * (1 + 1e-9), k - 1, k)
    return np.where(flips == 0, -1, k)


def _check(problems: int, power: float, alpha: float) -> None:
    if problems < 1 or not 0 < alpha < power < 1:
        raise RftError(f"power: {problems} problems, power {power}, alpha {alpha}; give P >= 1, 0 < alpha < power < 1")
