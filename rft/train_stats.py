"""Training figures of one rollout over all micro-batches and ranks, each reduced as its meaning demands.

Filled by the patched ``ActorPPOTrainer`` on every rank; `reduce` is one collective call a rollout. Sums stay sums,
extremes extremes, quantiles are of the pooled tokens: nothing is a mean of means.
"""

import math
from collections import defaultdict

import torch

from rft.rollout_stats import quantile


class TrainStats:
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
        self.maxima[name] = max(value, self.maxima.get(name, -math.inf))

    def add_min(self, name: str, value: float) -> None:
        self.minima[name] = min(value, self.minima.get(name, math.inf))

    def pool(self, name: str, values: torch.Tensor) -> None:
        """Keep single values (any shape) for `reduce` to take quantiles of; they are moved to the CPU."""
        self.pools[name].append(values.detach().float().flatten().cpu())

    def set_last(self, name: str, value: float) -> None:
        self.last[name] = value

    def add_grad_norm(self, norm) -> None:
        """2-norm of the whole gradient before clipping, of one optimizer step; the same on every rank.

        `grad_norm` is the mean over the rollout's optimizer steps, `grad_norm_max` the largest.
        """
        self.add_mean("grad_norm", float(norm), 1)
        self.add_max("grad_norm_max", float(norm))

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
            result[name] = pick(share[kind][name] for share in shares if name in share[kind])
    for name, value in sums.items():
        per_step = name in ("policy_loss", "kl_loss")
        result[name] = value / (len(shares) * optimizer_steps) if per_step else value
    result.update({name: total / weight for name, (total, weight) in means.items()})
    if "entropy" in pools:
        entropy = torch.cat(pools["entropy"])
        result["entropy_mean"] = entropy.mean().item()
        result["entropy_p10"], result["entropy_p90"] = quantile(entropy, 0.1), quantile(entropy, 0.9)
    if "log_ratio_abs" in pools:
        result["log_ratio_abs_p99"] = quantile(torch.cat(pools["log_ratio_abs"]), 0.99)
    return result
