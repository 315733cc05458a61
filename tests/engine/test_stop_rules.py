"""--stop_on_smoke_failure and --early_stop in real runs, made to go wrong; TensorBoard and W&B beside them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
SMALL = ["--vllm_tensor_parallel_size", "1", "--canary_every", "0", "--save_steps", "-1", "--rollout_batch_size", "8"]
SMALL += ["--train_batch_size", "64"]


def train(runs: Path, *flags: str, **env: str) -> tuple[subprocess.CompletedProcess, Path]:
    """A run's end, and its folder."""
    switches = {"RFT_RUNS_DIR": str(runs), "RFT_SKIP_SETUP": "1", "RFT_OFFLOAD": "0"}
    command = ["bash", "train_grpo_tiny.sh", *SMALL, *flags]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **switches, **env}, capture_output=True, text=True)
    (folder,) = [path for path in runs.glob("*") if (path / "run.json").is_file()]
    return done, folder


def lines(folder: Path, event: str) -> list[dict]:
    text = (folder / "metrics" / "training_metrics.jsonl").read_text()
    return [record for record in map(json.loads, text.splitlines()) if record["event"] == event]


def test_smoke_failure_ends_the_run(tiny_dir, tmp_path):
    """Answers may have 4 tokens: all are cut off. The run ends after step 6, in one line that names it."""
    done, folder = train(tmp_path, "--generate_max_len", "4", "--eval_steps", "-1", "--stop_on_smoke_failure")
    assert done.returncode not in (0, None), done.stdout[-3000:]
    (line,) = {text for text in (done.stdout + done.stderr).splitlines() if text.startswith("error: ")}
    assert "the smoke test of steps 1-6 fails" in line and "truncated" in line and "--generate_max_len" in line
    assert [line["step"] for line in lines(folder, "train")] == [1, 2, 3, 4, 5, 6]
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert "smoke test" in done.stdout  # the diagnosis at the run's end


def upstreams_loggers_got_the_figures(place: Path, train_lines: list[dict]) -> None:
    """The same values as the JSONL, in TensorBoard's file; W&B's offline file holds the names."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (place / "tensorboard").rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events)).Reload()
    for name in ("grad_norm", "reward_mean", "entropy_mean", "dlogp_abs_mean"):
        logged = {event.step: event.value for event in board.Scalars(f"train/{name}")}
        assert logged == pytest.approx({line["step"]: line[name] for line in train_lines}, rel=1e-5)
    assert [tag for tag in board.Tags()["scalars"] if tag.startswith("eval/")]
    (offline,) = (place / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/grad_norm" in offline.read_bytes()


def test_falling_evaluations_end_the_run_which_saves(tiny_dir, tmp_path):
    """A learning rate that ruins the policy: two evaluations in a row fall beyond their noise."""
    flags = ["--actor_learning_rate", "0.2", "--lr_warmup_ratio", "0", "--eval_steps", "2", "--early_stop"]
    flags += ["--mismatch_abort", "0", "--eval_n_samples_per_prompt", "1", "--num_episodes", "1"]
    flags += ["--use_tensorboard", str(tmp_path / "tensorboard"), "--use_wandb", "1"]
    offline = {"WANDB_MODE": "offline", "WANDB_API_KEY": "0" * 40, "WANDB_DIR": str(tmp_path)}
    done, folder = train(tmp_path / "runs", *flags, **offline)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    upstreams_loggers_got_the_figures(tmp_path, lines(folder, "train"))
    warnings = lines(folder, "warning")
    assert warnings and "falls against step" in warnings[-1]["texts"][0]
    last = lines(folder, "train")[-1]["step"]
    assert last == warnings[-1]["step"] < 40 and last % 2 == 0
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    assert (folder / "final" / "adapter_model.safetensors").is_file()
    evaluated = sorted({line["step"] for line in lines(folder, "eval")})
    assert evaluated == list(range(0, last + 1, 2))
