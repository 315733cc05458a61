"""The learning-rate schedule: its arguments, and the scheduler itself, built in one place.

Called by the patched actor, and by preflight, which looks at the same figures before the run. Upstream passes
``min_lr`` to every schedule of transformers; only those made for it take it.
"""

import inspect
import math

MIN_LR_SHARE = 0.1


def schedule_options(name: str, learning_rate: float) -> dict[str, float]:
    """``{"min_lr": 0.1 * learning_rate}`` for a schedule that has a floor, else nothing."""
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    function = TYPE_TO_SCHEDULER_FUNCTION[name]
    takes_floor = "min_lr" in inspect.signature(function).parameters
    return {"min_lr": MIN_LR_SHARE * learning_rate} if takes_floor else {}


def warmup_steps(total_steps: int, warmup_ratio: float) -> int:
    """Optimizer steps over which the learning rate rises from 0."""
    return math.ceil(total_steps * warmup_ratio)


def make(optimizer, name: str, learning_rate: float, warmup_ratio: float, total_steps: int):
    """transformers' scheduler of a run of `total_steps` optimizer steps; it sets the optimizer's rate at once.

    learning_rate  the target, which has to be the optimizer's own
    """
    from transformers.optimization import get_scheduler

    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=warmup_steps(total_steps, warmup_ratio),
        num_training_steps=total_steps,
        scheduler_specific_kwargs=schedule_options(name, learning_rate),
    )
