"""train_grpo_1gpu.sh: both profiles against golden dry-runs and the patched parser; what must hold on one GPU.

After a meant change: RFT_UPDATE_GOLDEN=1 pytest tests/test_config_one_gpu.py
"""

import os

import pytest
from test_config import LAUNCHERS, REPO, command, launch

from rft import inputs, upstream_cli

GOLDEN = REPO / "tests" / "golden"
PROFILES = {"gpu": LAUNCHERS[3], "cpu": LAUNCHERS[4]}
# conftest takes RFT_ variables away from every test, not from the file's import
UPDATE = os.environ.get("RFT_UPDATE_GOLDEN") == "1"


@pytest.mark.parametrize("profile", PROFILES)
def test_golden_dry_run(profile):
    done = launch(PROFILES[profile], "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    golden = GOLDEN / f"train_grpo_1gpu_{profile}.txt"
    if UPDATE:
        golden.write_text(done.stdout)
    assert done.stdout == golden.read_text()


@pytest.mark.parametrize("profile", PROFILES)
def test_actor_and_engine_share_one_gpu(profile):
    done = launch(PROFILES[profile], "--dry-run")
    tokens = done.stdout.splitlines()
    args = upstream_cli.parse(tokens[tokens.index(upstream_cli.MODULE) + 1 :])
    inputs.check_rollout(args)
    inputs.check_accumulation(args)
    assert inputs.gpus_needed(args) == 1 and args.colocate_all_models
    assert (args.actor_num_gpus_per_node, args.vllm_num_engines, args.vllm_tensor_parallel_size) == (1, 1, 1)
    assert (args.lora_rank, args.save_steps, args.num_episodes) == (8, 10, 1)
    assert os.path.basename(args.save_path) == "final_model"


def test_on_a_gpu_each_side_leaves_it_to_the_other():
    variables, flags = command(PROFILES["gpu"])
    for switch in ("--vllm_enable_sleep", "--deepspeed_enable_sleep", "--offload", "--adam_offload"):
        assert switch in flags
    assert "expandable_segments" not in variables["PYTORCH_CUDA_ALLOC_CONF"], "vLLM's sleep mode refuses to start then"
    assert int(flags["--prompt_max_len"][0]) + int(flags["--generate_max_len"][0]) == 512
    (data,) = flags["--prompt_data"]
    assert "-10-" in data and flags["--rollout_batch_size"] == ["1"], "ten prompts, one a step: ten steps"
    done = launch(PROFILES["gpu"], "--dry-run", RFT_OFFLOAD="0")
    assert "--offload" not in done.stdout.splitlines()


def test_the_cpu_has_no_sleep_mode_and_nothing_of_the_gpus_task():
    variables, flags = command(PROFILES["cpu"])
    assert "--vllm_enable_sleep" not in flags and variables["DS_ACCELERATOR"] == "cpu"
    assert flags["--remote_rm_url"] == ["reward_func_em.py"] and flags["--canary_every"] == ["1"]


def test_the_profile_may_stand_anywhere_and_must_be_one():
    assert command(["train_grpo_1gpu.sh"], "--seed", "1", "--profile=cpu") == command(PROFILES["cpu"], "--seed", "1")
    for words in (["--profile", "tpu"], ["--profile"]):
        done = launch(["train_grpo_1gpu.sh"], "--dry-run", *words)
        assert done.returncode == 2 and done.stderr.startswith("error: --profile ") and done.stdout == ""


def test_help():
    for launcher in PROFILES.values():
        done = launch(launcher, "--help")
        assert done.returncode == 0 and done.stdout.startswith("Usage: bash train_grpo_1gpu.sh")
        assert "--profile cpu" in done.stdout and "set -euo" not in done.stdout


def test_an_environment_that_names_the_adapters_folder_wins(tmp_path):
    _, flags = command([*PROFILES["cpu"]])
    assert flags["--save_path"] == ["runs/one-gpu-<id>/final_model"]
    done = launch(PROFILES["cpu"], "--dry-run", RFT_SAVE_DIR=str(tmp_path / "mine"))
    assert str(tmp_path / "mine") in done.stdout.splitlines()
