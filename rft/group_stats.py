"""Which prompts' groups of answers teach anything, over one rollout.

Called by `rft.rollout_stats` in the controller. GRPO learns from the differences within a group: where all answers to a
prompt get the same reward, every advantage is 0. Counted over groups, each weighing the same, whatever micro-batches
and ranks they were cut into. Masked answers (reward NaN, rft/rewards/baseline.py) are left out; a group with fewer than
two rewards has nothing to compare, so it counts as equal.
"""

import math

import torch


def group_stats(
    index: torch.Tensor, rewards: torch.Tensor, correct: torch.Tensor | None, size: int
) -> dict[str, float]:
    """Figures of the groups there are.

    index    (N,) int, each sample's place in the rollout, prompt after prompt: its group is index // size
    rewards  (N,) float, NaN where masked
    correct  (N,) float in {0, 1}, NaN where unknown; None where the reward logs no correctness
    size     G, answers a prompt
    returns  `groups`; `zero_std_groups`, the share with equal rewards; `groups_all_right`, `groups_all_wrong`, the
             share whose every known answer is right, wrong (over groups with a known answer; NaN without one; absent if
             `correct` is None); `effective_batch`, samples that have a reward and are in a group with unequal ones
    raises   ValueError if size is not positive or the vectors differ in length
    """
    if size < 1 or not len(index) == len(rewards) or (correct is not None and len(correct) != len(index)):
        raise ValueError(f"{len(index)} places, {len(rewards)} rewards, groups of {size}: lengths must agree")
    _, group = torch.unique(index // size, return_inverse=True)  # (N,) from 0, without gaps
    count = int(group.max()) + 1 if len(group) else 0
    valid = ~rewards.isnan()
    low, high = _extremes(rewards, group, valid, count)
    unequal = high > low  # an empty group has low = inf, high = -inf
    stats = {
        "groups": count,
        "zero_std_groups": _share(~unequal),
        "effective_batch": int((unequal[group] & valid).sum()) if count else 0,
    }
    if correct is not None:
        known = ~correct.isnan()
        worst, best = _extremes(correct, group, known, count)
        some = best >= worst
        stats["groups_all_right"] = _share(worst[some] >= 1)
        stats["groups_all_wrong"] = _share(best[some] <= 0)
    return stats


def within_groups(group: torch.Tensor, rewards: torch.Tensor, lengths: torch.Tensor) -> float:
    """Pearson correlation of reward and length after each has lost its group's mean: do longer answers to the same
    prompt earn more? 0.0 where one of them does not vary.

    group    (N,) int; rewards: (N,), NaN where masked; lengths: (N,) tokens
    returns  in [-1, 1]
    """
    valid = ~rewards.isnan()
    _, place = torch.unique(group[valid], return_inverse=True)
    if not len(place):
        return 0.0
    sizes = torch.bincount(place).double()
    left = []
    for values in (rewards[valid].double(), lengths[valid].double()):
        means = torch.zeros_like(sizes).scatter_add(0, place, values) / sizes
        left.append(values - means[place])
    norm = left[0].norm() * left[1].norm()
    return (left[0] @ left[1] / norm).item() if norm > 1e-12 else 0.0


def _extremes(values: torch.Tensor, group: torch.Tensor, valid: torch.Tensor, count: int):
    """Smallest and largest valid value of each group, (count,) each; (inf, -inf) where it has none."""
    low, high = torch.full((count,), math.inf), torch.full((count,), -math.inf)
    chosen, where = values[valid].float(), group[valid]
    low = low.scatter_reduce(0, where, chosen, "amin")
    high = high.scatter_reduce(0, where, chosen, "amax")
    return low, high


def _share(flags: torch.Tensor) -> float:
    return flags.float().mean().item() if len(flags) else math.nan
