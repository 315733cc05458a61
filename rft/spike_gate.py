"""The gate in front of the optimizer: a step that `rft.spike` refuses is not taken.

Installed by the patched ``ActorPPOTrainer`` on every ZeRO rank, once. DeepSpeed 0.18.5 has no such check for bf16: its
stage-3 optimizer puts -1.0 in the place of a group's norm that is not finite (``get_grad_norm_direct``,
``complete_grad_norm_calculation_for_cpu_offload``), takes the 2-norm over groups, which is positive again, and updates
the weights with the NaN. But where its attribute ``overflow`` is set, ``step`` drops the gradients and returns, and the
engine leaves the learning rate's schedule alone: the step has not been. fp16 sets ``overflow`` itself. The gate
wraps ``optimizer.step`` of one optimizer object and sets the attribute anew each time.
"""

import math

import torch

from rft import spike
from rft.errors import RftError


def global_norm(optimizer) -> float:
    """Collective. 2-norm of the whole gradient before clipping; NaN where DeepSpeed found a group's not finite.

    optimizer  ``DeepSpeedZeroOptimizer_Stage3`` between the last backward pass of a step and its ``step``
    """
    groups = [float(norm) for norm in optimizer._get_norm_groups()]
    if any(norm < 0 or not math.isfinite(norm) for norm in groups):
        return math.nan
    return math.hypot(*groups) / float(optimizer.loss_scale)


def install(engine, log: "spike.SpikeLog") -> None:
    """From now on every ``engine.step()`` that ends an optimizer step asks `log` first.

    engine  DeepSpeed engine under ZeRO 3, bf16 or fp32; its count of optimizer steps becomes the log's, and lines of
            later ones, which an earlier run in the same folder left, are dropped
    raises  RftError for another optimizer: a gradient that is not finite would be taken silently
    """
    optimizer = engine.optimizer
    if not hasattr(optimizer, "_get_norm_groups") or getattr(optimizer, "dtype", None) == torch.float16:
        kind = f"{type(optimizer).__name__}, {getattr(optimizer, 'dtype', 'unknown dtype')}"
        raise RftError(f"the spike gate cannot guard {kind}: use --zero_stage 3 and --param_dtype bf16")
    log.model, log.optimizer_step = engine.module, engine.global_steps
    if spike._rank() == 0:
        spike.drop_after(engine.global_steps)
    guarded = hasattr(optimizer, "rft_spike_log")
    optimizer.rft_spike_log = log
    if guarded:
        return  # a second trainer on the same engine: the gate is there, and now asks its log
    take = optimizer.step

    def step(*args, **kwargs):
        optimizer.overflow = optimizer.rft_spike_log.judge(global_norm(optimizer))
        return take(*args, **kwargs)

    optimizer.step = step
