"""The black box: what is logged and dumped, and when (rft/spike.py, spike_rule.py, spike_tokens.py)."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from rft import ratio_stats, spike, spike_dump, spike_tokens
from rft.batch_plan import MicroBatch
from rft.errors import RftError
from rft.spike import SpikeLog, prompt_hash
from rft.spike_rule import MIN_HISTORY, SpikeRule


class Tokenizer:
    def decode(self, ids, skip_special_tokens):
        assert not skip_special_tokens
        return " ".join(map(str, ids.tolist()))


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    monkeypatch.delenv("SPIKE_LOG_PATH", raising=False)

    def lines():
        path = tmp_path / "spike_log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return lines


@pytest.fixture
def spikes(read):
    return SpikeLog(50.0, Tokenizer())


def add(spikes, first, raw=0.0, **more):
    sequences = torch.tensor([[first, 8, 9, 20, 21, 0], [first, 8, 9, 20, 0, 0], [7, 7, 7, 7, 7, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])  # the last row is a blank sample
    spikes.add(sequences, mask, ratio_stats.measure(torch.full((3, 5), raw), mask), **more)


def add_whole(spikes, first=5, worst=0.0):
    """A micro-batch with all that a dump keeps; `worst` is the second sample's advantage at its one token."""
    sequences = torch.tensor([[first, 8, 9, 20, 21, 0], [first, 8, 9, 30, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 0, 0]])
    old, now = -torch.ones(2, 5), -torch.ones(2, 5)
    advantages = torch.full((2, 5), 0.5)
    advantages[1, 2] = worst
    experience = SimpleNamespace(
        sequences=sequences,
        attention_mask=torch.ones(2, 6).long(),
        action_mask=mask,
        action_log_probs=old,
        rollout_log_probs=old - 0.25,
        base_action_log_probs=None,
        advantages=advantages,
    )
    micro = MicroBatch(experience, tokens=1.5, sequences=1.0, ends_step=True, step=0)
    spikes.add(sequences, mask, ratio_stats.measure(now - old, mask), micro, now, 0.25)


def test_only_a_spike_is_logged_and_only_its_own_prompts(spikes, read):
    add(spikes, 1)
    assert spikes.end_step(50.0) == 50.0
    assert read() == []
    add(spikes, 2, raw=0.5)
    add(spikes, 3, raw=3.0)
    spikes.end_step(torch.tensor(50.5))
    add(spikes, 4)
    spikes.end_step(1.0)
    (line,) = read()
    assert line["prompt_hashes"] == sorted([prompt_hash("2 8 9"), prompt_hash("3 8 9")])
    assert line["grad_norm"] == 50.5 and line["threshold"] == 50.0 and line["optimizer_step"] == 2 and line["rank"] == 0
    assert line["log_ratio_raw_max"] == 3.0 and line["ratio_max"] == pytest.approx(math.exp(3.0), rel=1e-5)
    assert line["reason"] == "threshold" and line["action"] == "logged" and line["dump"] is None
    assert spikes.take_counts() == {"spikes": 1, "skipped_steps": 0, "nonfinite_steps": 0}
    assert spikes.take_counts()["spikes"] == 0


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_a_spike_and_never_taken(spikes, read, norm):
    add(spikes, 1)
    assert spikes.judge(norm) is True
    assert not math.isfinite(spikes.end_step(1.0))  # what the engine says is not believed
    (line,) = read()
    assert line["grad_norm"] is None and line["prompt_hashes"] == [prompt_hash("1 8 9")]
    assert line["reason"] == "nonfinite" and line["action"] == "skipped"
    assert spikes.take_counts() == {"spikes": 1, "skipped_steps": 1, "nonfinite_steps": 1}


def test_without_the_gate_nothing_is_said_to_be_skipped(spikes, read):
    spikes.end_step(math.nan)
    assert read()[0]["action"] == "logged" and spikes.take_counts()["skipped_steps"] == 0


def test_three_in_a_row_that_are_not_finite_stop_the_run_after_they_are_logged(spikes, read):
    norms = [math.nan, math.inf, 1.0, math.nan, math.nan]
    assert [spikes.judge(norm) for norm in norms] == [True, True, False, True, True]
    with pytest.raises(RftError, match=r"not finite in 3 optimizer steps in a row.*replay-spike") as caught:
        spikes.judge(math.nan)
    assert "\n" not in str(caught.value)
    assert [line["action"] for line in read()] == ["skipped"] * 4 + ["stopped"]


@pytest.mark.parametrize(("policy", "skipped"), [("log", False), ("skip", True)])
def test_the_policy_decides_over_a_finite_spike(read, policy, skipped):
    spikes = SpikeLog(50.0, Tokenizer(), SimpleNamespace(on_spike=policy))
    assert spikes.judge(49.0) is False and spikes.judge(51.0) is skipped and spikes.judge(49.0) is False
    assert [line["action"] for line in read()] == ["skipped" if skipped else "logged"]


def test_stop_stops_at_the_first_spike(read):
    spikes = SpikeLog(50.0, Tokenizer(), SimpleNamespace(on_spike="stop"))
    with pytest.raises(RftError, match=r"grad_norm is 51, above 50, and --on_spike is stop"):
        spikes.judge(51.0)
    assert read()[0]["action"] == "stopped"


def test_a_robust_z_score_knows_what_is_usual():
    rule = SpikeRule(threshold=0.0, zscore=6.0)
    usual = [1.0 + 0.1 * (i % 5) for i in range(MIN_HISTORY)]
    assert all(rule.judge(norm).reason is None for norm in usual)
    assert rule.judge(1.9).reason is None and rule.judge(0.01).reason is None  # low is no spike
    verdict = rule.judge(4.0)
    middle, spread = 1.2, 1.4826 * 0.15  # of 1.0 … 1.4 and the two: median, and median distance from it
    assert verdict.reason == "zscore" and verdict.zscore == pytest.approx((4.0 - middle) / spread)
    assert SpikeRule(threshold=0.0, zscore=0.0).judge(1e9).reason is None
    young = SpikeRule(threshold=0.0, zscore=6.0)
    assert [young.judge(norm).reason for norm in (1.0, 1.0, 1e9)] == [None] * 3  # too little history to say
    flat = SpikeRule(threshold=0.0, zscore=6.0)
    assert all(flat.judge(1.0).reason is None for _ in range(40)) and flat.judge(1.2).reason is None
    assert flat.judge(2.0).reason == "zscore"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -1.0}, "--spike_grad_norm is -1"),
        ({"zscore": math.nan}, "--spike_zscore is nan"),
        ({"on_spike": "ignore"}, "--on_spike is 'ignore': give one of log, skip, stop"),
    ],
)
def test_flags_that_mean_nothing_are_refused(options, message):
    with pytest.raises(RftError, match=message):
        SpikeRule(**options)


def test_the_worst_tokens_are_named_with_all_their_log_probs(read, tmp_path):
    args = SimpleNamespace(eps_clip_low_high=(0.1, 0.1), pretrain="hub/model", max_norm=1.0)
    spikes = SpikeLog(50.0, Tokenizer(), args)
    add_whole(spikes, worst=-900.0)
    spikes.judge(88.0)
    (line,) = read()
    worst = line["worst_tokens"]
    assert len(worst) == 3 and worst[0]["token_id"] == 30 and {t["token_id"] for t in worst} == {30, 20, 21}
    assert worst[0] == {
        "micro_batch": 0,
        "row": 1,
        "position": 2,
        "token_id": 30,
        "text": "30",
        "prompt_hash": prompt_hash("5 8 9"),
        "advantage": -900.0,
        "log_prob": -1.0,
        "old_log_prob": -1.0,
        "rollout_log_prob": -1.25,
        "pull": pytest.approx(900 * (1 - math.exp(-1)), rel=1e-5),
    }
    assert line["dump"] == f"spikes/{spike_dump.file_name(1, 0)}"
    content = spike_dump.read(tmp_path / line["dump"])
    assert content["meta"]["grad_norm"] == 88.0 and content["meta"]["settings"]["eps_clip_low_high"] == [0.1, 0.1]
    (batch,) = content["micro_batches"]
    assert batch["weights"] == {"tokens": 1.5, "sequences": 1.0, "on_policy": False, "blank": False, "kl_ctl": 0.25}
    assert batch["advantages"][1, 2] == -900.0 and "base_log_probs" not in batch
    spikes.end_step(88.0)
    spikes.judge(99.0)  # a step of its own: nothing of the last one is in it
    assert read()[1]["worst_tokens"] == [] and read()[1]["dump"] is None


def test_a_token_that_is_clipped_pulls_at_nothing_and_one_that_is_not_finite_hardest():
    log_probs = torch.tensor([[-0.5, -0.5, -0.5, math.nan, -3.0, -0.5]])
    old = torch.tensor([[-1.0, -1.0, -0.5, -1.0, -3.0, -0.5]])
    advantages = torch.tensor([[2.0, -2.0, 2.0, 0.0, 2.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    found = spike_tokens.pull(log_probs, old, advantages, mask, (0.1, 0.1))[0].tolist()
    rise = math.exp(0.5)
    wanted = [0.0, 2 * rise * (1 - math.exp(-0.5)), 2 * (1 - math.exp(-0.5)), math.inf, 2 * (1 - math.exp(-3)), 0.0]
    assert found == pytest.approx(wanted, rel=1e-5)


def test_dumps_are_bounded_and_a_full_disk_is_said_and_survived(read, tmp_path, monkeypatch):
    monkeypatch.setattr(spike_dump, "MOST", 2)
    spikes = SpikeLog(50.0, Tokenizer(), SimpleNamespace(pretrain="x"))
    for norm in (60.0, 61.0, 62.0):
        add_whole(spikes)
        spikes.judge(norm)
        spikes.end_step(norm)
    assert [bool(line["dump"]) for line in read()] == [True, True, False]
    monkeypatch.setattr(spike_dump, "MOST", 9)
    monkeypatch.setattr(spike_dump.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    add_whole(spikes)
    spikes.judge(63.0)
    assert "No space left" in read()[-1]["dump_error"] and read()[-1]["dump"] is None
    assert len(list((tmp_path / "spikes").iterdir())) == 2  # no part of a file stays


def test_a_continued_run_drops_the_lines_of_steps_that_it_takes_again(read, tmp_path):
    path = tmp_path / "spike_log.jsonl"
    path.write_text("".join(json.dumps({"optimizer_step": s}) + "\n" for s in (3, 8, 9)) + '{"optimi')
    spike.drop_after(8)
    assert [line["optimizer_step"] for line in read()] == [3, 8]


def test_the_path_can_be_named(spikes, read, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKE_LOG_PATH", str(tmp_path / "elsewhere.jsonl"))
    add(spikes, 1)
    spikes.end_step(1e9)
    assert read() == [] and (tmp_path / "elsewhere.jsonl").exists()
