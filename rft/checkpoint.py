"""Adapter checkpoints that can be continued, whole or not there at all.

A checkpoint folder holds ``adapter_model.safetensors`` and ``adapter_config.json`` (PEFT's own format, in the live
dtype), the tokenizer, ``resume/`` (one file a ZeRO rank: optimizer, scheduler, random states; and ``state.json``:
step, data position), ``base.json`` (what the adapter was trained on) and ``digests.json``. Its size is that of the LoRA
tensors and their Adam state: nothing grows with the base. Everything is written to a temporary name beside it and
renamed when complete; the oldest checkpoint goes only after the newest is in place and was read back. All functions
that say *collective* are called on every ZeRO rank, in the Ray actor's main thread; the folder must be on a file system
that all of them see.
"""

import copy
import io
import json
import os
import random
import shutil
from pathlib import Path

import torch

from rft import device, lora_params
from rft.checkpoints import auto, base, best
from rft.disk.whole import TAG, checkpoints, verify
from rft.errors import RftError
from rft.export.base import write_identity
from rft.provenance import sha256
from rft.resident.lora import saved_config

__all__ = ["TAG", "checkpoints", "load", "newest", "prune", "save_adapter", "verify"]

IDENTITY = ("pretrain", "lora_rank", "lora_alpha", "target_modules", "seed")


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _agree(where: Path, step: str, error: Exception | None) -> None:
    """Collective: all ranks go on, or all raise the first rank's error (else the others would wait for ever)."""
    messages: list[str | None] = [None if error is None else f"{type(error).__name__}: {error}"]
    if torch.distributed.is_initialized():
        mine, messages = messages[0], [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(messages, mine)
    failed = [f"rank {rank}: {message}" for rank, message in enumerate(messages) if message]
    if failed:
        raise RftError(
            f"checkpoint {where}: {step} failed ({failed[0]}); nothing is half-written, earlier checkpoints stand; "
            "free space or make the folder writable, then continue with --load_checkpoint"
        )


def save_adapter(model, tokenizer, output_dir: str, write_resume=None, state: dict | None = None) -> Path:
    """Collective: write the adapter, the tokenizer and, where given, the resume state to `output_dir`.

    model         the PEFT model (unwrapped from the DeepSpeed engine)
    write_resume  called on every rank with the temporary ``resume/`` folder
    state         JSON-able controller state, written once
    raises        RftError on every rank if any rank fails; the temporary folder is removed, `output_dir` is untouched
    """
    final = Path(output_dir)
    part = final.with_name(f".{final.name}.part")
    tensors = lora_params.gathered(model, on_this_rank=_rank() == 0)

    def attempt(what, on_rank_0_only=True, step=""):
        error = None
        try:
            if not on_rank_0_only or _rank() == 0:
                what()
        except Exception as caught:
            error = caught
        try:
            _agree(final, step, error)
        except RftError:
            if _rank() == 0:
                shutil.rmtree(part, ignore_errors=True)
            raise

    def make_folder():
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        if write_resume is not None:
            (part / "resume").mkdir()

    attempt(make_folder, step="creating the folder")
    if write_resume is not None:
        attempt(lambda: write_resume(part / "resume"), on_rank_0_only=False, step="writing the resume state")

    def finish():
        _write_adapter(model, tensors, part)
        tokenizer.save_pretrained(part)
        if state is not None:
            (part / "resume" / "state.json").write_text(json.dumps(state, indent=1))
        _seal(part)
        _replace(part, final)

    attempt(finish, step="writing the adapter")
    return final


def _write_adapter(model, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    named = {lora_params.canonical(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = saved_config(copy.copy(model.peft_config[model.active_adapter]))
    config.inference_mode = True
    config.save_pretrained(folder)
    write_identity(folder, config.base_model_name_or_path)


def _seal(folder: Path) -> None:
    """Write ``digests.json`` over every file and force all of it to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {str(path.relative_to(folder)): sha256(path) for path in files}
    (folder / "digests.json").write_text(json.dumps(digests, indent=1))
    folders = sorted({path.parent for path in files})
    for path in [*files, folder / "digests.json", *folders, folder]:
        _sync(path)


def _sync(path: Path) -> None:
    """Force a file, or a folder's names, to the disk, and forget its pages: who reads it next reads the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _replace(part: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    part.rename(final)
    _sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def prune(ckpt_path: str | Path, keep: int) -> None:
    """Collective: delete the oldest checkpoints beyond `keep`, once the newest has been read back whole.

    The best by evaluation (`rft.checkpoints.best`) stays and is not counted.

    raises  RftError on every rank if the newest is not what was written; then nothing is deleted
    """
    error = None
    there = checkpoints(ckpt_path)
    if _rank() == 0 and keep > 0 and there:
        try:
            problem = verify(there[-1])
            if problem:
                raise OSError(problem)
            protected = best.kept(ckpt_path)
            for folder in there[:-keep]:
                if folder != protected:
                    _remove(folder)
        except OSError as caught:
            error = caught
    _agree(there[-1] if there else Path(ckpt_path), "reading it back, then deleting the oldest", error)


def _remove(folder: Path) -> None:
    """A name that no reader takes for a checkpoint first: a kill in the middle leaves no half one."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def write_rank_state(engine, scheduler, folder: Path) -> None:
    """This rank's share of what continuing needs: ZeRO optimizer state, scheduler, counters, random states."""
    state = {
        "world_size": torch.distributed.get_world_size(),
        "optimizer": engine.optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "engine": {name: getattr(engine, name) for name in ("global_steps", "global_samples", "micro_steps")},
        "random": random_state(),
    }
    whole = io.BytesIO()  # torch's own writer calls a full disk "unexpected pos 64 vs 0"
    torch.save(state, whole)
    (folder / f"rank{_rank()}.pt").write_bytes(whole.getbuffer())


def random_state() -> dict:
    import numpy

    state = {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state()}
    if device.mesh_device_type() != "cpu":
        state["device"] = device.get_accelerator().get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    import numpy

    random.setstate(state["python"])
    numpy.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "device" in state and device.mesh_device_type() != "cpu":
        device.get_accelerator().set_rng_state(state["device"])


def newest(ckpt_path: str | Path) -> Path:
    """The newest whole checkpoint that can be continued, what is skipped said; RftError if there is none."""
    found, wrong = auto.whole(Path(ckpt_path))
    for line in wrong:
        print(f"checkpoint skipped: {line}", flush=True)
    if found is None:
        raise RftError(
            f"--load_checkpoint: {ckpt_path} holds no checkpoint to continue ({'; '.join(wrong) or 'it is empty'}); "
            "give the --ckpt_path of an earlier run, or leave --load_checkpoint out to start anew"
        )
    return found


def _chosen(args) -> Path:
    """Collective: the first rank reads the checkpoints and the base, and all ranks go on with its choice, or raise."""
    choice: list[str | None] = [None, None]
    if _rank() == 0:
        try:
            folder = newest(args.ckpt_path)
            problem = base.problem_of(folder, args.pretrain)
            choice = [str(folder), f"{folder}: {problem}" if problem else None]
        except RftError as error:
            choice = [None, str(error)]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(choice, src=0)
    if choice[1]:
        raise RftError(choice[1])
    return Path(choice[0])


def load(engine, scheduler, args) -> dict:
    """Collective: put adapter, optimizer, scheduler and random states back; returns the controller's state.

    raises  RftError on every rank if there is nothing to continue, or it was made by another model (by name or by what
            is in it), adapter shape, seed or number of ranks
    """
    folder = _chosen(args)
    state = json.loads((folder / "resume" / "state.json").read_text())
    for key in IDENTITY:
        if state["identity"][key] != jsonable(getattr(args, key)):
            raise RftError(
                f"{folder}: written with --{key} {state['identity'][key]}, this run has {getattr(args, key)}; "
                "continue with the same value"
            )
    files = list((folder / "resume").glob("rank*.pt"))
    world = torch.distributed.get_world_size()
    if len(files) != world:
        raise RftError(f"{folder}: written by {len(files)} actor ranks, this run has {world}; use as many GPUs as then")
    saved = torch.load(folder / "resume" / f"rank{_rank()}.pt", weights_only=False, map_location="cpu")
    engine.optimizer.checkpoint_event_prologue()
    engine.optimizer.load_state_dict([saved["optimizer"]] * world)
    engine.optimizer.checkpoint_event_epilogue()  # small parameters stay gathered: refresh them
    scheduler.load_state_dict(saved["scheduler"])
    for name, value in saved["engine"].items():
        setattr(engine, name, value)
    set_random_state(saved["random"])
    _require_equal(engine.module, folder)
    return state["controller"]


def jsonable(value):
    """`value` as it comes back from JSON."""
    return json.loads(json.dumps(value))


def _require_equal(model, folder: Path) -> None:
    """The adapter that the optimizer state restored must be the adapter of the file, bit for bit."""
    from safetensors.torch import load_file

    live = {lora_params.canonical(n): t for n, t in lora_params.gathered(model).items()}
    saved = load_file(folder / "adapter_model.safetensors")
    both = live.keys() & saved.keys()
    unequal = {name for name in both if not torch.equal(live[name], saved[name])}
    differing = sorted((live.keys() ^ saved.keys()) | unequal)
    if differing:
        raise RftError(f"{folder}: resume state and adapter_model.safetensors disagree, first at {differing[0]}")
