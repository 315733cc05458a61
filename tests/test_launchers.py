"""The three launchers: golden dry-runs, every flag known to the patched parser, help, overrides, nothing touched.

A golden file is what --dry-run prints; after a meant change: RFT_UPDATE_GOLDEN=1 pytest tests/test_launchers.py
"""

import os
import subprocess
from pathlib import Path

import pytest

from rft import inputs, upstream_cli

REPO = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
LAUNCHERS = ("train_grpo", "train_grpo_20b", "train_grpo_tiny")
UPDATE = os.environ.get("RFT_UPDATE_GOLDEN") == "1"


def run(launcher: str, *arguments: str, cwd: Path = REPO, **env: str) -> subprocess.CompletedProcess:
    bare = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "RFT_RUNS_DIR": "runs", **env}
    script = str(REPO / f"{launcher}.sh")
    return subprocess.run(["bash", script, *arguments], capture_output=True, text=True, env=bare, cwd=cwd, check=False)


def flags(launcher: str, *arguments: str, **env: str) -> list[str]:
    """The tokens behind the module's name."""
    done = run(launcher, "--dry-run", *arguments, **env)
    assert done.returncode == 0, done.stderr
    tokens = done.stdout.splitlines()
    return tokens[tokens.index(upstream_cli.MODULE) + 1 :]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_golden_dry_run(launcher, tmp_path):
    golden = GOLDEN / f"{launcher}.txt"
    before = {path: path.stat().st_mtime_ns for path in (REPO, REPO / "data", REPO / "runs") if path.exists()}
    done = run(launcher, "--dry-run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    if UPDATE:
        golden.write_text(done.stdout)
    assert done.stdout == golden.read_text()
    assert str(REPO) not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before and not list(tmp_path.iterdir())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_flag_is_parsed_by_the_patched_parser(launcher):
    if not upstream_cli.is_patched():
        pytest.skip("the patch series of the installed OpenRLHF has no offload_cli patch")
    args = upstream_cli.parse(flags(launcher))
    inputs.check_scheduler(args)
    inputs.check_attention(args, REPO, {})
    inputs.check_checkpointing(args)
    inputs.check_rollout(args)
    inputs.check_accumulation(args)
    assert inputs.gpus_needed(args) == (4 if launcher == "train_grpo_tiny" else 8)


RECIPES = {  # issue numbers: 120b, 20b
    "--advantage_estimator": ("dr_grpo", "dr_grpo"),
    "--actor_learning_rate": ("1e-6", "5e-7"),
    "--init_kl_coef": ("0", "0.001"),
    "--lora_rank": ("64", "32"),
    "--lora_alpha": ("128", "64"),
    "--n_samples_per_prompt": ("8", "8"),
    "--rollout_batch_size": ("8", "16"),
    "--train_batch_size": ("8", "16"),
    "--micro_train_batch_size": ("1", "1"),
    "--eps_clip": ("0.1", "0.1"),
    "--generate_max_len": ("3072", "4096"),
    "--prompt_max_len": ("1024", "1024"),
    "--lr_warmup_ratio": ("0.001", "0.0001"),
    "--num_episodes": ("50", "20"),
    "--zero_stage": ("3", "3"),
    "--param_dtype": ("bf16", "bf16"),
    "--attn_implementation": ("eager", "eager"),
    "--entropy_loss_coef": ("0", "0"),
    "--vllm_gpu_memory_utilization": ("0.85", "0.85"),
    "--remote_rm_url": ("reward_func.py", "reward_func_em.py"),
    "--eval_steps": ("10", "5"),
    "--eval_temperature": ("0.6", "0.0"),
    "--eval_n_samples_per_prompt": ("8", "1"),
    "--max_ckpt_num": ("3", "3"),
    "--vllm_num_engines": ("2", "2"),
    "--vllm_tensor_parallel_size": ("2", "2"),
    "--actor_num_gpus_per_node": ("4", "4"),
}


@pytest.mark.parametrize(("index", "launcher"), [(0, "train_grpo"), (1, "train_grpo_20b")])
def test_recipe_numbers(index, launcher):
    tokens = flags(launcher)
    found = {flag: tokens[tokens.index(flag) + 1] for flag in RECIPES}
    assert found == {flag: values[index] for flag, values in RECIPES.items()}
    start = tokens.index("--target_modules")
    assert tokens[start + 1 : start + 5] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    for switch in (
        "--gradient_checkpointing_use_reentrant",
        "--disable_ds_ckpt",
        "--save_hf_ckpt",
        "--vllm_sync_with_ray",
    ):
        assert switch in tokens
    assert ("--offload" in tokens, "--adam_offload" in tokens) == ((True, True) if index == 0 else (False, False))
    assert "--colocate_actor_ref" not in tokens and tokens[tokens.index("--reference") + 1] == "actor"


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_trailing_flags_override(launcher):
    tokens = flags(launcher, "--num_episodes", "7", "--ckpt_path", "/mine")
    assert tokens.count("--num_episodes") == 1 and tokens[tokens.index("--num_episodes") + 1] == "7"
    assert tokens[tokens.index("--ckpt_path") + 1] == "/mine"


def test_switches():
    assert "--offload" not in flags("train_grpo", RFT_OFFLOAD="0")
    assert "--offload" in flags("train_grpo_20b", RFT_OFFLOAD="1")
    assert "--stream_load" in flags("train_grpo_20b")
    assert "--stream_load" not in flags("train_grpo", RFT_STREAM_LOAD="0")
    assert "mine/model" in flags("train_grpo", RFT_MODEL="mine/model")
    assert "elsewhere/train.jsonl" in flags("train_grpo_tiny", RFT_TINY_DIR="elsewhere")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_is_the_header(launcher):
    done = run(launcher, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: bash {launcher}.sh")
    assert "--dry-run" in done.stdout and "set -euo" not in done.stdout


def test_unknown_flag_is_refused_by_the_dry_run_too():
    if not upstream_cli.is_patched():
        pytest.skip("the patch series of the installed OpenRLHF has no offload_cli patch")
    done = run("train_grpo_tiny", "--dry-run", "--rolout_batch_size", "3")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: unknown flag --rolout_batch_size: did you mean --rollout_batch_size?\n"
