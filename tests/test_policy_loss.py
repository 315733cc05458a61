"""The patched PolicyLoss, against float64 loops by hand."""

import math

import pytest
import torch

from rft.batch_plan import MicroBatch

pytest.importorskip("deepspeed")


@pytest.fixture(scope="module")
def policy_loss():
    from openrlhf.models.loss import PolicyLoss

    return PolicyLoss


def batch(seed=0, rows=3, width=5):
    generator = torch.Generator().manual_seed(seed)
    new, old, rollout = (-torch.rand(rows, width, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = (torch.rand(rows, width, generator=generator) > 0.3).double()
    mask[:, 0] = 1
    return new, old, rollout, torch.randn(rows, width, generator=generator, dtype=torch.float64), mask


def test_loss_equals_a_loop_by_hand(policy_loss):
    new, old, _, advantages, mask = batch()
    micro = MicroBatch(None, tokens=40.0, sequences=3.0, ends_step=True, step=0)
    loss, clip_ratio, kl, _ = policy_loss(0.1, 0.2)(new, old, advantages, action_mask=mask, micro=micro)
    total = clipped = drift = 0.0
    for n, o, a, m in zip(new.flatten(), old.flatten(), advantages.flatten(), mask.flatten(), strict=True):
        ratio = math.exp(n - o)
        free, bound = ratio * a, min(max(ratio, 0.9), 1.2) * a
        total += -min(free, bound) * m
        clipped += (bound < free) * m
        drift += (o - n) * m
    assert loss.item() == pytest.approx(total.item() / 40.0)
    assert clip_ratio.item() == pytest.approx((clipped / mask.sum()).item())
    assert kl.item() == pytest.approx((drift / mask.sum()).item())


def test_ppo_kl_is_the_policys_under_is_correction(policy_loss):
    new, old, rollout, advantages, mask = batch(1)
    module = policy_loss(0.1, 0.1, enable_vllm_is_correction=True, vllm_is_truncated_threshold=[0.5, 5.0])
    _, _, kl, vllm_kl = module(new, old, advantages, action_mask=mask, rollout_log_probs=rollout)
    assert kl.item() == pytest.approx(((old - new) * mask).sum().item() / mask.sum().item())
    assert vllm_kl.item() == pytest.approx(((rollout - old) * mask).sum().item() / mask.sum().item())


def test_log_ratio_is_clamped_and_its_tail_reported(policy_loss):
    new, old, _, advantages, mask = batch(2)
    old[0, 0] = new[0, 0] - 800.0
    old[1, 0] = new[1, 0] + 800.0
    module = policy_loss(0.1, 0.1)
    loss = module(new, old, advantages, action_mask=mask)[0]
    stats = module.ratio_stats
    assert torch.isfinite(loss)
    assert stats.log_ratio_raw_max == pytest.approx(800.0) and stats.log_ratio_max == 20.0
    assert stats.log_ratio_min == -20.0 and stats.ratio_max == pytest.approx(math.exp(20.0), rel=1e-6)
    assert stats.tokens_in_batch == mask.sum() and stats.log_ratio_abs_p99 == pytest.approx(800.0)


def test_clamp_changes_no_ordinary_loss(policy_loss):
    new, old, _, advantages, mask = batch(3)
    ratio = (new - old).exp()
    wanted = -torch.min(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages)
    loss = policy_loss(0.1, 0.1)(new, old, advantages, action_mask=mask)[0]
    torch.testing.assert_close(loss, (wanted * mask).sum() / mask.sum())


def test_gspo_weighs_sequences_and_a_blank_one_weighs_nothing(policy_loss):
    new, old, _, advantages, mask = batch(4)
    mask[2] = 0
    micro = MicroBatch(None, tokens=1.0, sequences=2.0, ends_step=True, step=0)
    loss = policy_loss(0.1, 0.1, policy_loss_type="gspo")(new, old, advantages, action_mask=mask, micro=micro)[0]
    total = 0.0
    for row in (0, 1):
        keep = mask[row].bool()
        ratio = (new[row] - old[row])[keep].mean().exp()
        each = -torch.min(ratio * advantages[row], ratio.clamp(0.9, 1.1) * advantages[row])[keep]
        total += each.mean()
    torch.testing.assert_close(loss, total / 2)
