"""Power against enumeration of every trinomial table, published figures, and simulated runs of the real tests."""

import json
import math
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from scipy import stats

from rft.errors import RftError
from rft.stats import paired, plan, power


def by_enumeration(n: int, up: float, down: float, alpha: float) -> float:
    """Chance of all tables (flips up, flips down, rest) whose exact McNemar p is at most alpha; no shared code."""
    total = 0.0
    for u, d in product(range(n + 1), repeat=2):
        if u + d > n:
            continue
        p = min(1.0, 2 * sum(math.comb(u + d, k) for k in range(min(u, d) + 1)) / 2 ** (u + d))
        if p <= alpha:
            ways = math.factorial(n) // (math.factorial(u) * math.factorial(d) * math.factorial(n - u - d))
            total += ways * up**u * down**d * (1 - up - down) ** (n - u - d)
    return total


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(
    ("n", "discordance", "difference"), [(18, 0.5, 0.4), (18, 0.2, 0.2), (30, 0.3, 0.1), (7, 1.0, 0.9)]
)
def test_mcnemar_power_against_every_table(n, discordance, difference, alpha):
    up, down = (discordance + difference) / 2, (discordance - difference) / 2
    wanted = by_enumeration(n, up, down, alpha)
    assert power.mcnemar_power(n, discordance, difference, alpha) == pytest.approx(wanted, abs=1e-12)
    assert power.mcnemar_power(n, discordance, -difference, alpha) == pytest.approx(wanted, abs=1e-12)


def test_mcnemar_power_under_no_difference_is_at_most_alpha():
    for discordance in (0.1, 0.5, 1.0):
        assert power.mcnemar_power(100, discordance, 0.0) <= 0.05


def test_paired_power_as_published():
    """G*Power 3.1 (Faul et al. 2007): paired t, dz = 0.5, two-sided 0.05: 34 pairs have power 0.8077775."""
    assert power.permutation_power(34, 1.0, 0.5) == pytest.approx(0.8077775, abs=1e-6)
    assert power.permutation_power(33, 1.0, 0.5) < 0.8 < power.permutation_power(34, 1.0, 0.5)


@pytest.mark.parametrize(
    ("n", "effect", "alpha", "wanted"),
    [
        (18, 0.5, 0.05, 0.5163649719),
        (48, 0.3, 0.0125, 0.3128185620),
        (202, 0.2, 0.05, 0.8075672950),
        (6, 1.2, 0.05, 0.6550433027),
    ],
)
def test_paired_power_is_that_of_statsmodels(n, effect, alpha, wanted):
    """statsmodels 0.15.0, TTestPower().power(effect, n, alpha)."""
    assert power.permutation_power(n, 0.3, 0.3 * effect, alpha) == pytest.approx(wanted, abs=1e-9)


def test_paired_power_at_no_difference_is_alpha_and_never_falls():
    assert power.permutation_power(48, 0.3, 1e-12, 0.03) == pytest.approx(0.03, abs=1e-6)
    powers = [power.permutation_power(200, 0.01, d) for d in np.linspace(0.0001, 1, 400)]
    assert np.isfinite(powers).all() and (np.diff(powers) >= -1e-9).all() and powers[-1] == pytest.approx(1)


@pytest.mark.parametrize(("problems", "discordance"), [(18, 0.1), (18, 0.5), (48, 0.2), (200, 0.1), (202, 0.3)])
def test_detectable_greedy_has_just_the_power(problems, discordance):
    found = power.detectable_greedy(problems, discordance).difference
    assert power.mcnemar_power(problems, max(discordance, found), found) == pytest.approx(0.8, abs=1e-3)
    less = found - 0.01
    assert power.mcnemar_power(problems, max(discordance, less), less) < 0.8


def test_detectable_greedy_of_eighteen_problems():
    """Six flips, all one way, are the fewest that are significant: P(Binomial(18, d) >= 6) = 0.8 at 40 points."""
    found = power.detectable_greedy(18, 0.1)
    assert stats.binom.sf(5, 18, found.difference) == pytest.approx(0.8, abs=1e-4)
    assert found.words == "18 problems can detect 40 points" and "assumed discordance 0.1" in found.basis


def test_five_problems_can_detect_nothing():
    for found in (power.detectable_greedy(5), power.detectable_sampling(5, 8)):
        assert found.difference is None and found.words == "5 problems can detect no difference"
    assert power.detectable_greedy(6).difference == pytest.approx(0.8 ** (1 / 6), abs=1e-4)  # all six must flip


def test_a_stricter_alpha_detects_less():
    """Twenty checkpoints: the first of them has to pass alpha / 20."""
    assert power.detectable_greedy(200, alpha=0.05 / 20).difference > power.detectable_greedy(200).difference + 0.02
    assert power.detectable_sampling(200, 8, alpha=0.05 / 20).difference > power.detectable_sampling(200, 8).difference


def test_detectable_sampling_is_reached_by_the_permutation_test():
    """Runs drawn from the assumption: p uniform, true changes normal, independent answers; the real test on each."""
    rng, problems, samples, change_sd, runs = np.random.default_rng(4), 48, 8, 0.08, 500
    p = rng.uniform(0.3, 0.5, (runs, problems))
    discordance = float((2 * p * (1 - p)).mean())
    found = power.detectable_sampling(problems, samples, discordance, change_sd)
    q = np.clip(p + found.difference + rng.normal(0, change_sd, p.shape), 0, 1)
    d = (rng.binomial(samples, q) - rng.binomial(samples, p)) / samples
    share = np.mean([paired.sign_flip(row, grid=1 / samples).p <= 0.05 for row in d])
    assert share == pytest.approx(0.8, abs=0.05)  # standard error 0.018


def test_more_samples_help_until_the_true_changes_are_all_that_is_left():
    few, many, endless = (power.detectable_sampling(100, n, 0.4, 0.1).difference for n in (1, 8, 10_000))
    assert few > many > endless == pytest.approx(power.detectable_sampling(100, 10_000, 0.0, 0.1).difference, abs=1e-3)


def test_observed_greedy_takes_the_discordance_of_the_data():
    first, second = [0] * 20 + [1] * 80, [1] * 12 + [0] * 8 + [0] * 8 + [1] * 72
    found = power.detectable_observed(first, second)
    assert (
        found.difference == power.detectable_greedy(100, 0.2).difference and found.basis == "observed discordance 0.2"
    )


def test_observed_sampling_takes_the_spread_of_the_changes():
    rng = np.random.default_rng(2)
    first, second = rng.random((60, 8)) < 0.4, rng.random((60, 8)) < 0.5
    sd = (second.mean(axis=1) - first.mean(axis=1)).std(ddof=1)
    found = power.detectable_observed(first, second)
    assert power.permutation_power(60, sd, found.difference) == pytest.approx(0.8, abs=1e-3)
    assert f"sd {sd:.3g}" in found.basis


def test_a_model_against_itself_still_has_a_limit():
    """No change was observed: the limit comes from sampling noise, or from whole problems where answers never vary."""
    rng = np.random.default_rng(2)
    noisy = rng.random((60, 8)) < 0.5
    found = power.detectable_observed(noisy, noisy)
    noise = math.sqrt(2 * noisy.var(axis=1, ddof=1).mean() / 8)
    assert power.permutation_power(60, noise, found.difference) == pytest.approx(0.8, abs=1e-3)
    fixed = np.repeat(rng.random((60, 1)) < 0.5, 8, axis=1)
    assert power.detectable_observed(fixed, fixed).difference == power.detectable_greedy(60, 0.0).difference


def test_a_tiny_spread_cannot_beat_the_six_problems_that_must_change():
    first = np.zeros((200, 8))
    second = first.copy()
    second[0, 0] = 1
    assert power.detectable_observed(first, second).difference == power.detectable_greedy(200, 0.0).difference / 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power.mcnemar_power(10, 0.1, 0.2), r"difference 0\.2 cannot exceed the discordance 0\.1"),
        (lambda: power.detectable_greedy(0), "0 problems"),
        (lambda: power.detectable_greedy(10, power=0.04), "power 0.04"),
        (lambda: power.detectable_sampling(10, 0), "0 samples"),
        (lambda: power.detectable_sampling(10, 8, 0.0, 0.0), "sd 0.0"),
        (lambda: plan.main(["--samples", "0"]), "--samples 0"),
        (lambda: plan.main(["--discordance", "1.5"]), r"--discordance \[1\.5\]"),
    ],
)
def test_impossible_input_is_refused(call, message):
    with pytest.raises(RftError, match=message):
        call()


def test_rft_power_prints_what_the_functions_say(capsys):
    assert plan.main(["--problems", "18", "--discordance", "0.2"]) == 0
    assert capsys.readouterr().out == "18 problems can detect 40 points (assumed discordance 0.2)\n"
    assert plan.main(["--problems=200", "--samples=8", "--discordance=0.2", "--comparisons=4", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["difference"] == power.detectable_sampling(200, 8, 0.2, alpha=0.0125).difference
    assert line["alpha"] == 0.0125 and line["samples"] == 8


def test_help_answers_without_numpy():
    code = (
        "import sys; from rft.stats import plan\n"
        "try: plan.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'numpy', 'scipy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "usage: rft power" in done.stdout
