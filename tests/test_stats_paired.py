"""McNemar's and the permutation test against enumeration of every sign, published values and scipy."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from scipy import stats

from rft.errors import RftError
from rft.stats import paired


def pair(up: int, down: int, same: int) -> tuple[list[int], list[int]]:
    return [0] * up + [1] * down + [1] * same, [1] * up + [0] * down + [1] * same


def by_enumeration(steps: list[int]) -> Fraction:
    """Share of all 2^P sign patterns whose sum is at least as far from 0."""
    sums = [
        abs(sum(s * sign for s, sign in zip(steps, signs, strict=True)))
        for signs in product((1, -1), repeat=len(steps))
    ]
    return Fraction(sum(total >= abs(sum(steps)) for total in sums), len(sums))


def test_mcnemar_as_published():
    """Armitage and Berry, Statistical Methods in Medical Research (1994), p. 127: 12 and 2 discordant of 50."""
    found = paired.mcnemar(*pair(12, 2, 36))
    assert found.p == pytest.approx(0.0129, abs=5e-5) and (found.up, found.down) == (12, 2)


@pytest.mark.parametrize(("up", "down", "p"), [(6, 0, 0.03125), (10, 2, 0.03857421875), (17, 9, 0.16863754391670227)])
def test_mcnemar_is_that_of_statsmodels(up, down, p):
    """statsmodels 0.15.0, contingency_tables.mcnemar(table, exact=True)."""
    assert paired.mcnemar(*pair(up, down, 50)).p == pytest.approx(p, abs=1e-15)


def test_mcnemar_against_every_sign():
    for up in range(6):
        for down in range(6):
            wanted = by_enumeration([1] * up + [-1] * down) if up + down else 1
            assert paired.mcnemar(*pair(up, down, 3)).p == pytest.approx(float(wanted), abs=1e-12)


def test_mcnemar_of_a_model_with_itself_is_one():
    found = paired.mcnemar([1, 0, 1], [1, 0, 1])
    assert (found.p, found.up, found.down) == (1.0, 0, 0)


def test_mcnemar_takes_single_answers_only():
    with pytest.raises(RftError, match=r"one answer a problem of both, got \(2, 2\)"):
        paired.mcnemar([[1, 0], [0, 1]], [[1, 0], [0, 1]])
    with pytest.raises(RftError, match="got"):
        paired.mcnemar([1, 0], [1, 0, 1])


@pytest.mark.parametrize("seed", range(8))
def test_sign_flip_by_convolution_against_every_sign(seed):
    rng = np.random.default_rng(seed)
    steps = rng.integers(-4, 6, size=10)
    assert any(steps)
    found = paired.sign_flip(steps / 8, grid=1 / 8)
    assert found.p == pytest.approx(float(by_enumeration(steps.tolist())), abs=1e-12)
    assert (found.up, found.down) == ((steps > 0).sum(), (steps < 0).sum()) and "exact" in found.method


@pytest.mark.parametrize("seed", range(4))
def test_sign_flip_without_a_grid_against_every_sign(seed):
    d = np.random.default_rng(seed).normal(0.3, 1, size=9)
    signs = np.array(list(product((1, -1), repeat=9)))
    wanted = np.mean(abs(signs @ d) >= abs(d.sum()) - 1e-12)
    found = paired.sign_flip(d)
    assert found.p == pytest.approx(wanted, abs=1e-12) and found.method == "exact sign flips over problems"


def test_sign_flip_is_scipys_permutation_test():
    rng = np.random.default_rng(3)
    a, b = rng.binomial(8, 0.5, 12) / 8, rng.binomial(8, 0.6, 12) / 8
    wanted = stats.permutation_test(
        (b, a),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**12,
    )
    d, grid = paired.changes(np.repeat(a[:, None], 1, 1), np.repeat(b[:, None], 1, 1))
    assert grid is None  # eighths are no 0/1 answers
    assert paired.sign_flip(d, grid=1 / 8).p == pytest.approx(wanted.pvalue, abs=1e-12)


def test_sign_flip_on_single_answers_is_mcnemar():
    for up, down in ((6, 0), (5, 1), (9, 4), (3, 3)):
        first, second = pair(up, down, 20)
        d, grid = paired.changes(first, second)
        assert grid == 1.0
        assert paired.sign_flip(d, grid).p == pytest.approx(paired.mcnemar(first, second).p, abs=1e-12)


def test_sign_flip_stays_exact_for_a_thousand_problems():
    """2^-999 is far below what random flips could show; McNemar's closed form is the reference."""
    found = paired.sign_flip(np.ones(1000), grid=1.0)
    assert found.p == pytest.approx(2.0**-999, rel=1e-9)
    mixed = np.r_[np.ones(540), -np.ones(460)]
    assert paired.sign_flip(mixed, grid=1.0).p == pytest.approx(stats.binomtest(540, 1000).pvalue, rel=1e-9)


def test_random_flips_state_their_seed_repeat_and_agree_with_the_exact_test():
    rng = np.random.default_rng(11)
    steps = rng.integers(-3, 5, size=60)
    exact, random = paired.sign_flip(steps / 8, grid=1 / 8).p, paired.sign_flip(steps / 8)
    assert "19999 random sign flips" in random.method and "seed 20261120" in random.method
    assert random == paired.sign_flip(steps / 8) and random.p != paired.sign_flip(steps / 8, seed=1).p
    error = np.sqrt(exact * (1 - exact) / paired.RESAMPLES)
    assert 0.001 < exact < 0.9 and abs(random.p - exact) < 5 * error


def test_random_flips_never_give_zero():
    d = np.random.default_rng(0).uniform(0.5, 1, 80)
    assert paired.sign_flip(d, resamples=999).p == pytest.approx(2 / 1000)


def test_a_rounding_error_is_no_change():
    found = paired.sign_flip([1e-17, -1e-17, 0.5, 0.25], grid=0.25)
    assert (found.p, found.up, found.down) == (0.5, 2, 0)


def test_no_change_and_one_change():
    assert paired.sign_flip([0.0] * 5).p == 1.0 and paired.sign_flip([0.0] * 5, grid=0.125).p == 1.0
    assert paired.sign_flip([0.25, 0.0]).p == 1.0 and paired.sign_flip([0.25, 0.0], grid=0.125).p == 1.0


def test_false_alarms_keep_to_their_rate():
    """Over all 2^8 equally likely signs, p <= alpha happens in at most alpha of them, and p takes no other value."""
    sizes = np.array([1, 1, 2, 3, 3, 5, 7, 8])
    ps = np.array([paired.sign_flip(sizes * signs / 8, grid=1 / 8).p for signs in product((1, -1), repeat=8)])
    for alpha in (0.01, 0.05, 0.1, 0.5):
        share = np.mean(ps <= alpha + 1e-12)
        assert share <= alpha and (alpha < 0.05 or share > alpha - 0.03)


def test_changes_are_paired_and_on_the_grid_of_both():
    d, grid = paired.changes([[1, 0], [1, 1]], [[1, 1, 1], [0, 0, 1]])
    assert d == pytest.approx([0.5, -2 / 3]) and grid == pytest.approx(1 / 6)
    with pytest.raises(RftError, match="2 and 1 problems"):
        paired.changes([[1], [0]], [[1]])
    with pytest.raises(RftError, match=r"0\.3 is no multiple of 0\.125"):
        paired.sign_flip([0.3, 0.25], grid=0.125)
    with pytest.raises(RftError, match="one finite change a problem"):
        paired.sign_flip([])
