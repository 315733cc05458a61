"""The log of gradient spikes (rft/spike.py)."""

import json
import math

import pytest
import torch

from rft import ratio_stats
from rft.spike import SpikeLog, prompt_hash


class Tokenizer:
    def decode(self, ids, skip_special_tokens):
        assert not skip_special_tokens
        return " ".join(map(str, ids.tolist()))


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    monkeypatch.delenv("SPIKE_LOG_PATH", raising=False)

    def read():
        path = tmp_path / "spike_log.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return SpikeLog(50.0, Tokenizer()), read


def add(spikes, first, raw=0.0):
    sequences = torch.tensor([[first, 8, 9, 20, 21, 0], [first, 8, 9, 20, 0, 0], [7, 7, 7, 7, 7, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])  # the last row is a blank sample
    spikes.add(sequences, mask, ratio_stats.measure(torch.full((3, 5), raw), mask))


def test_only_a_spike_is_logged_and_only_its_own_prompts(log):
    spikes, read = log
    add(spikes, 1)
    spikes.end_step(50.0)
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


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_a_spike(log, norm):
    spikes, read = log
    add(spikes, 1)
    spikes.end_step(norm)
    (line,) = read()
    assert line["grad_norm"] is None and line["prompt_hashes"] == [prompt_hash("1 8 9")]


def test_the_path_can_be_named(log, tmp_path, monkeypatch):
    spikes, read = log
    monkeypatch.setenv("SPIKE_LOG_PATH", str(tmp_path / "elsewhere.jsonl"))
    add(spikes, 1)
    spikes.end_step(1e9)
    assert read() == [] and (tmp_path / "elsewhere.jsonl").exists()
