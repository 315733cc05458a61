"""Tail of the policy ratio in a micro-batch: where gradient spikes come from.

Called by the patched ``PolicyLoss`` in every actor rank. Log-ratios in nats. The clamp keeps exp() finite; it is far
outside of what PPO's clipping lets through, so it changes no gradient that clipping would have kept.
"""

from dataclasses import dataclass

import torch

LOG_RATIO_LIMIT = 20.0


@dataclass
class RatioStats:
    """Of one micro-batch, over its action tokens; all zero if it has none."""

    log_ratio_raw_max: float
    log_ratio_max: float
    log_ratio_min: float
    ratio_max: float
    log_ratio_abs_p99: float
    tokens_in_batch: int
    abs_values: torch.Tensor  # (tokens_in_batch,) |log ratio| before the clamp, on the CPU

    def as_dict(self) -> dict[str, float]:
        return {name: value for name, value in vars(self).items() if name != "abs_values"}


def clamp(log_ratio: torch.Tensor) -> torch.Tensor:
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


@torch.no_grad()
def measure(raw: torch.Tensor, mask: torch.Tensor | None) -> RatioStats:
    """raw (B, A) log-ratio before the clamp; mask (B, A) 1 = action token, None = all"""
    values = (raw if mask is None else raw[mask.bool()]).detach().float().flatten().cpu()
    if values.numel() == 0:
        return RatioStats(0.0, 0.0, 0.0, 0.0, 0.0, 0, values)
    clamped = clamp(values)
    magnitude = values.abs()
    rank = max(1, -(-99 * values.numel() // 100))
    return RatioStats(
        log_ratio_raw_max=values.max().item(),
        log_ratio_max=clamped.max().item(),
        log_ratio_min=clamped.min().item(),
        ratio_max=clamped.max().exp().item(),
        log_ratio_abs_p99=magnitude.kthvalue(rank).values.item(),
        tokens_in_batch=values.numel(),
        abs_values=magnitude,
    )
