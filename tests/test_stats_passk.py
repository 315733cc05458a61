"""pass@k, avg@n, maj@n against enumeration of every subset, every vote, in exact fractions."""

from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from rft.errors import RftError
from rft.stats import passk


def by_enumeration(flags: list[int], k: int) -> Fraction:
    subsets = list(combinations(flags, k))
    return Fraction(sum(any(subset) for subset in subsets), len(subsets))


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(n):
    correct = [[1] * c + [0] * (n - c) for c in range(n + 1)]
    for k in range(1, n + 1):
        wanted = [float(by_enumeration(flags, k)) for flags in correct]
        assert passk.pass_at_k(correct, k) == pytest.approx(wanted, abs=1e-15)


def test_pass_at_every_k_has_a_column_a_k_and_ends_in_any_right():
    correct = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]], dtype=bool)
    table = passk.pass_at_every_k(correct)
    assert table.shape == (3, 4)
    for k in range(1, 5):
        assert table[:, k - 1] == pytest.approx([float(by_enumeration(list(row), k)) for row in correct])
    assert table[:, 0] == pytest.approx(passk.avg_at_n(correct)) and table[:, 3].tolist() == [1, 0, 1]


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not():
    """Over all 2^6 outcomes of 6 answers of chance 0.3, the mean is exactly 1 - 0.7^k."""
    p, n = Fraction(3, 10), 6
    outcomes = list(product((0, 1), repeat=n))
    weights = [float(p ** sum(flags) * (1 - p) ** (n - sum(flags))) for flags in outcomes]
    for k in (1, 3, 6):
        assert np.dot(weights, passk.pass_at_k(outcomes, k)) == pytest.approx(1 - 0.7**k, abs=1e-12)
    plug_in = np.dot(weights, 1 - (1 - passk.avg_at_n(outcomes)) ** 3)
    assert abs(plug_in - (1 - 0.7**3)) > 0.03


def test_pass_at_k_keeps_its_digits_at_large_n():
    n, c, k = 2000, 3, 1000
    wanted = 1 - Fraction(1000 * 999 * 998, 2000 * 1999 * 1998)  # C(n-3, k) / C(n, k)
    assert passk.pass_at_k([[1] * c + [0] * (n - c)], k)[0] == pytest.approx(float(wanted), abs=1e-15)


@pytest.mark.parametrize("k", [0, 5, -1])
def test_pass_at_k_refuses_a_k_outside_the_samples(k):
    with pytest.raises(RftError, match=f"pass@{k} .* 4 samples"):
        passk.pass_at_k([[1, 0, 0, 1]], k)


def majority_by_draws(flags, answers) -> Fraction:
    """Every candidate with the most votes wins equally often."""
    votes: dict = {}
    for flag, answer in zip(flags, answers, strict=True):
        key = "RIGHT" if flag else answer
        if key is not None:
            votes[key] = votes.get(key, 0) + 1
    winners = [key for key, count in votes.items() if count == max(votes.values())]
    return Fraction(winners.count("RIGHT"), len(winners)) if winners else Fraction(0)


def test_majority_against_every_vote_of_four_answers():
    """Answers r (right), a, b (wrong), None (no vote): all 256 rows."""
    rows = list(product(("r", "a", "b", None), repeat=4))
    correct = [[int(answer == "r") for answer in row] for row in rows]
    wanted = [float(majority_by_draws(*pair)) for pair in zip(correct, rows, strict=True)]
    assert passk.maj_at_n(correct, rows) == pytest.approx(wanted)
    assert set(wanted) == {0.0, 1 / 3, 0.5, 1.0}  # ties of two and of three are among them


def test_majority_counts_right_answers_together_however_written():
    answers = [["1/2", "0.5", "7", "7", "3"]]
    assert passk.maj_at_n([[1, 1, 0, 0, 0]], answers)[0] == 0.5  # two votes each for 1/2 and 7
    assert passk.maj_at_n([[1, 1, 0, 0, 0]], [["1/2", "0.5", "7", "8", "3"]])[0] == 1.0


def test_majority_without_a_vote_is_wrong_and_other_shapes_are_refused():
    assert passk.maj_at_n([[0, 0]], [[None, None]])[0] == 0.0
    with pytest.raises(RftError, match="answers: not 1 problems x 2 samples"):
        passk.maj_at_n([[0, 0]], [["a"]])


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        ([], "is the evaluation empty"),
        ([[1, 0], [1]], "not the same number of samples"),
        ([[1, float("nan")]], "problem 0, sample 1 has correctness nan"),
        ([[0, 1], [2, 0]], "problem 1, sample 0 has correctness 2.0"),
        ([["right"]], "not numbers"),
    ],
)
def test_what_is_not_correctness_is_refused_in_one_line(correct, message):
    with pytest.raises(RftError, match=message) as error:
        passk.avg_at_n(correct)
    assert "\n" not in str(error.value)


def test_partial_credit_counts_in_avg_and_is_refused_by_pass_at_k():
    assert passk.avg_at_n([[0.5, 1.0]])[0] == 0.75
    with pytest.raises(RftError, match=r"0\.5 is a partial credit"):
        passk.pass_at_k([[0.5, 1.0]], 1)
