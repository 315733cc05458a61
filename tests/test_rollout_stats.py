"""Figures of one rollout, against values computed by hand (rft/rollout_stats.py)."""

import math
from types import SimpleNamespace

import pytest
import torch

from rft import rollout_stats


def micro(rewards, correctness, lengths, advantages, d):
    rows, width = len(rewards), max(lengths)
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    noise = torch.full((rows, width), 77.0)  # whatever stands at masked positions must not count
    return SimpleNamespace(
        info={
            "reward": torch.tensor(rewards),
            "correctness": torch.tensor(correctness),
            "response_length": torch.tensor(lengths),
            "total_length": torch.tensor(lengths),
        },
        action_mask=mask,
        sequences=torch.zeros(rows, width + 1, dtype=torch.long),
        advantages=torch.where(mask.bool(), torch.tensor(advantages).unsqueeze(1).expand(rows, width), noise),
        action_log_probs=torch.where(mask.bool(), torch.full((rows, width), -1.0), noise),
        rollout_log_probs=torch.where(mask.bool(), torch.full((rows, width), -1.0 - d), -noise),
    )


def test_figures_equal_hand_computed_ones():
    parts = [
        micro([1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1, 2, 3], [0.5, -0.5, 0.5], 0.1),
        micro([0.0], [0.0], [4], [-1.0], -0.2),
    ]
    stats = rollout_stats.rollout_stats(parts)
    advantages = [0.5] + [-0.5] * 2 + [0.5] * 3 + [-1.0] * 4
    mean = sum(advantages) / 10
    assert stats["reward_mean"] == 0.5 and stats["reward_min"] == 0 and stats["reward_max"] == 1
    assert stats["reward_std"] == 0.5 and stats["reward_p90"] == 1.0
    assert stats["correctness"] == 0.25 and stats["high_reward_but_wrong"] == 0.25
    assert stats["response_length_mean"] == 2.5 and stats["samples"] == 4 and stats["tokens_in_rollout"] == 10
    assert stats["advantage_mean"] == pytest.approx(mean) and stats["advantage_min"] == -1.0
    assert stats["advantage_std"] == pytest.approx(math.sqrt(sum((a - mean) ** 2 for a in advantages) / 10))
    assert stats["dlogp_abs_mean"] == pytest.approx((6 * 0.1 + 4 * 0.2) / 10, rel=1e-5)
    assert stats["dlogp_abs_max"] == pytest.approx(0.2, rel=1e-5)
    k3 = (6 * (math.exp(0.1) - 1 - 0.1) + 4 * (math.exp(-0.2) - 1 + 0.2)) / 10
    assert stats["dlogp_kl_k3"] == pytest.approx(k3, rel=1e-4)


def test_a_missing_value_does_not_count():
    part = micro([1.0, 0.0], [1.0, math.nan], [1, 1], [0.0, 0.0], 0.0)
    assert rollout_stats.info_means([part])["correctness"] == 1.0


def test_a_rewards_own_figure_that_no_sample_has_is_none():
    """One that is registered is not finite, and says so."""
    part = micro([1.0, 0.0], [math.nan, math.nan], [1, 1], [0.0, 0.0], 0.0)
    part.info["speed_ratio"] = torch.tensor([math.nan, math.nan])
    means = rollout_stats.info_means([part])
    assert "speed_ratio" not in means and math.isnan(means["correctness"])


def test_mismatch_gets_the_thresholds_and_the_version_and_no_version_is_averaged():
    part = micro([1.0, 0.0], [1.0, 0.0], [1, 3], [0.0, 0.0], 0.1)  # exp(0.1) = 1.105
    part.info["adapter_version"] = torch.tensor([4.0, 2.0])
    stats = rollout_stats.rollout_stats([part])
    assert stats["token_weight_above"] == 0.0 and "adapter_version" not in stats and "adapter_lag_mean" not in stats
    stats = rollout_stats.rollout_stats([part], thresholds=(0.9, 1.1), serving_version=4)
    assert stats["token_weight_above"] == 1.0 and "adapter_version" not in stats
    assert stats["adapter_lag_mean"] == 1.0 and stats["tokens_lag2"] == 3


def test_ranks_get_no_key_of_a_reward():
    part = micro([1.0], [1.0], [1], [0.0], 0.0)
    part.info["adapter_version"] = torch.tensor([1.0])
    rollout_stats.for_training([part])
    assert set(part.info) == {"response_length", "total_length"}


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
def test_quantile_equals_torchs(q):
    values = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    assert rollout_stats.quantile(values, q) == pytest.approx(torch.quantile(values, q).item(), abs=1e-6)
    assert math.isnan(rollout_stats.quantile(torch.tensor([]), q))
