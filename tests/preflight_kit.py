"""A launch with nothing wrong in it: a folder with a tiny gpt-oss (no weights), prompts, and the flags to start it."""

import json
import os
import shlex
from argparse import Namespace
from pathlib import Path

from rft import upstream_cli
from rft.preflight.result import Subject
from rft.runs import Paths

FLAGS = shlex.split("""
--pretrain model --attn_implementation eager --prompt_data train.jsonl --eval_dataset eval.jsonl
--input_key input --label_key label --apply_chat_template --prompt_max_len 64 --generate_max_len 32
--remote_rm_url reward_func_em.py --advantage_estimator dr_grpo --n_samples_per_prompt 8 --rollout_batch_size 4
--train_batch_size 32 --micro_train_batch_size 4 --micro_rollout_batch_size 4 --actor_num_gpus_per_node 2
--vllm_num_engines 1 --vllm_tensor_parallel_size 2 --vllm_sync_with_ray --init_kl_coef 0.001 --num_episodes 20
--actor_learning_rate 1e-3 --lr_warmup_ratio 0.03 --lora_rank 16 --lora_alpha 32
--target_modules q_proj k_proj v_proj o_proj --zero_stage 3 --gradient_checkpointing
--gradient_checkpointing_use_reentrant
""")
ENV = {"DS_ACCELERATOR": "cpu", "RFT_MIN_FREE_GB": "0.01", "RFT_MIN_SHM_GB": "0.01", "RFT_MIN_NOFILE": "256"}


def make_repo(folder: Path) -> Path:
    """Everything that FLAGS name; the reward is the project's own."""
    save_model(folder / "model")
    write_rows(folder / "train.jsonl", range(8))
    write_rows(folder / "eval.jsonl", range(20, 24))
    return folder


def save_model(folder: Path) -> None:
    from rft.tiny.model import build_config, save_generation_config
    from rft.tiny.tokenizer import build_tokenizer, save_tokenizer

    folder.mkdir(parents=True)
    tokenizer = build_tokenizer()
    save_tokenizer(tokenizer, folder)
    save_generation_config(tokenizer, folder)
    build_config(tokenizer.eos_token_id, tokenizer.pad_token_id).save_pretrained(folder)


def write_rows(path: Path, numbers) -> None:
    rows = [{"input": f"What is {number} + {number * number + 1}?", "label": str(number)} for number in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def arguments(*changed: str, without: str | None = None) -> Namespace:
    """Of the patched parser; later flags win. without: a switch to leave out."""
    return upstream_cli.parse([flag for flag in FLAGS if flag != without] + list(changed))


def paths(repo: Path, **changed: str) -> Paths:
    names = {"run_dir": "", "log": "log.txt", "metrics": "metrics", "samples": "samples", "ckpt": "ckpt", "save": "f"}
    return Paths(**{key: changed.get(key, str(repo / "runs" / "x" / name)) for key, name in names.items()})


def subject(repo: Path, args: Namespace | None = None, env: dict[str, str] | None = None, **where: str) -> Subject:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **ENV, **(env or {})}
    return Subject(args or arguments(), environment, repo, paths(repo, **where))
