"""What can be known to be wrong before any engine starts: flags, files, disks and GPUs of one launch.

Each check is a function of the parsed flags (and of the environment where it says so), reads only, knows nothing of the
others, and raises :class:`rft.errors.RftError`: one line with the file or flag, the value and the remedy. Preflight
(rft/preflight/) calls them, on the main thread, before the run folder exists; they need neither torch nor a network.
"""

import json
import os
import shutil
import tempfile
from argparse import Namespace
from pathlib import Path

from rft import attention, reference
from rft.cluster import port_is_free
from rft.data_files import looks_local
from rft.disk.usage import existing
from rft.errors import RftError
from rft.provenance import gpus
from rft.runs import Paths

# Free space that must remain beside one checkpoint: logs, samples, Ray's spill files. $RFT_MIN_FREE_GB overrides.
MIN_FREE_GB = 2.0
# transformers' schedules that need no more than warm-up and total steps
SCHEDULERS = ("cosine_with_min_lr", "cosine_warmup_with_min_lr", "cosine", "cosine_with_restarts", "linear")
SCHEDULERS += ("polynomial", "constant", "constant_with_warmup", "inverse_sqrt")
# bf16 weight, fp32 master weight, two fp32 Adam moments
LORA_BYTES_PER_PARAMETER = 2 + 4 + 4 + 4


def is_cpu(env: dict[str, str]) -> bool:
    """Does the recipe ask for the CPU?"""
    return env.get("DS_ACCELERATOR") == "cpu"


def actor_ranks(args: Namespace) -> int:
    return args.actor_num_nodes * args.actor_num_gpus_per_node


def gpus_needed(args: Namespace) -> int:
    """GPUs (or logical ones on a CPU) that the recipe's placement groups ask for."""
    engines = (args.vllm_num_engines or 0) * args.vllm_tensor_parallel_size
    if args.colocate_all_models:
        return max(actor_ranks(args), engines)
    own_reference = args.init_kl_coef > 0 and not args.colocate_actor_ref and not reference.shares_actor(args)
    return actor_ranks(args) + engines + (args.ref_num_nodes * args.ref_num_gpus_per_node if own_reference else 0)


def absolute_paths(args: Namespace, repo: Path) -> list[str]:
    """Overriding flags with absolute paths, for the workers of a joined cluster, which start elsewhere."""
    flags = []
    for name in ("pretrain", "engine_pretrain", "prompt_data", "eval_dataset", "remote_rm_url"):
        value = getattr(args, name, None)
        items = value if isinstance(value, list) else (value or "").split(",")
        if any((repo / item).exists() for item in items if item):
            flags += [f"--{name}", ",".join(str(repo / item) if (repo / item).exists() else item for item in items)]
    return flags


def check_scheduler(args: Namespace) -> None:
    if args.lr_scheduler not in SCHEDULERS:
        raise RftError(f"--lr_scheduler {args.lr_scheduler}: not a known schedule; use {', '.join(SCHEDULERS)}")


def check_attention(args: Namespace, repo: Path, env: dict[str, str]) -> None:
    """gpt-oss has attention sinks, which flash_attention_2 and 3 drop without a word (and packing forces them)."""
    if not is_gpt_oss(args.pretrain, repo):
        return
    for flag in ("packing_samples", "use_dynamic_batch"):
        if getattr(args, flag):
            raise RftError(f"--{flag}: forces flash_attention_2, which drops gpt-oss's attention sinks; leave it out")
    attention.check(args.attn_implementation, "cpu" if is_cpu(env) else "cuda")


def check_checkpointing(args: Namespace) -> None:
    """Non-reentrant checkpointing compares shapes that ZeRO-3 changes under frozen parameters."""
    wrong = args.gradient_checkpointing and not args.gradient_checkpointing_use_reentrant
    if wrong and args.lora_rank > 0 and args.zero_stage == 3:
        remedy = "add --gradient_checkpointing_use_reentrant"
        raise RftError(f"--gradient_checkpointing with LoRA under ZeRO-3 fails on frozen parameters: {remedy}")


def data_ranks(args: Namespace) -> int:
    """Actor ranks that see samples of their own."""
    return actor_ranks(args) // args.ring_attn_size // args.ds_tensor_parallel_size


def check_rollout(args: Namespace) -> None:
    """Whole optimizer steps from every rollout, as many of its samples on every rank."""
    rollout = args.rollout_batch_size * args.n_samples_per_prompt
    product = f"{args.rollout_batch_size} prompts x {args.n_samples_per_prompt} samples = {rollout}"
    parts = (("--train_batch_size", args.train_batch_size), ("the number of actor ranks", data_ranks(args)))
    for flag, value in parts:
        if value < 1 or rollout % value:
            raise RftError(f"{flag} {value} does not divide a rollout ({product}): choose a divisor of {rollout}")


def check_accumulation(args: Namespace) -> None:
    """Whole micro-batches on every rank: DeepSpeed takes no train batch that leaves a remainder."""
    ranks = data_ranks(args)
    step = args.micro_train_batch_size * ranks
    if step < 1 or args.train_batch_size < step or args.train_batch_size % step:
        parts = f"--micro_train_batch_size {args.micro_train_batch_size} x {ranks} ranks = {step}"
        remedy = f"choose one, such as {max(step, args.train_batch_size // step * step) if step > 0 else 1}"
        raise RftError(f"--train_batch_size {args.train_batch_size} (samples) is no multiple of {parts}; {remedy}")


def accumulation_steps(args: Namespace) -> int:
    """DeepSpeed's gradient_accumulation_steps: micro-batches that a rank runs through for one optimizer step."""
    return args.train_batch_size // (args.micro_train_batch_size * data_ranks(args))


def check_model(flag: str, name: str | None, repo: Path, env: dict[str, str]) -> None:
    """A folder with config.json, or a hub id; a hub id must be cached when HF_HUB_OFFLINE is set."""
    if not name:
        raise RftError(f"{flag} is missing: give a model folder or a hub id")
    path = repo / os.path.expanduser(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise RftError(f"{flag} {name}: no config.json in that folder; give a Hugging Face checkpoint")
        _read_json(path / "config.json", flag)
    elif path.exists() or looks_local(name, repo):
        raise RftError(f"{flag} {name}: no such folder (relative to {repo}); give a model folder or a hub id")
    elif env.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on") and not cached(name, env):
        raise RftError(f"{flag} {name}: not in the hub cache and HF_HUB_OFFLINE is set; download it or unset that")


def check_loading(args: Namespace, repo: Path) -> None:
    """The streamed loader reads gpt-oss only, and resident experts are an MXFP4 checkpoint's own bytes."""
    flag = "--experts resident" if args.experts == "resident" else "--stream_load"
    if flag == "--stream_load" and not args.stream_load:
        return
    for other in ("load_in_4bit", "use_liger_kernel"):
        if getattr(args, other):
            raise RftError(f"--{other}: not with {flag}; leave one of them out (RFT_STREAM_LOAD=0 for the recipe's)")
    if not is_gpt_oss(args.pretrain, repo):
        raise RftError(f"--pretrain {args.pretrain}: {flag} reads gpt-oss checkpoints only; set RFT_STREAM_LOAD=0")
    config = repo / args.pretrain / "config.json"
    if args.experts == "resident" and config.is_file():
        method = (_read_json(config, "--pretrain").get("quantization_config") or {}).get("quant_method")
        if method != "mxfp4":
            what = f"its quantization is {method}" if method else "it is not quantised"
            raise RftError(f"--experts resident: {args.pretrain} is no MXFP4 checkpoint ({what}); leave the flag out")


def cached(name: str, env: dict[str, str]) -> bool:
    """A snapshot of the hub model lies in the cache, its config.json at least."""
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    hub = Path(env.get("HF_HUB_CACHE") or home / "hub")
    return any((hub / f"models--{name.replace('/', '--')}" / "snapshots").glob("*/config.json"))


def _read_json(path: Path, flag: str) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RftError(f"{flag}: {path} is not readable JSON ({err}); the checkpoint is damaged") from err


def is_gpt_oss(name: str | None, repo: Path) -> bool:
    config = repo / (name or "") / "config.json"
    if name and config.is_file():
        return _read_json(config, "--pretrain").get("model_type") == "gpt_oss"
    return "gpt-oss" in (name or "")


def check_outputs(paths: Paths) -> None:
    """Every output folder can be made and written."""
    for name, folder in (("run", paths.run_dir), ("metrics", paths.metrics), ("samples", paths.samples)):
        _writable(f"{name} folder", folder)
    _writable("log folder", str(Path(paths.log).parent))
    _writable("--ckpt_path", paths.ckpt)
    _writable("--save_path", paths.save)


def _writable(what: str, folder: str) -> None:
    there = existing(Path(folder))
    if not there.is_dir():
        raise RftError(f"{what} {folder}: {there} is a file; name another place")
    try:
        with tempfile.TemporaryFile(dir=there):  # a file without a name: permission bits tell root nothing
            pass
    except OSError as err:
        raise RftError(f"{what} {folder}: {there} is not writable ({err.strerror}); name another place") from err


def checkpoint_bytes(args: Namespace, repo: Path) -> int:
    """Size of one LoRA checkpoint with its optimizer state; 0 where the model's geometry is not at hand."""
    config = repo / (args.pretrain or "") / "config.json"
    if not config.is_file() or args.lora_rank <= 0:
        return 0
    model = _read_json(config, "--pretrain")
    hidden, heads = model.get("hidden_size", 0), model.get("num_attention_heads", 0)
    head = model.get("head_dim") or (hidden // heads if heads else 0)
    q, kv = heads * head, model.get("num_key_value_heads", heads) * head
    parameters = args.lora_rank * model.get("num_hidden_layers", 0) * (2 * (hidden + q) + 2 * (hidden + kv))
    return parameters * LORA_BYTES_PER_PARAMETER


def free_bytes(folder: str) -> int:
    """Of the disk that a folder is or would be on."""
    return shutil.disk_usage(existing(Path(folder))).free


def check_disk(args: Namespace, repo: Path, paths: Paths, env: dict[str, str]) -> None:
    """Room for one checkpoint more than are kept, and a floor for everything else."""
    floor = float(env.get("RFT_MIN_FREE_GB") or MIN_FREE_GB) * 1e9
    need = floor + (args.max_ckpt_num + 1) * checkpoint_bytes(args, repo)
    for flag, folder in (("--ckpt_path", paths.ckpt), ("run folder", paths.run_dir)):
        free = free_bytes(folder)
        if free < need:
            sizes = f"{free / 1e9:.1f} GB free, {need / 1e9:.1f} GB needed"
            raise RftError(f"{flag} {folder}: disk full: {sizes}; free space or name another disk")


def check_port(env: dict[str, str]) -> None:
    value = env.get("RFT_RAY_PORT")
    if not value or env.get("RAY_ADDRESS"):
        return
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise RftError(f"RFT_RAY_PORT={value}: no port number; unset it to have a free one chosen")
    if not port_is_free(int(value)):
        raise RftError(f"RFT_RAY_PORT={value}: occupied; name another, or unset it to have a free one chosen")


def check_gpus(args: Namespace, env: dict[str, str]) -> None:
    """As many NVIDIA GPUs as actors and engines ask for; a joined cluster's are not ours to count."""
    if is_cpu(env) or env.get("RAY_ADDRESS"):
        return
    visible = env.get("CUDA_VISIBLE_DEVICES")
    found = len(gpus()) if visible is None else len([one for one in visible.split(",") if one.strip()])
    if found < gpus_needed(args):
        engines = f"{args.vllm_num_engines or 0} engines x {args.vllm_tensor_parallel_size}"
        need = f"{gpus_needed(args)} GPUs needed ({actor_ranks(args)} actor ranks, {engines})"
        raise RftError(f"{need}, {found} found: use fewer ranks, RAY_ADDRESS, or train_grpo_tiny.sh on a CPU")
