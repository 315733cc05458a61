"""The tasks on the tiny model, through the one-GPU launcher: three steps each, every part of the reward logged.

The tiny model writes no program and no action: its code is worth the least, its actions are masked.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rft import upstream_cli

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--rollout_batch_size", "2", "--n_samples_per_prompt", "4", "--train_batch_size", "8", "--save_steps", "-1"]
SMALL += ["--micro_train_batch_size", "4", "--micro_rollout_batch_size", "4", "--canary_every", "0"]
CONFIG = """
task: {type: code, name: matmul, repeat: 6, effort: low}
data: {prompt_max_len: 768}
grpo: {init_kl_coef: 0}
"""

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]


def train(folder: Path, *words: str) -> tuple[list[dict], Path]:
    """A run of one rank and one TP=1 engine; its training lines, and its folder."""
    env = {**os.environ, "RFT_RUNS_DIR": str(folder / "runs"), "RFT_SKIP_SETUP": "1"}
    command = ["bash", "train_grpo_1gpu.sh", "--profile", "cpu", *SMALL, *words]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (run,) = [path for path in (folder / "runs").iterdir() if (path / "run.json").is_file()]
    lines = [json.loads(line) for line in (run / "metrics" / "training_metrics.jsonl").read_text().splitlines()]
    assert {line["event"] for line in lines} == {"train"}, "the recipe's evaluation set is not for this reward"
    return lines, run


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed: no sandbox, no code reward")
def test_the_code_task_repeats_its_prompt_and_logs_its_parts(tiny_dir, tmp_path):
    (tmp_path / "run.yaml").write_text(CONFIG)
    lines, run = train(tmp_path, "--config", str(tmp_path / "run.yaml"))
    assert [(line["step"], line["samples"]) for line in lines] == [(1, 8), (2, 8), (3, 8)]
    for line in lines:
        for part in ("function_works", "no_cheating", "correctness_check", "speed_check"):
            assert line[part] is not None, part
        assert "speed_ratio" not in line and line["null_count"] == 0  # of programs that ran: none did
        assert line["reward_max"] < 1.0, "sums are no programs"
    (name,) = json.loads((run / "run.json").read_text())["data_sha256"].keys() - {"reward_func_code.py"}
    rows = [json.loads(row) for row in (ROOT / name).read_text().splitlines()]
    assert len(rows) == 6 and len({row["input"] for row in rows}) == 1
    assert rows[0]["label"] == "matmul" and rows[0]["reasoning_effort"] == "low"


def test_the_action_task_draws_a_stream_and_logs_its_parts(tiny_dir, tmp_path):
    if "prompt_sampler" not in upstream_cli.actions():
        pytest.skip("the patch series of the installed OpenRLHF has no prompt_sampler patch")
    rows = [
        {"prompt": f"What is {number} + 1?", **{f"reward_action_{a}": float(a == number % 4) for a in range(4)}}
        for number in range(10, 30)
    ]
    (tmp_path / "states.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--task", "action", "--task_set", "steps=3", "--prompt_data", str(tmp_path / "states.jsonl")]
    lines, run = train(tmp_path, *words, "--save_steps", "1")
    assert [(line["step"], line["samples"]) for line in lines] == [(1, 8), (2, 8), (3, 8)], "not the ten of an epoch"
    for line in lines:
        assert line["action_valid"] is not None and line["unparseable"] is not None
        assert line["reward_masked"] > 0.9
    from rft.data.step_stream import StepStream

    stream = StepStream(rows, prompts_per_step=2, seed=42)
    for step in range(3):
        text = (run / "samples" / f"samples_step{step + 1}.jsonl").read_text()
        drawn = {rows[index]["prompt"] for index in stream.draw(step)}
        assert all(any(prompt in line for prompt in drawn) for line in text.splitlines()), (step, drawn)
