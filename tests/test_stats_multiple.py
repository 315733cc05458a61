"""Holm's correction against its definition as a closed test, a published example, and its error rate."""

from itertools import combinations

import numpy as np
import pytest

from rft.errors import RftError
from rft.stats.multiple import holm


def closed_testing(p_values: list[float]) -> list[float]:
    """A hypothesis falls with every group that holds it; a group's p is Bonferroni's, its size times its smallest."""
    m = len(p_values)
    groups = [group for size in range(1, m + 1) for group in combinations(range(m), size)]
    return [
        max(min(1.0, len(group) * min(p_values[i] for i in group)) for group in groups if index in group)
        for index in range(m)
    ]


def test_holm_as_published():
    """Wright, Biometrics 48 (1992), as R's p.adjust gives it: four p-values."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_that_of_statsmodels():
    """statsmodels 0.15.0, multipletests(p, method="holm")."""
    wanted = [0.0035, 0.072, 0.072, 0.6, 0.16, 0.16, 0.9]
    assert holm([0.0005, 0.012, 0.0125, 0.3, 0.04, 0.04, 0.9]) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_holm_is_the_closed_bonferroni_test(seed):
    p_values = (np.random.default_rng(seed).random(6) ** 3).tolist()
    assert holm(p_values) == pytest.approx(closed_testing(p_values), abs=1e-15)


def test_holm_of_none_one_and_equal_ones():
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.5, 0.5, 0.5]) == [1.0, 1.0, 1.0]


def test_holm_keeps_the_chance_of_any_false_claim():
    """Twenty checkpoints without a difference, 2,000 times: uncorrected, two runs in three would claim one."""
    p_values = np.random.default_rng(0).random((2000, 20))
    assert np.mean([min(holm(row.tolist())) <= 0.05 for row in p_values]) == pytest.approx(0.05, abs=0.015)
    assert np.mean(p_values.min(axis=1) <= 0.05) > 0.6


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(RftError, match="is no probability"):
        holm([0.5, bad])
