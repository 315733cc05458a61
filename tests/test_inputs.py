"""Every check of rft.inputs, by a table: the one thing that is wrong, and the line it gives."""

import json
import os
import socket
from argparse import Namespace
from pathlib import Path

import pytest

from rft import inputs
from rft.errors import RftError
from rft.preflight import report, table
from rft.preflight.result import Subject
from rft.runs import Paths

GOOD = {
    "pretrain": "model",
    "engine_pretrain": None,
    "prompt_data": "train.jsonl",
    "eval_dataset": "eval.jsonl",
    "input_key": "input",
    "label_key": "label",
    "remote_rm_url": ["reward_func_em.py"],
    "lr_scheduler": "cosine_with_min_lr",
    "attn_implementation": "eager",
    "packing_samples": False,
    "use_dynamic_batch": False,
    "gradient_checkpointing": True,
    "gradient_checkpointing_use_reentrant": True,
    "lora_rank": 16,
    "zero_stage": 3,
    "actor_num_nodes": 1,
    "actor_num_gpus_per_node": 2,
    "ref_num_nodes": 1,
    "ref_num_gpus_per_node": 2,
    "colocate_actor_ref": False,
    "reference": "actor",
    "colocate_all_models": False,
    "init_kl_coef": 0.001,
    "vllm_num_engines": 1,
    "vllm_tensor_parallel_size": 2,
    "ring_attn_size": 1,
    "ds_tensor_parallel_size": 1,
    "rollout_batch_size": 4,
    "n_samples_per_prompt": 8,
    "train_batch_size": 32,
    "micro_train_batch_size": 8,
    "micro_rollout_batch_size": 8,
    "max_epochs": 1,
    "max_samples": 1e8,
    "max_ckpt_num": 3,
    "experts": "dequantised",
    "stream_load": False,
    "load_in_4bit": False,
    "use_liger_kernel": False,
}
CPU = {"DS_ACCELERATOR": "cpu"}
CONFIG = {"model_type": "gpt_oss", "hidden_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8}
CONFIG |= {"head_dim": 64, "num_hidden_layers": 36}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "reward_func_em.py").write_text("from somewhere import reward_func\n")
    (tmp_path / "reward_func.py").write_text("def reward_func(queries, prompts, labels): ...\n")
    for name in ("train.jsonl", "eval.jsonl"):
        (tmp_path / name).write_text('{"input": "1+1", "label": 2}\n{"input": "1+2", "label": "3"}\n\n' * 2)
    return tmp_path


def paths(repo: Path, **changed: str) -> Paths:
    names = {
        "run_dir": "",
        "log": "log.txt",
        "metrics": "metrics",
        "samples": "samples",
        "ckpt": "ckpt",
        "save": "final",
    }
    return Paths(**{key: changed.get(key, str(repo / "runs" / "x" / name)) for key, name in names.items()})


def check(repo: Path, env: dict | None = None, where: dict | None = None, **changed) -> None:
    env = {**CPU, "RFT_MIN_FREE_GB": "0.01"} if env is None else env
    """The quick group of preflight, as a launch runs it, without what is about the installation."""
    subject = Subject(Namespace(**{**GOOD, **changed}), env, repo, paths(repo, **(where or {})))
    slow = [one.name for one in table.CHECKS if one.group != table.QUICK]
    report.check(subject, ["patches", "packages", *slow]).require()


def test_good_input_passes_and_writes_nothing(repo):
    before = sorted(repo.rglob("*"))
    check(repo)
    assert sorted(repo.rglob("*")) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pretrain": None}, "--pretrain is missing"),
        ({"pretrain": "data/tiny/model"}, "--pretrain data/tiny/model: no such folder"),
        ({"pretrain": "./model-x"}, "--pretrain ./model-x: no such folder"),
        ({"pretrain": "model/x"}, "--pretrain model/x: no such folder"),
        ({"pretrain": "/nowhere"}, "--pretrain /nowhere: no such folder"),
        ({"engine_pretrain": "/nowhere"}, "--engine_pretrain /nowhere: no such folder"),
        ({"pretrain": "."}, "--pretrain .: no config.json"),
        ({"prompt_data": None}, "--prompt_data is missing"),
        ({"prompt_data": "data/none.jsonl"}, "--prompt_data data/none.jsonl: no such file"),
        ({"eval_dataset": "none.jsonl"}, "--eval_dataset none.jsonl: no such file"),
        ({"input_key": "prompt"}, "--prompt_data train.jsonl line 1: prompt row has neither 'prompt' nor"),
        ({"label_key": "answer"}, "--prompt_data train.jsonl line 1: prompt row has neither 'answer'"),
        ({"rollout_batch_size": 8, "train_batch_size": 64}, "--prompt_data train.jsonl: 4 prompts, fewer than one"),
        ({"max_samples": 3}, "--prompt_data train.jsonl: 3 prompts, fewer than one rollout batch of 4"),
        (
            {"rollout_batch_size": 3, "n_samples_per_prompt": 1, "train_batch_size": 3, "micro_train_batch_size": 1}
            | {"actor_num_gpus_per_node": 3},
            "--prompt_data train.jsonl: the last batch of an episode has 1 of 4 prompts, so 1 answers for 3 actor",
        ),
        ({"remote_rm_url": ["none.py"]}, "--remote_rm_url: reward none.py: no such file"),
        ({"remote_rm_url": ["model/config.py"]}, "--remote_rm_url: reward model/config.py: no such file"),
        ({"packing_samples": True}, "--packing_samples: forces flash_attention_2"),
        ({"use_dynamic_batch": True}, "--use_dynamic_batch: forces flash_attention_2"),
        ({"attn_implementation": "flash_attention_3"}, "--attn_implementation flash_attention_3: drops"),
        ({"attn_implementation": "kernels-community/vllm-flash-attn3"}, "--attn_implementation kernels-"),
        ({"gradient_checkpointing_use_reentrant": False}, "--gradient_checkpointing with LoRA under ZeRO-3"),
        ({"train_batch_size": 24}, "--train_batch_size 24 does not divide a rollout (4 prompts x 8 samples = 32)"),
        ({"train_batch_size": 0}, "--train_batch_size 0 does not divide"),
        ({"micro_train_batch_size": 5}, "--train_batch_size 32 (samples) is no multiple of --micro_train_batch_size 5"),
        ({"actor_num_gpus_per_node": 3}, "the number of actor ranks 3 does not divide a rollout"),
        ({"lr_scheduler": "cosin"}, "--lr_scheduler cosin: not a known schedule"),
    ],
)
def test_bad_flags(repo, changed, message):
    with pytest.raises(RftError) as caught:
        check(repo, **changed)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input": "x", "label": "?"}', "--prompt_data train.jsonl line 2: label '?' holds nothing to compare"),
        ('{"input": "x", "label": null}', "--prompt_data train.jsonl line 2: prompt row has neither 'label'"),
        ('{"input": "", "label": 1}', "--prompt_data train.jsonl line 2: prompt '' is neither text"),
        ('{"input": "x", "label": 1, "reasoning_effort": "max"}', "--prompt_data train.jsonl line 2: reasoning_effort"),
        ('{"input": "x", ', "--prompt_data train.jsonl line 2: no JSON object"),
        ("[1]", "--prompt_data train.jsonl line 2: no JSON object (a list, not an object)"),
    ],
)
def test_bad_lines_are_named_by_number(repo, line, message):
    (repo / "train.jsonl").write_text('{"input": "1", "label": "-12"}\n' + line + "\n")
    with pytest.raises(RftError) as caught:
        check(repo)
    assert str(caught.value).startswith(message)


def test_labels_are_read_as_the_reward_reads_them(repo):
    (repo / "train.jsonl").write_text('{"input": "x", "label": "7"}\n' * 4)
    check(repo, remote_rm_url=["reward_func_em.py"])
    with pytest.raises(RftError, match=r"train.jsonl line 1: label '7'"):
        check(repo, remote_rm_url=["reward_func_action.py"])
    with pytest.raises(RftError, match=r"train.jsonl line 1: "):
        check(repo, remote_rm_url=["reward_func_code.py"])
    (repo / "my_reward.py").write_text("def reward_func(queries, prompts, labels): ...\n")
    (repo / "train.jsonl").write_text('{"input": "x", "label": "?"}\n' * 4)
    check(repo, remote_rm_url=["my_reward.py"])  # another's labels are its own


@pytest.mark.parametrize(
    ("text", "message"),
    [("def reward_func(:", "line 1: "), ("def other(): ...", "defines neither reward_func")],
)
def test_bad_reward_file(repo, text, message):
    (repo / "reward_func_em.py").write_text(text)
    with pytest.raises(RftError, match=message):
        check(repo)


@pytest.mark.parametrize(
    ("changed", "config", "message"),
    [
        ({"stream_load": True, "load_in_4bit": True}, {}, "--load_in_4bit: not with --stream_load"),
        ({"experts": "resident", "use_liger_kernel": True}, {}, "--use_liger_kernel: not with --experts resident"),
        ({"stream_load": True}, {"model_type": "llama"}, "--pretrain model: --stream_load reads gpt-oss checkpoints"),
        ({"experts": "resident"}, {}, "--experts resident: model is no MXFP4 checkpoint (it is not quantised)"),
        (
            {"experts": "resident"},
            {"quantization_config": {"quant_method": "gptq"}},
            "--experts resident: model is no MXFP4 checkpoint (its quantization is gptq)",
        ),
    ],
)
def test_what_the_streamed_loader_cannot_read(repo, changed, config, message):
    (repo / "model" / "config.json").write_text(json.dumps(CONFIG | config))
    with pytest.raises(RftError) as caught:
        check(repo, **changed)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_what_the_streamed_loader_can_read(repo):
    check(repo, stream_load=True)
    mxfp4 = {"quantization_config": {"quant_method": "mxfp4"}}
    (repo / "model" / "config.json").write_text(json.dumps(CONFIG | mxfp4))
    check(repo, experts="resident")
    snapshot = repo / "hf" / "hub" / "models--openai--gpt-oss-20b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    env = {**CPU, "RFT_MIN_FREE_GB": "0.01", "HF_HOME": str(repo / "hf")}
    check(repo, env, pretrain="openai/gpt-oss-20b", experts="resident")


def test_flash_attention_is_for_models_without_sinks(repo):
    (repo / "model" / "config.json").write_text('{"model_type": "llama"}')
    check(repo, attn_implementation="flash_attention_2", packing_samples=True)


def test_hub_ids_are_left_to_the_hub_unless_offline(repo):
    inputs.check_model("--pretrain", "openai/gpt-oss-20b", repo, {})
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(repo / "hf")}
    with pytest.raises(RftError, match="not in the hub cache"):
        inputs.check_model("--pretrain", "openai/gpt-oss-20b", repo, offline)
    cached = repo / "hf" / "hub" / "models--openai--gpt-oss-20b" / "snapshots" / "abc"
    cached.mkdir(parents=True)
    (cached / "config.json").write_text("{}")
    inputs.check_model("--pretrain", "openai/gpt-oss-20b", repo, offline)


def test_unwritable_output(repo):
    with pytest.raises(RftError, match="--ckpt_path /proc/x: /proc is not writable"):
        check(repo, where={"ckpt": "/proc/x"})
    with pytest.raises(RftError, match=r"--save_path .*/train.jsonl/x: .*train.jsonl is a file"):
        check(repo, where={"save": str(repo / "train.jsonl" / "x")})


def test_full_disk(repo):
    with pytest.raises(RftError, match=r"disk full: .* GB free, \d+\.\d GB needed"):
        check(repo, env={**CPU, "RFT_MIN_FREE_GB": "1e9"})


def test_checkpoint_size_is_that_of_the_published_geometry(repo):
    """120b at r=64 has 47.78 M LoRA parameters (engine facts, computed from the published configuration)."""
    size = inputs.checkpoint_bytes(Namespace(pretrain="model", lora_rank=64), repo)
    assert size / inputs.LORA_BYTES_PER_PARAMETER == pytest.approx(47.78e6, rel=1e-3)


def test_occupied_port(repo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {**CPU, "RFT_MIN_FREE_GB": "0.01", "RFT_RAY_PORT": port}
        with pytest.raises(RftError, match=f"RFT_RAY_PORT={port}: occupied"):
            check(repo, env=env)
    check(repo, env=env)
    with pytest.raises(RftError, match="RFT_RAY_PORT=x1: no port number"):
        check(repo, env={**env, "RFT_RAY_PORT": "x1"})


def test_gpus_are_counted(repo, monkeypatch):
    env = {"RFT_MIN_FREE_GB": "0.01", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    with pytest.raises(RftError, match=r"4 GPUs needed \(2 actor ranks, 1 engines x 2\), 3 found"):
        check(repo, env=env)
    check(repo, env={**env, "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    check(repo, env={**env, "RAY_ADDRESS": "head:6379"})
    smi = repo / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho H100; echo H100\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{smi.parent}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(RftError, match=r"4 GPUs needed .*, 2 found"):
        check(repo, env={"RFT_MIN_FREE_GB": "0.01"})


@pytest.mark.parametrize(
    ("changed", "needed"),
    [
        ({}, 4),
        ({"colocate_all_models": True}, 2),
        ({"reference": "separate"}, 6),
        ({"reference": "separate", "colocate_actor_ref": True}, 4),
        ({"lora_rank": 0}, 6),
        ({"vllm_num_engines": None}, 2),
    ],
)
def test_gpus_needed(changed, needed):
    assert inputs.gpus_needed(Namespace(**{**GOOD, **changed})) == needed


def test_absolute_paths_for_a_joined_cluster(repo):
    args = Namespace(**{**GOOD, "pretrain": "openai/gpt-oss-20b", "prompt_data": "train.jsonl,owner/hub"})
    flags = inputs.absolute_paths(args, repo)
    assert flags == [
        *("--prompt_data", f"{repo}/train.jsonl,owner/hub"),
        *("--eval_dataset", f"{repo}/eval.jsonl"),
        *("--remote_rm_url", f"{repo}/reward_func_em.py"),
    ]
