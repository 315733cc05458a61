"""The shape of the big recipes on the tiny model: micro-batches of one, several optimizer steps a rollout, two engines.

Two engines with TP=1, a reference model of its own, the 20b learning rate, no offload, a pool that ends in a smaller
batch, another schedule: what the default tiny run does not do. One run of three rollouts.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
FLAGS = ["--train_batch_size", "16", "--micro_train_batch_size", "1", "--micro_rollout_batch_size", "1"]
FLAGS += ["--vllm_num_engines", "2", "--vllm_tensor_parallel_size", "1", "--max_samples", "40"]
FLAGS += ["--num_episodes", "1", "--lr_scheduler", "linear", "--save_steps", "2", "--spike_grad_norm", "1e-12"]
FLAGS += ["--eval_n_samples_per_prompt", "2", "--actor_learning_rate", "5e-7"]
FLAGS += ["--init_kl_coef", "0.001", "--reference", "separate", "--colocate_actor_ref"]


@pytest.fixture(scope="module")
def run(tiny_dir, tmp_path_factory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    switches = {"RFT_RUNS_DIR": str(runs), "RFT_SKIP_SETUP": "1", "RFT_OFFLOAD": "0"}
    command = ["bash", "train_grpo_tiny.sh", *FLAGS]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **switches}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = [path for path in runs.iterdir() if (path / "run.json").is_file()]
    return folder


@pytest.fixture(scope="module")
def train(run) -> list[dict]:
    lines = (run / "metrics" / "training_metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["event"] == "train"]


def test_the_smaller_last_batch_is_trained(train):
    assert [line["samples"] for line in train] == [128, 128, 64]
    assert [line["total_steps"] for line in train] == [3, 3, 3]


def test_the_schedule_ends_with_the_last_optimizer_step(train):
    """8 + 8 + 4 optimizer steps; linear decay over 20 with one of warm-up: the last rate is 1/19 of the target."""
    assert train[-1]["actor_lr"] == pytest.approx(5e-7 / 19, rel=1e-6)
    assert train[0]["actor_lr"] == pytest.approx(5e-7 * (20 - 7) / 19, rel=1e-6)


def test_only_the_first_optimizer_step_is_on_policy(train):
    assert [line["on_policy_log_ratio_abs_max"] for line in train] == [0.0, 0.0, 0.0]
    assert all(line["log_ratio_raw_max"] > 0 for line in train[:2])  # by the last rollout the rate has all but decayed
    assert all(line["tokens_in_batch"] == line["tokens_in_rollout"] for line in train)


def test_canaries_agree_at_every_step_of_a_small_learning_rate(run):
    lines = [json.loads(line) for line in (run / "metrics" / "sync_log.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and max(line["canary"]["dlogp_mean"] for line in lines) < 0.005


def test_a_separate_reference_is_the_base(train):
    assert train[0]["kl"] == 0.0


def test_both_engines_serve_what_was_trained(run, train):
    for line in (run / "metrics" / "sync_log.jsonl").read_text().splitlines():
        engines = json.loads(line)["engines"]
        assert len(engines) == 2 and engines[0] == engines[1]
    assert max(line["dlogp_abs_mean"] for line in train) < 0.01


def test_every_optimizer_step_beyond_the_threshold_leaves_its_prompts(run):
    lines = [json.loads(line) for line in (run / "metrics" / "spike_log.jsonl").read_text().splitlines()]
    assert sorted((line["optimizer_step"], line["rank"]) for line in lines) == [
        (s, r) for s in range(1, 21) for r in (0, 1)
    ]
    from transformers import AutoTokenizer

    from rft.spike import prompt_hash

    data = ROOT / "data" / "tiny" / "seed0"
    tokenizer = AutoTokenizer.from_pretrained(data / "model")
    prompts = (data / "train.jsonl").read_text().splitlines()
    chats = [[{"role": "user", "content": json.loads(text)["input"]}] for text in prompts]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    assert {h for line in lines for h in line["prompt_hashes"]} <= set(map(prompt_hash, texts))
