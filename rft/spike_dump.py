"""All that replaying an optimizer step needs, in one file a rank: the black box beside ``spike_log.jsonl``.

Written by `rft.spike` on every ZeRO rank before the step is taken, read by `rft.replay_spike`. A dump is a
``torch.save`` of plain containers and tensors (read with ``weights_only``), written whole or not at all:

    meta           format, optimizer_step, rank, world, grad_norm (None: not finite), reason, time, settings
    micro_batches  list of tensors by name, (B, S) sequences and attention_mask, (B, A) the rest; log-probs in nats:
                   `log_probs` of the policy in training, `old_log_probs`, `rollout_log_probs`, `base_log_probs`; and of
                   numbers: tokens, sequences (what a token weighs, rft/batch_plan.py), on_policy, blank, kl_ctl
    adapter        LoRA tensors as they were before the step, by the model's names; rank 0's file alone has them
"""

import os
import re
import time
from pathlib import Path

import torch

from rft.errors import RftError

FORMAT = 1
MOST = 20  # dumps of a rank and a run: an adapter of the 120b recipe has about 100 MB
NAME = re.compile(r"spike_step(\d+)_rank(\d+)\.pt")
#: Experience attribute -> name in the dump
FIELDS = {
    "sequences": "sequences",
    "attention_mask": "attention_mask",
    "action_mask": "action_mask",
    "advantages": "advantages",
    "action_log_probs": "old_log_probs",
    "rollout_log_probs": "rollout_log_probs",
    "base_action_log_probs": "base_log_probs",
}
#: arguments of the run that decide the loss
SETTINGS = (
    [
        "pretrain",
        "attn_implementation",
        "logprob_chunk_tok",
        "param_dtype",
        "temperature",
        "lora_rank",
        "lora_alpha",
        "lora_dropout",
    ]
    + ["target_modules", "eps_clip_low_high", "dual_clip", "policy_loss_type", "enable_vllm_is_correction"]
    + ["vllm_is_truncated_threshold", "vllm_is_correction_type", "use_kl_loss", "init_kl_coef", "kl_estimator"]
    + ["entropy_loss_coef", "aux_loss_coef", "max_norm"]
)


def micro_batch(micro, log_probs: torch.Tensor, kl_ctl: float) -> dict:
    """One `batch_plan.MicroBatch` as it is trained on, by reference: nothing is copied until it is written."""
    fields = {name: getattr(micro.experience, attribute, None) for attribute, name in FIELDS.items()}
    numbers = {name: getattr(micro, name) for name in ("tokens", "sequences", "on_policy", "blank")}
    return {
        **{name: tensor for name, tensor in fields.items() if tensor is not None},
        "log_probs": log_probs.detach(),
        "weights": {**numbers, "kl_ctl": float(kl_ctl)},
    }


def settings(args) -> dict:
    """What of the run's arguments decides the loss; a local checkpoint by its whole path."""
    found = {name: _plain(getattr(args, name)) for name in SETTINGS if hasattr(args, name)}
    if os.path.isdir(str(found.get("pretrain"))):
        found["pretrain"] = os.path.abspath(found["pretrain"])
    return found


def _plain(value):
    return list(value) if isinstance(value, tuple | list) else value


def file_name(optimizer_step: int, rank: int) -> str:
    return f"spike_step{optimizer_step:07d}_rank{rank}.pt"


def write(folder: str, meta: dict, micro_batches: list[dict], adapter: dict[str, torch.Tensor]) -> str | None:
    """Write one rank's dump; its path, or None where the folder holds `MOST` of this rank's other steps already."""
    os.makedirs(folder, exist_ok=True)
    name = file_name(meta["optimizer_step"], meta["rank"])
    mine = [f for f in os.listdir(folder) if (m := NAME.fullmatch(f)) and int(m[2]) == meta["rank"] and f != name]
    if len(mine) >= MOST:
        return None
    path = os.path.join(folder, name)
    moved = [{key: _cpu(value) for key, value in batch.items()} for batch in micro_batches]
    content = {
        "meta": {"format": FORMAT, "time": time.time(), **meta},
        "micro_batches": moved,
        "adapter": {key: _cpu(value) for key, value in adapter.items()},
    }
    part = f"{path}.part"
    try:
        with open(part, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


def _cpu(value):
    return value.detach().to("cpu", copy=True).contiguous() if isinstance(value, torch.Tensor) else value


def read(path: Path) -> dict:
    """One dump; RftError if it is none, or torn."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content["meta"]["format"]
    except FileNotFoundError as err:
        raise RftError(f"{path}: no such file; dumps lie in spikes/ beside spike_log.jsonl, which names them") from err
    except Exception as err:  # torch.load raises whatever the bytes make it raise
        raise RftError(f"{path}: no spike dump ({type(err).__name__}); give a file of spikes/ or the log") from err
    if version != FORMAT:
        raise RftError(f"{path}: a dump of format {version}, this rft reads {FORMAT}; use the version that wrote it")
    return content


def read_step(path: Path) -> list[dict]:
    """The dumps of all ranks of the step that `path` belongs to, rank 0 first.

    raises  RftError if one is missing or is of another event
    """
    first = read(path)
    meta = first["meta"]
    names = [file_name(meta["optimizer_step"], rank) for rank in range(meta["world"])]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise RftError(
            f"{path.parent}: {', '.join(missing)} missing, and the gradient is that of all {meta['world']} ranks; copy "
            "every rank's dump of the step"
        )
    dumps = [read(path.parent / name) for name in names]
    for name, dump in zip(names, dumps, strict=True):
        other = dump["meta"]
        if (other["optimizer_step"], other["world"], other["grad_norm"]) != (
            meta["optimizer_step"],
            meta["world"],
            meta["grad_norm"],
        ):
            raise RftError(f"{path.parent / name}: of another event than {path.name}; copy the dumps of one step again")
    return dumps
