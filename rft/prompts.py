"""Prompt order, batches and step counts: seeded, resumable, and the whole pool used.

Called by the patched ``openrlhf.trainer.ppo_trainer`` in the controller process. Upstream draws the order from torch's
unseeded global generator, so ``--seed`` does not reach it, and drops the last partial batch of each epoch.
"""

import math
from collections.abc import Iterator

import torch


class PromptLoader:
    """One prompt at a time, in an order that depends on (seed, epoch) alone; stands in for a DataLoader of batch size
    1.

    Yields ``collate_fn([dataset[i]])``. Iterating a shuffled loader goes on where the last iterator stopped and
    moves to the next epoch at the end; an unshuffled one (evaluation) always starts at its first prompt.
    """

    def __init__(self, dataset, seed: int, shuffle: bool = True):
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle
        self.epoch, self.position = 0, 0

    def __len__(self) -> int:
        return len(self.dataset)

    def order(self) -> list[int]:
        """The dataset's indices in this epoch's order."""
        if not self.shuffle:
            return list(range(len(self.dataset)))
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        return torch.randperm(len(self.dataset), generator=generator).tolist()

    def __iter__(self) -> Iterator:
        if not self.shuffle:
            self.position = 0
        for index in self.order()[self.position :]:
            self.position += 1
            yield self.dataset.collate_fn([self.dataset[index]])
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "position": self.position, "prompts": len(self.dataset)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """raises ValueError if the state is of a data set of another length"""
        if state["prompts"] != len(self.dataset):
            raise ValueError(
                f"the checkpoint was written with {state['prompts']} prompts, --prompt_data now has {len(self.dataset)}"
            )
        self.epoch, self.position = state["epoch"], state["position"]


def rollout_steps(prompts: int, rollout_batch_size: int, episodes: int) -> int:
    """Rollouts of a run; the last one of an episode may be smaller."""
    return math.ceil(prompts / rollout_batch_size) * episodes


def optimizer_steps(prompts: int, samples_per_prompt: int, rollout_batch_size: int, train_batch_size: int) -> int:
    """Optimizer steps of one episode at one epoch a rollout; each rollout's last batch may be smaller.

    train_batch_size counts samples, not prompts
    """
    full, rest = divmod(prompts, rollout_batch_size)
    steps = full * math.ceil(rollout_batch_size * samples_per_prompt / train_batch_size)
    return steps + math.ceil(rest * samples_per_prompt / train_batch_size)
