"""Planted spikes under ZeRO-3 on 2 ranks, with and without offload: caught, dumped, replayed, kept from the weights."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import run_ranks

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
SCALED, NAN = 3, 4  # optimizer steps of the planted batches


@pytest.fixture(scope="module", params=["in_place", "offload"])
def found(request, tiny_dir, tmp_path_factory):
    """What each rank of spike_probe.py found, and the folder that it wrote to."""
    out = tmp_path_factory.mktemp(f"spike_{request.param}")
    offload = ["--offload"] * (request.param == "offload")
    return run_ranks("spike_probe.py", out, tiny_dir / "model", out, *offload), out


def spikes(out: Path, step: int) -> list[dict]:
    """The first run's lines of a step, by rank."""
    lines = [json.loads(line) for line in (out / "spike_log.jsonl").read_text().splitlines()]
    return sorted((line for line in lines if line["optimizer_step"] == step), key=lambda line: line["rank"])


def test_a_skipped_spike_leaves_the_weights(found):
    """And the optimizer: the steps after it are those of a run without the planted batches, bit for bit."""
    for rank in found[0]:
        assert rank["skipped_left_the_weights"] == [True, True] and rank["others_moved_them"] == [True, True]
        assert rank["equals_the_run_without_them"] == [True] * 4


def test_the_figures_say_so(found):
    for rank in found[0]:
        normal, scaled, broken = rank["figures"][0], rank["figures"][2], rank["figures"][3]
        assert normal["spikes"] == 0 and 0 < normal["grad_norm"] < 50 and normal["grad_norm_clipped"] <= 1.0
        assert (scaled["spikes"], scaled["skipped_steps"], scaled["nonfinite_steps"]) == (1, 1, 0)
        assert scaled["grad_norm"] > 50 and math.isnan(broken["grad_norm"])
        assert (broken["spikes"], broken["skipped_steps"], broken["nonfinite_steps"]) == (1, 1, 1)


def test_a_gradient_that_is_not_finite_is_never_taken(found):
    """Under --on_spike log too; the third in a row stops every rank."""
    for rank in found[0]:
        assert rank["nan_1_left_the_weights"] and rank["nan_2_left_the_weights"]
        assert "3" in rank["third_nan"] and "not finite" in rank["third_nan"]


def test_the_log_names_the_row_that_did_it(found):
    scaled = spikes(found[1], SCALED)
    assert [line["rank"] for line in scaled] == [0, 1] and {line["reason"] for line in scaled} == {"threshold"}
    assert scaled[0]["grad_norm"] == scaled[1]["grad_norm"]
    worst = scaled[0]["worst_tokens"][0]
    assert worst["prompt_hash"] in scaled[0]["prompt_hashes"] and abs(worst["advantage"]) > 100
    for line in scaled + spikes(found[1], NAN)[:2]:
        assert (found[1] / line["dump"]).is_file()


def test_the_dump_is_replayed_to_the_same_norm(found):
    logged = spikes(found[1], SCALED)[0]["grad_norm"]
    command = [sys.executable, "-m", "rft.cli", "replay-spike", found[1] / "spike_log.jsonl", "--json", "--step"]
    done = subprocess.run([*command, str(SCALED)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["grad_norm"] == pytest.approx(logged, rel=0.01)
    top = said["tokens"][0]
    assert top["rank"] == 0 and abs(top["advantage"]) > 100  # the planted row drives it
