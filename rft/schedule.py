"""Arguments of the learning-rate schedule.

Called by the patched actor. Upstream passes ``min_lr`` to every schedule of transformers; only those made for it take
it.
"""

import inspect

MIN_LR_SHARE = 0.1


def schedule_options(name: str, learning_rate: float) -> dict[str, float]:
    """``{"min_lr": 0.1 * learning_rate}`` for a schedule that has a floor, else nothing."""
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    function = TYPE_TO_SCHEDULER_FUNCTION[name]
    takes_floor = "min_lr" in inspect.signature(function).parameters
    return {"min_lr": MIN_LR_SHARE * learning_rate} if takes_floor else {}
