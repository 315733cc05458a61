"""Correction for several comparisons: Holm's step-down procedure (Scandinavian Journal of Statistics 6, 1979).

Keeps the chance of any false claim among m tests at alpha, whatever the tests' dependence (checkpoints of one run, on
the same problems, are dependent), and never rejects less than Bonferroni's.
"""

from collections.abc import Sequence

from rft.errors import RftError


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given: max over the smaller ones of (m - rank) * p, at most 1; rank from 0."""
    for p in p_values:
        if not 0 <= p <= 1:
            raise RftError(f"Holm's correction: p = {p} is no probability")
    adjusted, floor, m = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, index in enumerate(sorted(range(m), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted
