"""Intervals against published tables, scipy and score equations solved another way."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from rft.errors import RftError
from rft.stats import intervals


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(right, n, low, high):
    found = intervals.wilson(right, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_is_scipys_for_every_count():
    for n in (1, 7, 18, 202):
        for right in range(n + 1):
            for level in (0.9, 0.95):
                wanted = stats.binomtest(right, n).proportion_ci(level, method="wilson")
                found = intervals.wilson(right, n, level)
                assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
                assert right / n in found and 0 <= found.low <= found.high <= 1


@pytest.mark.parametrize("values", [[0, 0.125, 1, 1, 0.5, 0.25, 0.875], [1, 1, 0, 1], [0.5, 0.5, 0.625] * 6])
def test_mean_interval_solves_the_score_equation_of_the_effective_trials(values):
    """Its limits p fulfil |mean - p| = t sqrt(p (1-p) / trials), where trials = mean (1-mean) / (s^2 / P)."""
    mean, s2, count = np.mean(values), np.var(values, ddof=1), len(values)
    trials, t = mean * (1 - mean) / (s2 / count), stats.t.ppf(0.975, count - 1)
    found = intervals.mean_interval(values)

    def excess(p):
        return abs(mean - p) - t * math.sqrt(p * (1 - p) / trials)

    assert found.low == pytest.approx(optimize.brentq(excess, 1e-9, mean), abs=1e-9)
    assert found.high == pytest.approx(optimize.brentq(excess, mean, 1 - 1e-9), abs=1e-9)


def test_samples_of_one_problem_are_not_independent_trials():
    """48 problems that are always or never right: 8 answers each say no more than one."""
    values = np.repeat([0.0, 1.0], 24)
    clustered, naive = intervals.mean_interval(values), intervals.wilson(24 * 8, 48 * 8)
    assert clustered.high - clustered.low > 2.5 * (naive.high - naive.low)


@pytest.mark.parametrize("make", [intervals.mean_interval, intervals.bootstrap])
@pytest.mark.parametrize(("value", "low", "high"), [(0.0, 0.0, 0.1759), (1.0, 0.8241, 1.0), (0.5, 0.4121, 0.5879)])
def test_no_spread_is_no_certainty(make, value, low, high):
    """18 equal values; at 0 and 1 the limits are Wilson's for 0 and 18 of 18."""
    found = make([value] * 18)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    if value == 0.0:
        assert found.high == pytest.approx(intervals.wilson(0, 18).high)


def test_bootstrap_is_the_bca_interval_at_the_expanded_level():
    """Against BCa written out: bias from the share below, acceleration from the jackknife."""
    values = np.array([0] * 14 + [0.125, 0.125, 0.25, 0.5, 0.875, 1])
    count, mean = len(values), values.mean()
    draws = np.random.default_rng(0).choice(values, (100_000, count)).mean(axis=1)
    z0 = stats.norm.ppf(np.mean(draws < mean) + np.mean(draws == mean) / 2)
    gaps = mean - (values.sum() - values) / (count - 1)
    acceleration = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    wide = math.sqrt(count / (count - 1)) * stats.t.ppf(0.975, count - 1)
    wanted = [np.quantile(draws, stats.norm.cdf(z0 + (z0 + z) / (1 - acceleration * (z0 + z)))) for z in (-wide, wide)]
    found = intervals.bootstrap(values)
    assert [found.low, found.high] == pytest.approx(wanted, abs=0.012)
    plain = np.quantile(draws, [0.025, 0.975])
    assert found.high - found.low > 1.05 * (plain[1] - plain[0])
    percentile = np.quantile(draws, stats.norm.cdf([-wide, wide]))
    assert abs(percentile - wanted).max() > 0.04, "these values do not tell BCa from the percentile interval"


def test_bootstrap_states_and_keeps_its_seed():
    values = np.linspace(0, 1, 30)
    one, again, other = (intervals.bootstrap(values, seed=seed) for seed in (7, 7, 8))
    assert one == again and (one.low, one.high) != (other.low, other.high)
    assert "seed 7" in one.method and "9999 resamples" in one.method


def test_tango_as_published():
    """Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014): airway data, 1 and 7 discordant of 21."""
    found = intervals.tango(1, 7, 21)
    assert (found.low, found.high) == (pytest.approx(-0.517, abs=5e-4), pytest.approx(-0.026, abs=5e-4))


def test_tango_is_the_score_test_inverted_numerically():
    """The nuisance share by maximising the trinomial likelihood, the limits by a grid: no formula in common."""

    def score(up, down, n, d):
        low, high = max(0.0, -d), (1 - d) / 2  # shares: down q, up q + d, rest 1 - 2q - d
        same = n - up - down

        def loss(q):
            parts = ((up, q + d), (down, q), (same, 1 - 2 * q - d))
            return -sum(k * math.log(max(p, 1e-300)) for k, p in parts if k)

        q = optimize.minimize_scalar(
            loss, (low, high), bounds=(low, high), method="bounded", options={"xatol": 1e-10}
        ).x
        return (up - down - n * d) / math.sqrt(n * (2 * q + d - d * d))

    for up, down, n in ((5, 1, 18), (0, 4, 20), (3, 3, 45), (12, 2, 50)):
        found = intervals.tango(up, down, n)
        assert score(up, down, n, found.low) == pytest.approx(1.959964, abs=2e-3)
        assert score(up, down, n, found.high) == pytest.approx(-1.959964, abs=2e-3)


def test_tango_of_every_small_table_holds_its_estimate_and_mirrors():
    for n in range(1, 13):
        for up in range(n + 1):
            for down in range(n + 1 - up):
                found, mirror = intervals.tango(up, down, n), intervals.tango(down, up, n)
                assert -1 <= found.low <= (up - down) / n <= found.high <= 1 and found.low < found.high
                assert (found.low, found.high) == pytest.approx((-mirror.high, -mirror.low), abs=1e-9)


def test_tango_of_large_one_sided_tables():
    """The root's argument is 0 there and must not round below it."""
    for n in (202, 1319, 20_000):
        found, mirror = intervals.tango(0, n, n), intervals.tango(n, 0, n)
        assert found.low == -1 and -1 < found.high < -0.95 and mirror.low == pytest.approx(-found.high, abs=1e-9)


def test_change_interval_without_a_change_is_tangos():
    found, wanted = intervals.change_interval([0.0] * 96), intervals.tango(0, 0, 96)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high)) and found.low < 0 < found.high


def test_change_interval_of_few_changes_knows_that_others_could_have_changed():
    """Three problems of 96 went up by 1/8: a resample alone would exclude 0, five changes could not."""
    changes = np.zeros(96)
    changes[:3] = 0.125
    found = intervals.change_interval(changes)
    assert found.low < 0 < changes.mean() < found.high < 0.02
    assert intervals.bootstrap(changes, least=-1.0).low >= 0
    changes[:40] = 0.125
    assert intervals.change_interval(changes) == intervals.bootstrap(changes, least=-1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.wilson(3, 2), "Wilson interval of 3 of 2"),
        (lambda: intervals.wilson(0, 0), "n > 0"),
        (lambda: intervals.mean_interval([0.5, 1.5]), r"1\.5 is not in"),
        (lambda: intervals.mean_interval([]), "one finite value a problem"),
        (lambda: intervals.bootstrap([0.5, float("nan")]), "one finite value a problem"),
        (lambda: intervals.tango(3, 3, 5), "3 up and 3 down of 5"),
        (lambda: intervals.wilson(1, 2, level=95), "confidence level 95"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(RftError, match=message):
        call()
