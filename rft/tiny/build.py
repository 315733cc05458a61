"""Makes the tiny model's folder: MXFP4 checkpoint, its bf16 twin, prompts, manifest.

`make` is deterministic (same seed, same bytes on the same machine) and idempotent: everything is written to
``<out>.tmp``, the manifest with the digests last, then the folder is renamed into place; a folder whose manifest
holds is used again. Two makers of one folder take turns by a lock on ``<out>.tmp``. Called by ``rft tiny make`` and
by tests, in the main thread (it sets torch's thread count and global seed for the process).
"""

import fcntl
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from rft.dequantise import dequantise_checkpoint
from rft.errors import RftError
from rft.provenance import sha256
from rft.tiny.data import split_problems, write_prompts

RECIPE = 2  # raise it when the same seed gives another model, so that old folders are not taken for new ones
MANIFEST = "manifest.json"


def make(out: Path, seed: int = 0, plan=None, quiet: bool = False) -> dict:
    """Make the folder `out` or use it again; returns its manifest. `plan` is a `WarmStart` (default: the full one)."""
    from rft.tiny.warmstart import WarmStart

    out, plan = Path(out), plan or WarmStart()
    wanted = {"recipe": RECIPE, "seed": seed, "warm_start": asdict(plan)}
    if out.exists() and not _outdated(out):
        return check(out, wanted)
    partial = out.with_name(out.name + ".tmp")
    try:
        lock = _lock_folder(partial)
        try:
            if out.exists() and not _outdated(out):  # another maker finished while this one waited
                shutil.rmtree(partial, ignore_errors=True)
                return check(out, wanted)
            _empty(partial)
            manifest = _fill(partial, wanted, plan, quiet)
            if out.exists():
                shutil.rmtree(out)
            partial.rename(out)
            return manifest
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            os.close(lock)
    except OSError as error:
        raise RftError(f"cannot write {out}: {error.strerror or error}; free space or name another folder") from error


def _outdated(out: Path) -> bool:
    """Whether `out` was made whole by an earlier recipe: then it is ours to make anew."""
    try:
        return json.loads((out / MANIFEST).read_text()).get("recipe", RECIPE) < RECIPE
    except (OSError, json.JSONDecodeError):
        return False


def check(out: Path, wanted: dict) -> dict:
    """The manifest of the finished folder `out`, if it is what `wanted` asks for and every file has its digest."""
    path = out / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise RftError(
            f"{out} exists but {path.name} in it cannot be read; remove the folder or name another"
        ) from error
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise RftError(
                f"{path}: {key} is {manifest.get(key)!r}, wanted {value!r}; remove the folder or name another"
            )
    for name, digest in manifest["sha256"].items():
        if not (out / name).is_file() or sha256(out / name) != digest:
            raise RftError(f"{out / name} is missing or was changed since it was made; remove {out} and make it again")
    return manifest


def _lock_folder(folder: Path) -> int:
    """Create `folder` and lock it; returns the open descriptor. Waits while another process holds it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.exists() and os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
        os.close(descriptor)  # the holder renamed or removed it: lock the new one


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fill(folder: Path, wanted: dict, plan, quiet: bool) -> dict:
    import torch

    from rft.tiny import model as tiny
    from rft.tiny.tokenizer import build_tokenizer
    from rft.tiny.warmstart import fit, measure

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seed = wanted["seed"]
        split = split_problems(seed)
        tokenizer = build_tokenizer()
        config = tiny.build_config(tokenizer.eos_token_id, tokenizer.pad_token_id)
        torch.manual_seed(seed)
        model = tiny.build_model(config)
        with _progress(plan, quiet) as tick:
            fit(model, tokenizer, split.warm, plan, seed, tick)
        checkpoint = folder / "model"
        tiny.save_checkpoint(model, config, checkpoint)
        tiny.save_generation_config(tokenizer, checkpoint)
        tokenizer.save_pretrained(checkpoint)
        dequantise_checkpoint(checkpoint, folder / "model-bf16")
        write_prompts(split.train, folder / "train.jsonl")
        write_prompts(split.heldout, folder / "heldout.jsonl")
        accuracy = measure(tiny.load_checkpoint(checkpoint), tokenizer, split.heldout, samples=4, seed=seed)
    finally:
        torch.set_num_threads(threads)
    manifest = {
        **wanted,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "counts": {"train": len(split.train), "heldout": len(split.heldout), "warm_start": len(split.warm)},
        "heldout_at_warm_start_end": accuracy,
        "sha256": {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    return manifest


class _progress:
    """A progress bar over the warm start's steps; calling the entered value with a loss moves it on."""

    def __init__(self, plan, quiet: bool):
        from tqdm import tqdm

        total = plan.clean_steps + plan.noisy_steps + plan.frozen_steps
        self._bar = tqdm(total=total, desc="warm start", unit="step", disable=quiet, leave=False)

    def __enter__(self):
        return self._tick

    def _tick(self, loss: float) -> None:
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._bar.update()

    def __exit__(self, *_) -> None:
        self._bar.close()
