"""Falling evaluations and divergence (rft/evals/watch.py)."""

import numpy as np
import pytest

from rft.evals import watch


def result(step: int, right: int, of: int = 200) -> dict:
    return {"step": step, "problems": [{"id": str(i), "correct": [int(i < right)]} for i in range(of)]}


def test_two_drops_beyond_their_noise():
    assert watch.falling([result(0, 100), result(5, 90), result(10, 88)])
    (first, second) = watch.falling([result(0, 120), result(5, 100), result(10, 90), result(15, 80)])
    assert (first.since, first.step, second.step) == (5, 10, 15)
    assert first.change == pytest.approx(-0.05) and first.problems == 200
    changes = np.array([-1.0] * 10 + [0.0] * 190)
    assert first.noise == pytest.approx(1.645 * changes.std(ddof=1) / 200**0.5)


@pytest.mark.parametrize(
    "rights",
    [
        (100,),
        (100, 50),
        (100, 90, 100),  # recovered
        (100, 100, 80),  # only once below
        (100, 99, 99),  # one problem is within its noise
        (80, 90, 100),
    ],
)
def test_no_alarm(rights):
    results = [result(5 * n, right) for n, right in enumerate(rights)]
    assert watch.falling(results) == [] and watch.warning(results, "ood greedy_pass@1") is None


def test_the_noise_is_of_the_changes_not_of_the_level():
    """The same drop of the mean: 4 problems flipped down, or 40 down and 36 up."""
    quiet = [result(0, 100), result(5, 96), result(10, 96)]
    noisy = [result(0, 100)]
    for step in (5, 10):
        flipped = [1 if 40 <= i < 100 or 100 <= i < 136 else 0 for i in range(200)]
        problems = [{"id": str(i), "correct": [value]} for i, value in enumerate(flipped)]
        noisy.append({"step": step, "problems": problems})
    assert watch.falling(quiet) and not watch.falling(noisy)


def test_divergence_needs_a_rise_in_training():
    results = [result(0, 100), result(5, 90), result(10, 80)]
    rising = [(step, 0.5 + 0.01 * step) for step in range(11)]
    assert "does not carry over" in watch.diverging(results, rising, "ood")
    assert watch.diverging(results, [(step, 0.5) for step in range(11)], "ood") is None
    assert watch.diverging(results, [(step, 0.5 - 0.01 * step) for step in range(11)], "ood") is None
    assert watch.diverging(results[:2], rising, "ood") is None
    assert "falls against step 0: -5.0 points at step 5" in watch.warning(results, "ood")
