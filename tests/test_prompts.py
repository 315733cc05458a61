"""Prompt order, resumption and exact step counts (rft/prompts.py, and the patched trainer that uses them)."""

import math

import pytest

from rft.prompts import PromptLoader, optimizer_steps, rollout_steps


class Data:
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index

    def collate_fn(self, items):
        return items


def epoch(loader):
    return [items[0] for items in loader]


def test_order_depends_on_seed_and_epoch_alone():
    import torch

    first = PromptLoader(Data(50), seed=1)
    one, two = epoch(first), epoch(first)
    torch.manual_seed(999)
    again = PromptLoader(Data(50), seed=1)
    assert (one, two) == (epoch(again), epoch(again))
    assert one != two and sorted(one) == sorted(two) == list(range(50))
    assert epoch(PromptLoader(Data(50), seed=2)) != one


@pytest.mark.parametrize("taken", [0, 1, 37, 50, 51, 99])
def test_resumed_order_goes_on_where_it_stopped(taken):
    whole = PromptLoader(Data(50), seed=3)
    wanted = [item for _ in range(4) for item in epoch(whole)]

    def draw(loader, count):
        seen, iterator = [], iter(loader)
        while len(seen) < count:
            item = next(iterator, None)
            if item is None:
                iterator = iter(loader)
            else:
                seen.append(item[0])
        return seen

    first = PromptLoader(Data(50), seed=3)
    seen = draw(first, taken)
    second = PromptLoader(Data(50), seed=3)
    second.load_state_dict(first.state_dict())
    assert seen + draw(second, 60) == wanted[: taken + 60]


def test_state_of_another_pool_is_refused():
    loader = PromptLoader(Data(50), seed=3)
    with pytest.raises(ValueError, match="50 prompts, --prompt_data now has 49"):
        PromptLoader(Data(49), seed=3).load_state_dict(loader.state_dict())


def test_evaluation_always_starts_at_its_first_prompt():
    loader = PromptLoader(Data(5), seed=3, shuffle=False)
    iterator = iter(loader)
    next(iterator), next(iterator)
    assert epoch(loader) == [0, 1, 2, 3, 4] == epoch(loader)


@pytest.mark.parametrize(
    ("prompts", "samples", "rollout", "train", "steps"),
    [(400, 8, 16, 16, 200), (50, 8, 16, 16, 3 * 8 + 1), (50, 8, 16, 128, 4), (16, 1, 16, 5, 4), (17, 3, 16, 5, 10 + 1)],
)
def test_optimizer_steps_equal_a_count_by_hand(prompts, samples, rollout, train, steps):
    batches = [rollout] * (prompts // rollout) + ([prompts % rollout] if prompts % rollout else [])
    assert sum(math.ceil(batch * samples / train) for batch in batches) == steps
    assert optimizer_steps(prompts, samples, rollout, train) == steps
    assert rollout_steps(prompts, rollout, episodes=3) == 3 * len(batches)
