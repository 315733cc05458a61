"""Training figures over unequal micro-batches and ranks (rft/train_stats.py, rft/ratio_stats.py)."""

import math

import pytest
import torch

from rft import ratio_stats
from rft.train_stats import TrainStats, merge


def test_unequal_micro_batches_and_ranks():
    one, two = TrainStats(), TrainStats()
    one.add_mean("ppo_kl", 1.0, 3)
    one.add_mean("ppo_kl", 4.0, 1)
    two.add_mean("ppo_kl", 2.0, 6)
    two.add_mean("ppo_kl", math.nan, 0)  # a blank micro-batch has no mean
    one.add_sum("policy_loss", 0.25), one.add_sum("policy_loss", 0.5)
    two.add_sum("policy_loss", 0.75)
    one.pool("entropy", torch.tensor([0.0, 1.0, 2.0])), two.pool("entropy", torch.tensor([[9.0]]))
    for stats, norm in ((one, 3.0), (one, 5.0), (two, 3.0), (two, 5.0)):
        stats.add_grad_norm(norm)
    one.set_last("actor_lr", 1e-3), two.set_last("actor_lr", 1e-3)
    result = merge([one.local(), two.local()], optimizer_steps=2)
    assert result["ppo_kl"] == pytest.approx((3 * 1 + 4 + 6 * 2) / 10)
    assert result["policy_loss"] == pytest.approx((0.25 + 0.5 + 0.75) / (2 * 2))
    assert result["entropy_mean"] == 3.0 and result["entropy_p10"] == pytest.approx(0.3)
    assert result["grad_norm"] == 4.0 and result["grad_norm_max"] == 5.0 and result["actor_lr"] == 1e-3


def test_ratio_tail_is_pooled():
    one, two = TrainStats(), TrainStats()
    mask = torch.ones(1, 100)
    one.add_ratio(ratio_stats.measure(torch.linspace(-1, 1, 100)[None], mask), on_policy=True)
    two.add_ratio(ratio_stats.measure(torch.full((1, 100), 30.0), mask * (torch.arange(100) < 2)))
    result = merge([one.local(), two.local()], 1)
    assert result["on_policy_log_ratio_abs_max"] == 1.0
    assert result["log_ratio_raw_max"] == 30.0 and result["log_ratio_max"] == 20.0 and result["log_ratio_min"] == -1.0
    assert result["ratio_max"] == pytest.approx(math.exp(20.0), rel=1e-5) and result["tokens_in_batch"] == 102
    both = torch.cat([torch.linspace(-1, 1, 100).abs(), torch.tensor([30.0, 30.0])])
    assert result["log_ratio_abs_p99"] == pytest.approx(torch.quantile(both, 0.99).item(), rel=1e-5)


def test_a_batch_without_action_tokens_has_no_tail():
    stats = TrainStats()
    stats.add_ratio(ratio_stats.measure(torch.randn(2, 3), torch.zeros(2, 3)))
    assert "ratio_max" not in merge([stats.local()], 1)
