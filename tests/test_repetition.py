"""How much an answer repeats itself (rft/repetition.py), against sets of n-grams."""

import numpy as np
import pytest

from rft.repetition import NGRAM, repeated_share


def by_hand(tokens) -> float:
    grams = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams)


def test_against_sets_of_ngrams():
    rng = np.random.default_rng(0)
    for length, vocabulary in ((9, 2), (40, 2), (400, 3), (4096, 200_000), (4096, 2)):
        tokens = rng.integers(0, vocabulary, length)
        assert repeated_share(tokens) == pytest.approx(by_hand(tokens.tolist()))


def test_a_loop_and_a_text_without_repeats():
    loop = np.tile(np.arange(20), 50)
    assert repeated_share(loop) == pytest.approx(1 - 20 / (1000 - NGRAM + 1))
    assert repeated_share(np.arange(200_000, 201_000)) == 0.0


@pytest.mark.parametrize("length", [0, 1, NGRAM - 1, NGRAM])
def test_short_answers_have_none(length):
    assert repeated_share(np.zeros(length, dtype=np.int64)) == 0.0
