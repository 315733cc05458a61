"""The learning rate that each optimizer step will be taken with, before the run; does it get off the ground?

A warm-up that is a share of a long run, or a decay that is over before it has begun, leaves a run at a tenth of its
learning rate for hours. The figures come from the scheduler that the trainer builds (rft/schedule.py), and the number
of steps from its own count. Steps are counted from 1; step s is an *optimizer* step unless it says rollout: with the
train batch in samples, a rollout of P prompts with G answers each is P*G / train batch of them.

Used by preflight and ``rft preflight-lr``. Pure; one thread. Rates as the optimizer has them, shares in [0, 1].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

JUDGED_STEP = 20
MIN_SHARE = 0.3  # of the target at that step
SHOWN_STEPS = (1, 5, 10, 20, 50)
MAX_DISTANCE = 1000  # episodes, as far as a remedy is looked for


@dataclass(frozen=True)
class Plan:
    """A run as the scheduler sees it. pool: prompts; samples: a prompt; train_batch: samples; warmup: a share."""

    pool: int
    samples: int
    train_batch: int
    rollout_batch: int
    episodes: int
    warmup: float
    learning_rate: float
    max_epochs: int = 1
    scheduler: str = "cosine_with_min_lr"

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the run, as the trainer counts them: an episode's last, smaller batch is trained on."""
        from rft.prompts import optimizer_steps

        one = optimizer_steps(self.pool, self.samples, self.rollout_batch, self.train_batch)
        return one * self.episodes * self.max_epochs

    @property
    def rollouts(self) -> int:
        return math.ceil(self.pool / self.rollout_batch) * self.episodes

    @property
    def steps_a_rollout(self) -> int:
        """Of a whole rollout."""
        return math.ceil(self.rollout_batch * self.samples / self.train_batch) * self.max_epochs

    def first_step(self, rollout: int) -> int:
        """The optimizer step, from 1, that rollout `rollout` begins with; an episode's last one may have fewer."""
        an_episode = math.ceil(self.pool / self.rollout_batch)
        episode, place = divmod(rollout - 1, an_episode)
        return episode * (self.steps // self.episodes) + place * self.steps_a_rollout + 1

    @property
    def warmup_steps(self) -> int:
        from rft.schedule import warmup_steps

        return warmup_steps(self.steps, self.warmup)

    @cached_property
    def _multiplier(self) -> Callable[[int], float]:
        import torch

        from rft import schedule

        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=self.learning_rate)
        made = schedule.make(optimizer, self.scheduler, self.learning_rate, self.warmup, self.steps)
        return made.lr_lambdas[0]

    def rate(self, step: int) -> float:
        """What optimizer step `step` is taken with; the first of a warm-up is 0."""
        return self.learning_rate * self.share(step)

    def share(self, step: int) -> float:
        """That as a share of the target."""
        return self._multiplier(step - 1)

    @property
    def short(self) -> bool:
        """The run ends before the step that is judged."""
        return self.steps < JUDGED_STEP

    @property
    def passes(self) -> bool:
        return not self.short and self.share(JUDGED_STEP) >= MIN_SHARE


def verdict(plan: Plan) -> str:
    """One line: the rate at the step that is judged, against the target."""
    if plan.short:
        return f"the run ends after {plan.steps} optimizer steps, before step {JUDGED_STEP}"
    rate, share = plan.rate(JUDGED_STEP), plan.share(JUDGED_STEP)
    shown = f"{share:.0%}" if share >= 0.01 else f"{share:.2%}"
    return f"{rate:.3g} at step {JUDGED_STEP} of {plan.steps}, {shown} of {plan.learning_rate:g}"


def remedy(plan: Plan) -> str:
    """The nearest warm-up and the nearest number of episodes that would pass; "" for a plan that does."""
    if plan.passes:
        return ""
    found = []
    warmup = passing_warmup(plan)
    if warmup is not None:
        found.append(f"a warm-up of {warmup:g} (--lr_warmup_ratio)")
    episodes = passing_episodes(plan)
    if episodes is not None:
        found.append(f"{episodes} episodes (--num_episodes)")
    return f"{' or '.join(found)} would pass" if found else "no warm-up or number of episodes passes: mend the batches"


def passing_warmup(plan: Plan) -> float | None:
    """The largest share of two digits below the plan's that passes; None where not even 0 does."""
    if plan.short:
        return None
    shares = (digits / 10**places for places in range(2, 8) for digits in range(99, 9, -1))
    for share in (*shares, 0.0):
        if share < plan.warmup and replace(plan, warmup=share).passes:
            return share
    return None


def passing_episodes(plan: Plan) -> int | None:
    """The nearest number of episodes that passes, the fewer of two as near; None where none does."""
    for distance in range(1, MAX_DISTANCE):
        for episodes in (plan.episodes - distance, plan.episodes + distance):
            if episodes > 0 and replace(plan, episodes=episodes).passes:
                return episodes
    return None
