"""``--experts resident`` in the loop: the same first figures, the same gain, checkpoints that both forms take."""

import json
import os
import statistics
import subprocess
from pathlib import Path

import pytest
from kill_kit import ROOT, Run, assert_no_gap_and_no_repeat

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]
RESIDENT = ("--experts", "resident")
NIGHTLY = os.environ.get("RFT_TEST_NIGHTLY") == "1"


def train_lines(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics" / "training_metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "train"]


def assert_certified(folder: Path) -> None:
    for line in (folder / "metrics" / "sync_log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for engine in entry["engines"]:
            assert [rank["digest"] for rank in engine["ranks"]] == entry["digests"][: len(engine["ranks"])]


def test_a_checkpoint_of_either_form_goes_on_in_the_other(tiny_dir, tmp_path):
    """Resident, dequantised: one run, no step lost, trainer and engine together all the way; nightly, back again."""
    for flags in (RESIDENT, (), RESIDENT) if NIGHTLY else (RESIDENT, ()):
        run = Run(tmp_path, *flags)
        run.wait_for_steps(2)
        run.stop()
        assert_no_gap_and_no_repeat(run)
        assert ("resident" in run.record["command"]) == (flags == RESIDENT)
    assert len(run.train()) >= 4
    assert max(line["dlogp_abs_mean"] for line in run.train()) < 0.03


@pytest.mark.skipif(not NIGHTLY, reason="a whole tiny run: RFT_TEST_NIGHTLY=1")
def test_the_whole_run_is_the_dequantised_one(run, tmp_path):
    """Step 1: the same rollout, figures within bf16's rounding. At the end: gains in each other's intervals."""
    env = {**os.environ, "RFT_RUNS_DIR": str(tmp_path), "RFT_SKIP_SETUP": "1"}
    command = ["bash", "train_grpo_tiny.sh", *RESIDENT]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = [path.parent for path in tmp_path.glob("*/run.json")]
    ours, theirs = train_lines(folder), train_lines(run)
    assert ours[0]["reward_mean"] == theirs[0]["reward_mean"]
    for figure in ("entropy_mean", "dlogp_abs_mean", "grad_norm"):
        assert ours[1][figure] == pytest.approx(theirs[1][figure], rel=0.1, abs=1e-3), figure
    assert_certified(folder)
    gains = [json.loads((one / "summary.json").read_text()) for one in (folder, run)]
    for one, other in (gains, gains[::-1]):
        low, high = other["sampled_gain_ci95"]
        assert low <= one["sampled_gain"] <= high
    late = [statistics.mean(line["reward_mean"] for line in lines[-10:]) for lines in (ours, theirs)]
    assert late[0] == pytest.approx(late[1], abs=0.1)
