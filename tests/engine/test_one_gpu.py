"""The one-GPU launcher without a GPU: one rank and one engine in one placement group; a whole run.

A GPU's part (sleep, offload between the phases) is not run here: the CPU has no sleep mode.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def run(tiny_dir, tmp_path_factory) -> Path:
    """A whole run of the launcher's own numbers: 20 steps."""
    folder = tmp_path_factory.mktemp("one_gpu")
    env = {**os.environ, "RFT_RUNS_DIR": str(folder), "RFT_SKIP_SETUP": "1"}
    command = ["bash", "train_grpo_1gpu.sh", "--profile", "cpu"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (made,) = [path for path in folder.iterdir() if (path / "run.json").is_file()]
    return made


def lines(run: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics" / name).read_text().splitlines()]


def test_it_trains_and_improves(run):
    train = [line for line in lines(run, "training_metrics.jsonl") if line["event"] == "train"]
    assert [line["step"] for line in train] == list(range(1, 21))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["sampled_gain_ci95"][0] > 0, "held-out accuracy, paired over 96 problems"
    assert summary["base_weights_unchanged"] is True and summary["mean_abs_dlogp"] < 0.03


def test_actor_and_engine_stand_on_the_same_device(run):
    places = lines(run, "placement.jsonl")
    assert sorted(place["role"] for place in places) == ["actor", "engine 0"], "one rank, one TP=1 engine"
    assert {place["visible"] for place in places} == {"0"}, "the only device that the cluster has"


def test_it_ends_with_final_model_and_a_checkpoint_every_ten_steps(run):
    final = run / "final_model"
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {p.name for p in final.iterdir()}
    config = json.loads((final / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    kept = {path.name for path in (run / "ckpt").iterdir() if path.name.startswith("global_step")}
    assert {name.split("_hf")[0] for name in kept} == {"global_step10", "global_step20"}
    last = run / "ckpt" / "global_step20_hf" / "adapter_model.safetensors"
    assert last.read_bytes() == (final / "adapter_model.safetensors").read_bytes()
    assert (run / "config.yaml").read_text().startswith("# Every setting of a run")
