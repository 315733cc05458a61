"""Training figures of one rollout over all micro-batches and ranks, each reduced as its meaning demands.

Filled by the patched ``ActorPPOTrainer`` on every rank; `reduce` is one collective call a rollout. Sums stay sums,
extremes extremes, shares are counts over counts, quantiles are of the pooled tokens: nothing is a mean of means. A
value that is not finite shows in every figure that it enters, whatever came before or after it. What each figure means
stands in `rft.metrics`.
"""

import math
from collections import defaultdict

import torch

from rft import memory_stats
from rft.rollout_stats import quantile, quantiles


def clip_sides(
    ratio: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, low: float, high: float
) -> tuple[int, int, int]:
    """How many action tokens' gradients PPO's clip removes on each side, and how many action tokens there are.

    ratio, advantages  (B, A); ratio may be (B, 1), one a sequence (GSPO)
    mask               (B, A) 1 = action token
    low, high          the clip lets 1 - low to 1 + high through
    returns            (ratio below and advantage < 0, ratio above and advantage > 0, tokens); the first two add up to
                       ``ppo_clip_ratio`` times the third
    """
    with torch.no_grad():
        chosen = mask.bool()
        below = (ratio < 1 - low) & (advantages < 0) & chosen
        above = (ratio > 1 + high) & (advantages > 0) & chosen
        return int(below.sum()), int(above.sum()), int(chosen.sum())


class TrainStats:
    """One rank's figures of one rollout."""

    def __init__(self):
        self.sums: dict[str, float] = defaultdict(float)
        self.means: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.maxima: dict[str, float] = {}
        self.minima: dict[str, float] = {}
        self.pools: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.last: dict[str, float] = {}

    def add_sum(self, name: str, value: float) -> None:
        self.sums[name] += value

    def add_mean(self, name: str, value: float, weight: float) -> None:
        """`value` is a mean over `weight` things; the result is the mean over all of them."""
        if weight > 0:
            total = self.means[name]
            total[0] += value * weight
            total[1] += weight

    def add_max(self, name: str, value: float) -> None:
        self.maxima[name] = _extreme(max, [value, self.maxima.get(name, -math.inf)])

    def add_min(self, name: str, value: float) -> None:
        self.minima[name] = _extreme(min, [value, self.minima.get(name, math.inf)])

    def pool(self, name: str, values: torch.Tensor) -> None:
        """Keep single values (any shape) for `reduce` to take quantiles of; they are moved to the CPU."""
        self.pools[name].append(values.detach().float().flatten().cpu())

    def set_last(self, name: str, value: float) -> None:
        self.last[name] = value

    def add_grad_norm(self, norm, max_norm: float = 0.0) -> None:
        """2-norm of the whole gradient before clipping, of one optimizer step; the same on every rank.

        `grad_norm` is the mean over the rollout's optimizer steps, `grad_norm_max` the largest, `grad_norm_clipped` the
        mean of what DeepSpeed's clipping to `max_norm` leaves (0: it does not clip). A norm that is not finite makes
        them so; `nonfinite_steps` counts it.
        """
        norm = float(norm)
        self.add_mean("grad_norm", norm, 1)
        self.add_max("grad_norm_max", norm)
        self.add_mean("grad_norm_clipped", norm / max(1.0, (norm + 1e-6) / max_norm) if max_norm > 0 else norm, 1)

    def add_clip(self, sides: tuple[int, int, int]) -> None:
        """`clip_sides` of one micro-batch: `ppo_clip_ratio_low` and `_high` are shares of all action tokens."""
        below, above, tokens = sides
        if tokens:
            self.add_mean("ppo_clip_ratio_low", below / tokens, tokens)
            self.add_mean("ppo_clip_ratio_high", above / tokens, tokens)

    def add_spikes(self, counts: dict[str, int]) -> None:
        """`rft.spike.SpikeLog.take_counts` of the rollout; the same on every rank, so the largest is everybody's."""
        for name, value in counts.items():
            self.add_max(name, value)

    def add_memory(self, figures: dict[str, int]) -> None:
        """`rft.memory_stats.sample`: host memory adds up over ranks, of the GPUs the fullest counts."""
        for name, value in figures.items():
            self.add_sum(name, value) if name.startswith("host_") else self.add_max(name, value)

    def add_ratio(self, stats, on_policy: bool = False) -> None:
        """Of one micro-batch: a `rft.ratio_stats.RatioStats`; of the rollout's first optimizer step if `on_policy`.

        `on_policy_log_ratio_abs_max` is 0 where training computes with the numerics that scored the old log-probs.
        """
        if stats.tokens_in_batch:
            if on_policy:
                self.add_max("on_policy_log_ratio_abs_max", stats.abs_values.max().item())
            self.add_max("log_ratio_raw_max", stats.log_ratio_raw_max)
            self.add_max("log_ratio_max", stats.log_ratio_max)
            self.add_min("log_ratio_min", stats.log_ratio_min)
            self.add_max("ratio_max", stats.ratio_max)
            self.add_sum("tokens_in_batch", stats.tokens_in_batch)
            self.pool("log_ratio_abs", stats.abs_values)

    def local(self) -> dict:
        """This rank's share, ready to be sent to the others."""
        pools = {name: torch.cat(values) for name, values in self.pools.items()}
        return {
            "sums": dict(self.sums),
            "means": dict(self.means),
            "maxima": self.maxima,
            "minima": self.minima,
            "pools": pools,
            "last": self.last,
        }

    def reduce(self, optimizer_steps: int) -> dict[str, float]:
        """Collective: the figures over all ranks. `policy_loss` and `kl_loss` are means over the optimizer steps."""
        from torch import distributed as dist

        self.add_memory(memory_stats.sample())
        self.set_last("optimizer_steps", optimizer_steps)
        shares: list = [self.local()]
        if dist.is_initialized():
            mine, shares = shares[0], [None] * dist.get_world_size()
            dist.all_gather_object(shares, mine)
        return merge(shares, optimizer_steps)


def merge(shares: list[dict], optimizer_steps: int) -> dict[str, float]:
    """Shares of all ranks, as `TrainStats.local` gives them, to one figure a name."""
    sums: dict[str, float] = defaultdict(float)
    means: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    pools: dict[str, list[torch.Tensor]] = defaultdict(list)
    result = dict(shares[0]["last"])
    for share in shares:
        for name, value in share["sums"].items():
            sums[name] += value
        for name, (total, weight) in share["means"].items():
            means[name][0] += total
            means[name][1] += weight
        for name, values in share["pools"].items():
            pools[name].append(values)
    for kind, pick in (("maxima", max), ("minima", min)):
        for name in {name for share in shares for name in share[kind]}:
            result[name] = _extreme(pick, [share[kind][name] for share in shares if name in share[kind]])
    for name, value in sums.items():
        per_step = name in ("policy_loss", "kl_loss")
        result[name] = value / (len(shares) * optimizer_steps) if per_step else value
    result.update({name: total / weight for name, (total, weight) in means.items()})
    if "entropy" in pools:
        entropy = torch.cat(pools["entropy"])
        result["entropy_mean"] = entropy.double().mean().item() if len(entropy) else math.nan
        result["entropy_p10"], result["entropy_p90"] = quantiles(entropy, [0.1, 0.9])
    if "log_ratio_abs" in pools:
        result["log_ratio_abs_p99"] = quantile(torch.cat(pools["log_ratio_abs"]), 0.99)
    return result


def _extreme(pick, values: list[float]) -> float:
    """max or min of `values`, NaN if one of them is: Python's own depend on which comes first."""
    return math.nan if any(math.isnan(value) for value in values) else pick(values)
