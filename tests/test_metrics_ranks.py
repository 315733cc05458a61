"""Every figure of a step on two ranks with unequal micro-batches, against values computed by hand.

The rollout has 3 prompts of 2 answers, cut into micro-batches of 1, 3 and 2 samples; rank 0 trains on the first two,
rank 1 on the last (its second is blank). `test_two_processes` sends the same shares through a real process group.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rft import ratio_stats
from rft.rollout_stats import rollout_stats
from rft.train_stats import TrainStats, clip_sides, merge

INF, NAN = math.inf, math.nan
LENGTHS = [1, 2, 3, 4, 5, 6]
REWARDS = [1.0, 0.0, 1.0, 1.0, 0.0, NAN]  # groups: unequal, all right, one left of two
CORRECT = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
CUTS = [(0, 1), (1, 4), (4, 6)]


def micro(start: int, end: int) -> SimpleNamespace:
    lengths = LENGTHS[start:end]
    width = max(lengths) + 1
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    place = torch.arange(start, end).float()[:, None]
    filled = torch.where(mask.bool(), place.expand(-1, width), torch.full((end - start, width), NAN))
    tensor = lambda values: torch.tensor(values[start:end])  # noqa: E731
    return SimpleNamespace(
        index=list(range(start, end)),
        rewards=tensor(REWARDS),
        action_mask=mask,
        sequences=torch.zeros(end - start, width + 1, dtype=torch.long),
        advantages=filled,
        action_log_probs=filled * 0 - 1.0,
        rollout_log_probs=filled * 0 - 1.5,
        info={
            "reward": tensor(REWARDS),
            "correctness": tensor(CORRECT),
            "has_answer": tensor([1.0, 1.0, 0.0, 1.0, NAN, 0.0]),
            "parse_method": tensor([2.0, 2.0, 1.0, 0.0, 2.0, NAN]),
            "unparseable": tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0]),
            "grader_timeout": tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]),
            "judge_failed": tensor([0.0, 0.0, 1.0, NAN, 0.0, 1.0]),
            "truncated": tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
            "kl": tensor([0.5, 0.25, 0.0, 0.0, 1.0, 2.0]),  # a mean over each sample's tokens
            "response_length": tensor(LENGTHS),
            "total_length": tensor(LENGTHS),
        },
    )


@pytest.fixture
def stats():
    return rollout_stats([micro(*cut) for cut in CUTS], group_size=2)


def test_rollout_figures(stats):
    wanted = {
        "reward_mean": 3 / 5,
        "reward_std": math.sqrt(3 / 5 * 2 / 5),
        "reward_masked": 1 / 6,
        "correctness": 3 / 6,
        "has_answer": 3 / 5,
        "parse_method_box": 3 / 5,
        "parse_method_formula": 1 / 5,
        "parse_method_none": 1 / 5,
        "unparseable_count": 2,
        "crashed_count": 2,  # one sample twice
        "truncated": 2 / 6,
        "high_reward_but_wrong": 0.0,
        "kl": (0.5 * 1 + 0.25 * 2 + 1.0 * 5 + 2.0 * 6) / 21,  # by tokens, not the samples' 0.625
        "response_length_mean": 21 / 6,
        "response_length_p50": 3.5,
        "response_length_p90": 5.5,
        "response_length_p99": 5.95,
        "tokens_in_rollout": 21,
        "samples": 6,
        "groups": 3,
        "zero_std_groups": 2 / 3,
        "groups_all_right": 1 / 3,
        "groups_all_wrong": 1 / 3,
        "effective_batch": 2,
        "reward_length_corr": -(0.5**0.5),  # of (0.5, -0.5, 0, 0, 0) and (-0.5, 0.5, -0.5, 0.5, 0)
        "repetition": 0.0,  # shorter than an 8-gram and one
        "advantage_mean": sum(i * n for i, n in enumerate(LENGTHS)) / 21,
        "advantage_max": 5.0,
        "advantage_min": 0.0,
        "dlogp_abs_mean": 0.5,
    }
    assert {name: stats[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    mean = wanted["advantage_mean"]
    spread = math.sqrt(sum(n * (i - mean) ** 2 for i, n in enumerate(LENGTHS)) / 21)
    assert stats["advantage_std"] == pytest.approx(spread, rel=1e-5)
    assert "parse_method" not in stats and all(isinstance(v, int | float) for v in stats.values())


def test_the_cut_into_micro_batches_changes_no_figure(stats):
    whole = rollout_stats([micro(0, 6)], group_size=2)
    assert whole == pytest.approx(stats, rel=1e-5, nan_ok=True)
    shuffled = rollout_stats([micro(*cut) for cut in reversed(CUTS)], group_size=2)
    assert shuffled == pytest.approx(stats, rel=1e-5, nan_ok=True)


def test_a_rollout_without_any_reward_has_null_figures_and_no_crash():
    part = micro(5, 6)
    found = rollout_stats([part], group_size=2)
    assert math.isnan(found["reward_mean"]) and found["zero_std_groups"] == 1.0 and found["effective_batch"] == 0
    assert math.isnan(found["parse_method_box"]) and found["groups_all_wrong"] == 1.0


# Log-ratio and advantage of each token; eps 0.1 lets ratios of 0.9 to 1.1 through.
PARTS = {
    0: [([0.0, 0.2, -0.2], [1.0, 1.0, 1.0]), ([0.3], [-1.0])],  # one above with A > 0; low side has A > 0: not clipped
    1: [([-0.5, -0.5, 0.05, 0.2, -30.0, 25.0], [-1.0, 1.0, -1.0, 2.0, -1.0, 0.0]), ([], [])],
}
ENTROPY = {0: [[1.0, 2.0, 3.0], [4.0]], 1: [[5.0, 6.0, 7.0, 8.0, 9.0, 10.0], []]}
NORMS = [3.0, 0.5]  # of two optimizer steps


def rank_share(rank: int) -> TrainStats:
    stats = TrainStats()
    for (ratios, advantages), entropy in zip(PARTS[rank], ENTROPY[rank], strict=True):
        raw, a = torch.tensor([ratios + [99.0]]), torch.tensor([advantages + [99.0]])
        mask = torch.tensor([[1] * len(ratios) + [0]])
        stats.add_ratio(ratio_stats.measure(raw, mask), on_policy=rank == 0)
        stats.add_clip(clip_sides(ratio_stats.clamp(raw).exp(), a, mask, 0.1, 0.1))
        stats.add_mean("ppo_kl", -sum(ratios) / max(1, len(ratios)) if ratios else NAN, len(ratios))
        stats.add_sum("policy_loss", float(len(ratios)))
        stats.pool("entropy", torch.tensor(entropy))
    for norm in NORMS:
        stats.add_grad_norm(norm, max_norm=1.0)
    stats.add_spikes({"spikes": 1, "skipped_steps": 0})
    stats.add_memory({"host_rss_bytes": 100 + rank, "gpu_allocated_bytes": 10 - rank, "gpu_peak_bytes": 20 + rank})
    stats.set_last("actor_lr", 1e-6)
    return stats


TRAIN = {
    "ppo_clip_ratio_low": 2 / 10,
    "ppo_clip_ratio_high": 2 / 10,
    "ppo_kl": -(0.0 + 0.2 - 0.2 + 0.3 - 0.5 - 0.5 + 0.05 + 0.2 - 30.0 + 25.0) / 10,
    "policy_loss": (3 + 1 + 6) / (2 * 2),
    "entropy_mean": 5.5,
    "entropy_p10": 1.9,
    "entropy_p90": 9.1,
    "grad_norm": 1.75,
    "grad_norm_max": 3.0,
    "grad_norm_clipped": (1.0 + 0.5) / 2,
    "log_ratio_raw_max": 25.0,
    "log_ratio_max": 20.0,
    "log_ratio_min": -20.0,
    "ratio_max": math.exp(20.0),
    "log_ratio_abs_p99": 25.0 + 0.91 * 5.0,
    "on_policy_log_ratio_abs_max": 0.3,
    "tokens_in_batch": 10,
    "spikes": 1,
    "skipped_steps": 0,
    "host_rss_bytes": 201,
    "gpu_allocated_bytes": 10,
    "gpu_peak_bytes": 21,
    "actor_lr": 1e-6,
}


def test_training_figures():
    found = merge([rank_share(0).local(), rank_share(1).local()], optimizer_steps=2)
    assert found == pytest.approx(TRAIN, rel=1e-5)


def test_the_clip_sides_add_up_to_the_losss_own_figure():
    pytest.importorskip("deepspeed")
    from openrlhf.models.loss import PolicyLoss

    generator = torch.Generator().manual_seed(0)
    new, old, advantages = (torch.randn(4, 50, generator=generator) for _ in range(3))
    mask = (torch.rand(4, 50, generator=generator) > 0.3).float()
    _, clip_ratio, *_ = PolicyLoss(0.1, 0.3)(new, old, advantages, action_mask=mask)
    low, high, tokens = clip_sides(ratio_stats.clamp(new - old).exp(), advantages, mask, 0.1, 0.3)
    assert low > 0 and high > 0 and low != high and tokens == mask.sum()
    assert (low + high) / tokens == pytest.approx(clip_ratio.item(), rel=1e-6)


@pytest.mark.parametrize("order", [(NAN, 1.0), (1.0, NAN)])
def test_a_value_that_is_not_finite_shows_whatever_its_order(order):
    one, two = TrainStats(), TrainStats()
    for value in order:
        one.add_max("ratio_max", value), one.add_min("log_ratio_min", value)
        one.add_mean("ppo_kl", value, 1)
    two.add_max("ratio_max", 3.0), two.add_min("log_ratio_min", -3.0)
    for shares in ([one, two], [two, one]):
        found = merge([share.local() for share in shares], 1)
        assert all(math.isnan(found[name]) for name in ("ratio_max", "log_ratio_min", "ppo_kl"))


SCRIPT = """
import json, sys
import torch
from torch import distributed as dist
sys.path.insert(0, sys.argv[3])
from test_metrics_ranks import rank_share
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
stats = rank_share(rank)
found = stats.reduce(2)
print(json.dumps(found))
dist.destroy_process_group()
"""


def test_two_processes(tmp_path):
    here = str(Path(__file__).parent)
    commands = [[sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store"), here] for rank in (0, 1)]
    ranks = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    found = []
    for process in ranks:
        out, err = process.communicate()
        assert process.returncode == 0, err[-2000:]
        found.append(json.loads(out.splitlines()[-1]))
    assert found[0] == found[1]
    memory = {name: found[0].pop(name) for name in ("host_rss_bytes", "optimizer_steps")}
    assert memory["host_rss_bytes"] > 2 * 50 * 2**20 and memory["optimizer_steps"] == 2  # two processes with torch
    assert found[0] == pytest.approx({k: v for k, v in TRAIN.items() if k != "host_rss_bytes"}, rel=1e-5)
