"""Which samples make up an optimizer step, on several ranks (rft/batch_plan.py)."""

import pytest
import torch

from rft.batch_plan import level, sequence_sum, split_into_steps, token_sum


def groups_of(sizes):
    counter = iter(range(10**6))
    return [[next(counter) for _ in range(size)] for size in sizes]


def flat(nested):
    return [item for step in nested for unit in step for item in unit]


@pytest.mark.parametrize("sizes", [[8] * 8, [8] * 3 + [2], [1] * 9, [8, 8, 3], [5]])
@pytest.mark.parametrize(("micro", "local_batch"), [(8, 16), (4, 8), (1, 4), (2, 2)])
def test_no_sample_is_lost_and_ranks_stay_in_step(sizes, micro, local_batch):
    torch.manual_seed(0)
    by_rank = [split_into_steps(groups_of(s), micro, local_batch, shuffle=True) for s in (sizes, sizes[:-1] or [1])]
    lengths = [[len(step) for step in steps] for steps in by_rank]
    levelled = [level(steps, lengths) for steps in by_rank]
    assert [len(step) for step in levelled[0]] == [len(step) for step in levelled[1]]
    for steps, rank_sizes in zip(levelled, (sizes, sizes[:-1] or [1]), strict=True):
        assert sorted(flat(steps)) == list(range(sum(rank_sizes)))
        assert all(len(unit) <= micro for step in steps for unit in step)
        assert all(sum(map(len, step)) <= local_batch for step in steps)


def test_micro_batches_of_the_old_log_probs_stay_together():
    groups = groups_of([4] * 6)
    steps = split_into_steps(groups, micro=4, local_batch=8, shuffle=True)
    assert [len(step) for step in steps] == [2, 2, 2]
    assert all(unit in groups for step in steps for unit in step)


def test_shuffle_is_of_torchs_generator_and_can_be_off():
    torch.manual_seed(1)
    one = split_into_steps(groups_of([1] * 20), 1, 20, shuffle=True)
    torch.manual_seed(1)
    assert one == split_into_steps(groups_of([1] * 20), 1, 20, shuffle=True)
    assert flat(split_into_steps(groups_of([1] * 20), 1, 20, shuffle=False)) == list(range(20)) != flat(one)


@pytest.mark.parametrize("micro", [1, 2, 3, 6])
def test_weights_do_not_depend_on_the_micro_batch(micro):
    """Sums over micro-batches and ranks equal the plain means over all tokens, and over all sequences."""
    torch.manual_seed(2)
    values, mask = torch.randn(6, 9, dtype=torch.float64), (torch.rand(6, 9) > 0.4).double()
    mask[3] = 0
    mask[3, 0] = 1
    ranks = 2
    tokens, sequences = mask.sum().item() / ranks, 6 / ranks
    parts = list(zip(values.split(micro), mask.split(micro), strict=True))
    by_token = sum(token_sum(v, m, tokens) for v, m in parts) / ranks
    by_sequence = sum(sequence_sum(v, m, sequences) for v, m in parts) / ranks
    torch.testing.assert_close(by_token, values[mask.bool()].mean())
    torch.testing.assert_close(
        by_sequence, torch.stack([v[m.bool()].mean() for v, m in zip(values, mask, strict=True)]).mean()
    )
