"""The robust trend test against exact and simulated values."""

import itertools
import math

import histories
import numpy as np
import pytest

from rft.diagnosis import trends


def test_p_is_the_exact_share_of_orders_for_a_short_series():
    """Eight distinct values, one pair out of order: S = 26, counted over all 8! orders."""
    values = np.array([1.0, 2, 3, 4, 5, 6, 8, 7])

    def s(order):
        return sum(int(b > a) - int(b < a) for a, b in itertools.combinations(order, 2))

    orders = list(itertools.permutations(range(8)))
    assert s(values) == 26
    exact = sum(s(order) >= 26 for order in orders) / len(orders)
    found = trends.trend(np.arange(8), values)
    # scipy's exact p is two-sided; one side of it is half
    assert found.p_up == pytest.approx(exact, rel=0.02)
    assert found.p_down == pytest.approx(1 - found.p_up)


def test_slope_is_the_median_of_all_pairs_and_stands_an_outlier():
    steps = np.array([0, 1, 2, 4, 7, 8, 9, 12])
    values = 2.0 + 0.5 * steps
    values[3] = 100.0
    slopes = [(values[j] - values[i]) / (steps[j] - steps[i]) for i in range(8) for j in range(i + 1, 8)]
    found = trends.trend(steps, values)
    assert found.change == pytest.approx(np.median(slopes) * 12)
    assert found.change == pytest.approx(6.0)
    assert (found.first_step, found.last_step, found.points) == (0, 12, 8)


def test_a_constant_series_has_no_trend():
    found = trends.trend(np.arange(20), np.full(20, 0.3))
    assert (found.change, found.low, found.high, found.p_up, found.p_down) == (0, 0, 0, 1, 1)


def test_too_short_a_series_is_not_judged():
    assert trends.trend(np.arange(7), np.arange(7.0)) is None


@pytest.mark.parametrize(("rho", "most"), [(0.0, 0.03), (0.3, 0.04), (0.6, 0.07)])
def test_false_alarms_in_noise_are_about_as_rare_as_stated(rho, most):
    """p <= 0.02 in 200 series of 60 without a trend; the plain test has 0.02, 0.06 and 0.16 at these correlations."""
    hits = 0
    for seed in range(200):
        noise = histories.noisy(np.random.default_rng(seed), np.zeros(60), 1.0, rho)
        hits += trends.trend(np.arange(60), noise).p_up <= 0.02
    assert hits / 200 <= most


def test_autocorrelation_widens_the_variance():
    rng = np.random.default_rng(0)
    white, red = (histories.noisy(rng, np.zeros(200), 1.0, rho) for rho in (0.0, 0.8))
    assert trends.variance_factor(white) < 1.5 < 4 < trends.variance_factor(red)
    assert trends.variance_factor(np.zeros(50)) == 1.0


def test_a_collapse_is_a_trend_though_its_levels_hang_together():
    """Level, then another level: against a straight line the rest looks like strong autocorrelation."""
    levels = np.concatenate([np.full(45, 10.0), np.full(15, 2.0)])
    line = np.linspace(11.0, 5.0, 60)
    factors, p = [], []
    for seed in range(20):
        values = levels + 0.3 * np.random.default_rng(seed).normal(size=60)
        factors.append(trends.variance_factor(trends.without_trend(values, line)))
        p.append(trends.trend(np.arange(60), values).p_down)
        assert trends.variance_factor(values - line) > 4
    assert np.median(factors) < 1.5 and np.median(p) < 1e-3


def test_a_fresh_collapse_is_a_shift():
    values = np.concatenate([np.full(92, 10.0), np.full(8, 2.0)]) + 0.3 * np.random.default_rng(0).normal(size=100)
    found = trends.significant(np.arange(100), values, -1, 1.0)
    assert found is not None and found.test == "Mann-Whitney" and found.change == pytest.approx(-8, abs=0.5)
    assert found.low < -8 < found.high
    assert trends.significant(np.arange(100), values, 1, 0.0) is None


def test_a_recovery_is_no_rise():
    dip = 10 - 6 * np.exp(-((np.arange(60) - 45) ** 2) / 20.0) + 0.1 * np.random.default_rng(0).normal(size=60)
    assert trends.trend(np.arange(45, 60), dip[45:]).p_up < 1e-3
    assert trends.significant(np.arange(60), dip, 1, 0.5) is None


def test_blocks_keep_the_shape_of_a_long_series():
    steps = np.arange(100_000)
    x, y = trends.blocks(steps, steps / 100_000)
    assert len(x) == len(y) == trends.BLOCKS
    assert y[0] == pytest.approx(0.002, abs=1e-3) and y[-1] == pytest.approx(0.998, abs=1e-3)


@pytest.mark.parametrize(("count", "edge"), [(3, 3), (10, 5), (60, 6), (400, 40), (9000, 50)])
def test_ends_are_a_tenth(count, edge):
    assert trends.edge(count) == edge
    values = np.arange(float(count))
    assert trends.head(values) == (edge - 1) / 2
    assert trends.tail(values) == count - 1 - (edge - 1) / 2
    assert trends.peak(values) == trends.tail(values)


def test_spread_is_the_standard_deviation_of_normal_noise_and_stands_outliers():
    values = np.random.default_rng(0).normal(size=20_000)
    values[:1000] = 1e9
    assert math.isclose(trends.spread(values), 1.0, rel_tol=0.1)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_noise_does_not_shift(rho):
    shifts = 0
    for seed in range(200):
        found = trends.shift(np.arange(60), histories.noisy(np.random.default_rng(seed), np.zeros(60), 1.0, rho))
        shifts += found is not None and min(found.p_up, found.p_down) <= 0.0025
    assert shifts <= 3


@pytest.mark.parametrize(("count", "before", "after"), [(3, 5, 5), (40, 12, 12), (200, 50, 0), (200, 0, 7)])
def test_medians_around_equal_the_plain_loop(count, before, after):
    values = np.random.default_rng(0).normal(size=count)
    plain = [np.median(values[max(0, i - before) : i + after + 1]) for i in range(count)]
    assert trends.medians_around(values, before, after) == pytest.approx(plain)
