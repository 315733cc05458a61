"""pass@k, avg@n and maj@n, one value a problem; their mean over problems is the figure that is reported.

pass@k is the unbiased estimator 1 - C(n-c, k) / C(n, k) of a problem with c right answers of n (Chen et al. 2021,
arXiv:2107.03374, eq. 1), from exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from rft.errors import RftError
from rft.stats.arrays import binary, correctness

if TYPE_CHECKING:
    import numpy as np


def pass_at_k(correct, k: int) -> np.ndarray:
    """(P,) of the probability that at least one of k answers, drawn from a problem's n without replacement, is right.

    correct  (P, n) of 0 and 1
    k        1 … n; RftError otherwise
    """
    import numpy as np

    array = binary(correct)
    n = array.shape[1]
    if not 1 <= k <= n:
        raise RftError(f"pass@{k} needs k from 1 to the {n} samples a problem; sample more or ask for a smaller k")
    by_count = np.array([1.0 - _miss(n, c, k) for c in range(n + 1)])  # (n + 1,)
    return by_count[array.sum(axis=1).astype(int)]


def pass_at_every_k(correct) -> np.ndarray:
    """(P, n); column k - 1 is pass@k."""
    import numpy as np

    n = correctness(correct).shape[1]
    return np.stack([pass_at_k(correct, k) for k in range(1, n + 1)], axis=1)


def avg_at_n(correct) -> np.ndarray:
    """(P,) mean correctness of a problem's n answers; partial credit counts."""
    return correctness(correct).mean(axis=1)


def maj_at_n(correct, answers: Sequence[Sequence[Hashable | None]]) -> np.ndarray:
    """(P,) probability that the most frequent answer is right; a tie is broken by a fair draw among the tied.

    correct  (P, n) of 0 and 1
    answers  P rows of n extracted answers; None has no vote, and a problem without any vote is wrong. All right answers
             of a problem are one candidate however they are written (1/2, 0.5): the grader holds them equal to the
             label. Wrong ones are told apart as written.
    raises   RftError: other shape than `correct`
    """
    import numpy as np

    array = binary(correct)
    if len(answers) != len(array) or any(len(row) != array.shape[1] for row in answers):
        raise RftError(f"answers: not {array.shape[0]} problems x {array.shape[1]} samples as the correctness has")
    return np.array([_majority(flags, row) for flags, row in zip(array.astype(bool), answers, strict=True)])


def _majority(flags, row) -> float:
    right = int(sum(flags))  # a right answer votes even where only the grader, not the extraction, could read it
    wrong: dict[Hashable, int] = {}
    for flag, answer in zip(flags, row, strict=True):
        if not flag and answer is not None:
            wrong[answer] = wrong.get(answer, 0) + 1
    most = max(wrong.values(), default=0)
    if right == 0 or right < most:
        return 0.0
    return 1.0 / (1 + sum(votes == right for votes in wrong.values()))


def _miss(n: int, c: int, k: int) -> float:
    """C(n-c, k) / C(n, k): no right answer among k; true division of Python's integers is correctly rounded."""
    return math.comb(n - c, k) / math.comb(n, k)
