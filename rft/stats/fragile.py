"""nondet_proxy_pass@n: how far batching alone moves greedy answers. Diagnostics, no measure of quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rft.errors import RftError
from rft.stats.arrays import binary


@dataclass(frozen=True)
class Fragility:
    """avg: mean correctness of the n answers at T 0; greedy: that of the single answers, None where not given.

    gap = avg - greedy; fragile: ids of the problems with right and wrong answers at T 0, in order; problems, samples
    """

    avg: float
    greedy: float | None
    gap: float | None
    fragile: tuple[str, ...]
    problems: int
    samples: int

    @property
    def words(self) -> str:
        several = f"{len(self.fragile)} of {self.problems} problems are fragile"
        named = f" ({', '.join(self.fragile[:10])}{', …' if len(self.fragile) > 10 else ''})" if self.fragile else ""
        if self.gap is None:
            return f"{several}{named}"
        return f"gap to greedy_pass@1 {100 * self.gap:+.1f} points, {several}{named}; diagnostics only"


def fragility(correct, problem_ids: Sequence[str], greedy=None) -> Fragility:
    """correct (P, n) of 0 and 1, n > 1; greedy (P,) of the same problems in the same order, or None."""
    array = binary(correct)
    problems, samples = array.shape
    if samples < 2 or len(problem_ids) != problems:
        raise RftError(
            f"fragility of {problems} x {samples} answers, {len(problem_ids)} ids: needs 2 answers a problem"
        )
    share = array.mean(axis=1)
    single = None if greedy is None else binary(greedy, "greedy")
    if single is not None and single.shape != (problems, 1):
        raise RftError(f"greedy: {single.shape} answers beside {problems} problems; give one a problem")
    names = tuple(str(name) for name, right in zip(problem_ids, share, strict=True) if 0 < right < 1)
    base = None if single is None else float(single.mean())
    gap = None if base is None else float(share.mean()) - base
    return Fragility(float(share.mean()), base, gap, names, problems, samples)
