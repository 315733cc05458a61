"""A changed frozen weight stops the run (rft/base_digest.py)."""

import json

import pytest
import torch

from rft import base_digest
from rft.errors import RftError


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    module = torch.nn.ModuleDict({"base": torch.nn.Linear(3, 3), "lora_A": torch.nn.Linear(3, 2)})
    module["base"].requires_grad_(False)
    return module


def test_trained_weights_may_move_and_frozen_ones_may_not(model, tmp_path):
    guard = base_digest.BaseDigest(model, rank=1)
    with torch.no_grad():
        model["lora_A"].weight += 1
    guard.check(1)
    with torch.no_grad():
        model["base"].bias[0] += 1e-6
    with pytest.raises(RftError, match="actor rank 1: frozen base weights changed by step 2"):
        guard.check(2)
    lines = [json.loads(line) for line in (tmp_path / "base_digest.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert lines[0]["digest"] == lines[1]["digest"] != lines[2]["digest"]


def test_a_copy_that_zero_keeps_whole_may_not_go_bad_on_its_own(model):
    weight = model["base"].weight
    weight.ds_id, weight.ds_numel, weight.ds_tensor = 0, 9, weight.detach().clone()
    guard = base_digest.BaseDigest(model, rank=0)
    guard.check(1)
    with torch.no_grad():
        weight[0, 0] = 1e38
    with pytest.raises(RftError, match=r"base\.weight"):
        guard.check(2)
