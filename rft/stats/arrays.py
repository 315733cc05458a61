"""Correctness as an array, checked: what every statistic here takes.

Called by the modules of rft.stats. RftError names the offender; what is not a number or not in [0, 1] is refused,
never counted as wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rft.errors import RftError

if TYPE_CHECKING:
    import numpy as np


def correctness(correct, name: str = "correct") -> np.ndarray:
    """(P, n) float64 of bools, or of fractions in [0, 1]; a (P,) array is one sample a problem.

    name    for the error line
    raises  RftError: no problem, problems with different numbers of samples, a value that is no fraction
    """
    import numpy as np

    try:
        array = np.asarray(correct, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RftError(
            f"{name}: not the same number of samples for every problem, or not numbers ({error}); finish the evaluation"
        ) from error
    if array.ndim == 1:
        array = array[:, None]  # (P, 1)
    if array.ndim != 2 or array.size == 0:
        raise RftError(f"{name}: shape {array.shape} holds no problems x samples; is the evaluation empty?")
    bad = np.argwhere(~((array >= 0) & (array <= 1)))  # NaN is neither
    if len(bad):
        problem, sample = bad[0]
        raise RftError(
            f"{name}: problem {problem}, sample {sample} has correctness {array[problem, sample]}, not in [0, 1];"
            " grade it again"
        )
    return array


def binary(correct, name: str = "correct") -> np.ndarray:
    """As :func:`correctness`, and every value 0 or 1; RftError for a partial credit."""
    import numpy as np

    array = correctness(correct, name)
    if not np.isin(array, (0.0, 1.0)).all():
        value = array[~np.isin(array, (0.0, 1.0))][0]
        raise RftError(f"{name}: correctness {value} is a partial credit; pass@k and maj@n count right and wrong only")
    return array
