"""Flags that the patch series adds, and combinations that it refuses, on the patched upstream parser itself."""

import pytest

from rft.errors import RftError
from rft.upstream_cli import parse

BASE = [
    "--pretrain",
    "m",
    "--remote_rm_url",
    "reward_func_em.py",
    "--advantage_estimator",
    "dr_grpo",
    "--lora_rank",
    "8",
]
ENGINES = ["--vllm_num_engines", "1", "--vllm_sync_with_ray"]


def test_flags_of_the_series():
    flags = ["--offload", "--zero_stage", "3", "--engine_pretrain", "e", "--eval_at_start", "--eval_at_end"]
    flags += ["--eval_greedy", "--spike_grad_norm", "7", "--rollout_seed", "request", "--check_base_digest"]
    args = parse([*BASE, *ENGINES, *flags])
    assert args.offload and args.engine_pretrain == "e" and args.eval_at_start and args.eval_at_end and args.eval_greedy
    assert args.spike_grad_norm == 7 and args.rollout_seed == "request" and args.check_base_digest


def test_defaults_keep_upstreams_behaviour():
    args = parse([*BASE, *ENGINES])
    assert not args.offload and args.engine_pretrain is None and not args.eval_at_start and not args.check_base_digest
    assert args.rollout_seed == "engine" and args.spike_grad_norm == 50.0


def test_dynamic_batch_is_refused():
    with pytest.raises(RftError, match="--use_dynamic_batch is not supported"):
        parse([*BASE, *ENGINES, "--use_dynamic_batch"])


def test_async_training_is_refused():
    with pytest.raises(RftError, match="--async_train is not supported"):
        parse([*BASE, *ENGINES, "--async_train"])


def test_lora_without_the_ray_sync_is_refused():
    with pytest.raises(RftError, match="LoRA needs --vllm_sync_with_ray"):
        parse([*BASE, "--vllm_num_engines", "1"])


def test_offload_needs_zero_3():
    with pytest.raises(RftError, match="--offload needs --zero_stage 3"):
        parse([*BASE, *ENGINES, "--offload", "--zero_stage", "2"])
