"""Which samples make up each optimizer step, and what each token weighs in it.

Called by the patched ``ActorPPOTrainer`` on every ZeRO rank, once an epoch of a rollout. The plan is explicit where
upstream's is implied by DeepSpeed's counter: optimizer steps end exactly where the plan says (no left-over micro-batch
is lost, no gradient leaks into the next rollout), every rank runs the same number of micro-batches in each step (else
ZeRO-3 hangs), and every action token of a step has the weight 1 / (action tokens of that step over all ranks), whatever
the micro-batch size: a token mean per micro-batch would bring back the 1/length bias that Dr. GRPO removes.

Shapes: B samples of a micro-batch, A action positions; masks 1 = counted.
"""

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch

from rft import device


@dataclass
class MicroBatch:
    """One forward and backward pass of one rank."""

    experience: Any
    tokens: float  # action tokens of the whole optimizer step divided by the number of ranks
    sequences: float  # its sequences divided by the number of ranks
    ends_step: bool  # the optimizer steps after this one
    step: int  # number of the optimizer step in this plan, from 0
    on_policy: bool = False  # the rollout's first optimizer step: the policy is still the one that sampled
    blank: bool = False  # weighs nothing: this rank only keeps in step with the others


def split_into_steps(groups: list[list], micro: int, local_batch: int, shuffle: bool) -> list[list[list]]:
    """Units of samples, by optimizer step: ``steps[s][m]`` is a list of at most `micro` samples.

    groups       the micro-batches that the old log-probs were computed in
    local_batch  samples a rank in each optimizer step; a multiple of `micro`; the last step may have fewer

    Where the groups are of the size `micro`, they stay together: training then sees the very rows and padding that the
    old log-probs saw, and the first step's ratio is exactly 1. Otherwise samples are shuffled one by one.
    """
    whole = all(len(group) == micro for group in groups[:-1]) and len(groups[-1]) <= micro
    units = groups if whole else [[item] for group in groups for item in group]
    if shuffle:
        units = [units[i] for i in torch.randperm(len(units)).tolist()]
    if not whole:
        items = [unit[0] for unit in units]
        steps = [items[i : i + local_batch] for i in range(0, len(items), local_batch)]
        return [[step[i : i + micro] for i in range(0, len(step), micro)] for step in steps]
    units_a_step = local_batch // micro
    return [units[i : i + units_a_step] for i in range(0, len(units), units_a_step)]


def level(steps: list[list[list]], lengths_by_rank: list[list[int]]) -> list[list[list]]:
    """Pad `steps` with empty units so that every rank has the same number of them in every step."""
    count = max(map(len, lengths_by_rank))
    wanted = [max((lengths[s] if s < len(lengths) else 0) for lengths in lengths_by_rank) for s in range(count)]
    padded = [list(step) for step in steps] + [[] for _ in range(count - len(steps))]
    return [step + [[] for _ in range(n - len(step))] for step, n in zip(padded, wanted, strict=True)]


def plan(buffer, strategy, shuffle: bool, first_epoch: bool = True) -> list[MicroBatch]:
    """Collective over all actor ranks: the micro-batches of one pass over the replay buffer, in order."""
    from torch import distributed as dist

    world = dist.get_world_size() // strategy.ring_attn_size // strategy.ds_tensor_parallel_size
    local_batch = strategy.train_batch_size // world
    steps = split_into_steps(buffer.groups, strategy.micro_train_batch_size, local_batch, shuffle)
    lengths: list = [None] * dist.get_world_size()
    dist.all_gather_object(lengths, [len(step) for step in steps])
    steps = level(steps, lengths)

    counts = torch.tensor(
        [[sum(float(i.action_mask.sum()) for u in s for i in u), float(sum(map(len, s)))] for s in steps],
        device=device.current_device(),
    )
    dist.all_reduce(counts)
    per_rank = (counts / dist.get_world_size()).tolist()

    template = buffer.groups[-1]
    return [
        MicroBatch(
            experience=buffer.collate_fn(unit or [_blank(item) for item in template[:1]]),
            tokens=per_rank[s][0],
            sequences=per_rank[s][1],
            ends_step=m == len(step) - 1,
            step=s,
            on_policy=first_epoch and s == 0,
            blank=not unit,
        )
        for s, step in enumerate(steps)
        for m, unit in enumerate(step)
    ]


def _blank(item):
    """A sample without action tokens, of the shape of `item`."""
    empty = copy(item)
    empty.action_mask = torch.zeros_like(item.action_mask)
    return empty


def token_sum(values: torch.Tensor, mask: torch.Tensor, tokens: float) -> torch.Tensor:
    """sum of `values` (B, A) at action tokens over `tokens`: added up over a step's micro-batches and averaged over
    the ranks, as DeepSpeed does with gradients, it is the mean over all action tokens of the step."""
    return (values * mask).sum() / tokens


def sequence_sum(values: torch.Tensor, mask: torch.Tensor, sequences: float) -> torch.Tensor:
    """Like `token_sum` with the mean over each sequence's tokens, every sequence weighing the same."""
    return ((values * mask).sum(-1) / mask.sum(-1).clamp(min=1)).sum() / sequences


def backward_and_step(engine, loss: torch.Tensor, ends_step: bool) -> None:
    """Accumulate; step optimizer and scheduler at the end of a planned step, not at a multiple of a counter.

    `scale_wrt_gas=False`: the weights of the plan already sum to 1 over the step.
    """
    engine.set_gradient_accumulation_boundary(ends_step)
    engine.backward(loss, scale_wrt_gas=False)
    engine.step()
