"""Even shares of a batch for the actor's ranks.

Called by the patched ``RayActorGroup.async_run_method_batch`` in the controller. Under ZeRO-3 every rank has to run as
many forward passes as every other: a rank with one micro-batch less never joins the last gather, and the run hangs.
"""

from typing import NamedTuple


class Share(NamedTuple):
    """Items [start, end) for one rank, computed `passes` times: the last item is repeated, its result dropped."""

    start: int
    end: int
    passes: int


#: methods that only store what they get: they run no collective, and repeating an item would train on it twice
STORING = frozenset({"append"})


def shares(items: int, ranks: int, method: str) -> list[Share]:
    """Contiguous shares that differ by at most one item.

    raises  ValueError if there are fewer items than ranks
    """
    if items < ranks:
        raise ValueError(f"{items} micro-batches for {ranks} actor ranks: every rank needs one at least")
    quotient, rest = divmod(items, ranks)
    sizes = [quotient + (rank < rest) for rank in range(ranks)]
    starts = [sum(sizes[:rank]) for rank in range(ranks)]
    passes = None if method in STORING else max(sizes)
    return [Share(s, s + n, passes or n) for s, n in zip(starts, sizes, strict=True)]
