"""Even shares of a batch for the actor's ranks (rft/chunks.py)."""

import pytest

from rft.chunks import shares


@pytest.mark.parametrize(("items", "ranks"), [(9, 4), (4, 4), (5, 4), (7, 2), (64, 4), (1, 1)])
def test_every_rank_runs_as_many_passes(items, ranks):
    plan = shares(items, ranks, "forward")
    assert [i for share in plan for i in range(share.start, share.end)] == list(range(items))
    assert len({share.passes for share in plan}) == 1
    assert all(1 <= share.end - share.start <= share.passes <= share.end - share.start + 1 for share in plan)


def test_stored_items_are_not_repeated():
    assert [share.passes for share in shares(9, 4, "append")] == [3, 2, 2, 2]


def test_fewer_items_than_ranks_is_an_error():
    with pytest.raises(ValueError, match="3 micro-batches for 4 actor ranks"):
        shares(3, 4, "forward")
