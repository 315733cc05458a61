"""The base model of an adapter: its tensors, its fingerprint, and whether the adapter was trained on it.

`fingerprint` covers every tensor but the experts' weights, which alone differ in form between an MXFP4 checkpoint and
its bf16 twin: both have the same fingerprint. 4.3 GB are read for gpt-oss-120b, 3.6 GB for 20b. A checkpoint's writer
puts it beside an adapter with `write_identity` (``base.json``); where it is missing, the base that adapter_config.json
names is fingerprinted too, if its folder is at hand. Main thread; no torch.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

from rft import runs
from rft.dequantise import list_shards
from rft.errors import RftError
from rft.evals import models
from rft.export.adapter import Adapter
from rft.export.safetensors_file import Entry, read_header, update
from rft.whole_file import WholeFile

IDENTITY = "base.json"
_EXPERT_SUFFIXES = tuple(
    f".mlp.experts.{name}{form}" for name in ("gate_up_proj", "down_proj") for form in ("", "_blocks", "_scales")
)


@dataclass(frozen=True)
class Base:
    """A checkpoint folder; shards: its files and what lies in each, in order; name: what the user or adapter calls it.

    certain: whether the adapter is known to be of this base
    """

    folder: Path
    name: str
    config: dict
    shards: dict[Path, list[Entry]]
    fingerprint: str
    certain: bool = False

    @property
    def shown(self) -> str:
        """What may be published: the hub id, or the folder's own name without its place on this machine."""
        return self.name if _is_hub_id(self.name) else self.folder.resolve().name

    @property
    def tensors(self) -> dict[str, Entry]:
        return {entry.name: entry for entries in self.shards.values() for entry in entries}

    @property
    def is_mxfp4(self) -> bool:
        return any(name.endswith("_blocks") for name in self.tensors)


def tables(folder: Path) -> dict[Path, list[Entry]]:
    """raises  RftError: a shard is missing, cut short or unreadable"""
    return {path: read_header(path) for path in list_shards(folder)}


def fingerprint(shards: dict[Path, list[Entry]]) -> str:
    """xxh3-128 over names, types, shapes and contents of all tensors that are no experts' weights, by name; hex.

    It tells checkpoints apart, not forgers, and reads as fast as the disk does.
    """
    import xxhash

    total = xxhash.xxh3_128()
    for entry in sorted((e for entries in shards.values() for e in entries), key=lambda e: e.name):
        if not entry.name.endswith(_EXPERT_SUFFIXES):
            total.update(f"{entry.name} {entry.dtype} {entry.shape}\n".encode())
            update(total, entry)
    return total.hexdigest()


def write_identity(adapter_folder: Path, pretrain: str) -> None:
    """Write base.json beside an adapter: what it was trained on. Called by a checkpoint's writer, on one rank.

    pretrain  a folder or a hub id
    """
    value = {"name": pretrain, "fingerprint": fingerprint_at_hand(pretrain)}
    whole = WholeFile(adapter_folder / IDENTITY, "w", encoding="utf-8")
    try:
        whole.file.write(json.dumps(value, indent=1) + "\n")
    except BaseException:
        whole.discard()
        raise
    whole.commit()


@functools.lru_cache
def fingerprint_at_hand(pretrain: str) -> str | None:
    """Once a process: every save of a run asks for the same base."""
    found = _at_hand(pretrain)
    return fingerprint(tables(found)) if found else None


def find(adapter: Adapter, named: str | None) -> Base:
    """The base to merge into: `named` (--base), else the one that the adapter names.

    raises  RftError: none to be found, damaged, no gpt-oss, or not the one that the adapter was trained on
    """
    recorded = _recorded(adapter.path)
    trained_on = recorded.get("name") or adapter.base
    name = named or trained_on
    if not name:
        raise RftError(f"{adapter.path}: it names no base model; give one with --base")
    folder = models.locate(name, "--base")
    config = models.config(folder)
    if config.get("model_type") != "gpt_oss":
        raise RftError(
            f"--base {name}: model_type is {config.get('model_type')!r}, not 'gpt_oss'; name a gpt-oss model"
        )
    shards = tables(folder)
    print_ = fingerprint(shards)
    wanted = recorded.get("fingerprint")
    if wanted is None and trained_on:
        other = folder if name == trained_on else _at_hand(trained_on)
        wanted = None if other is None else print_ if other == folder else fingerprint(tables(other))
    if wanted is not None and wanted != print_:
        raise RftError(
            f"--base {name}: fingerprint {print_[:12]}, the adapter {adapter.path} was trained on {trained_on} "
            f"({wanted[:12]}); name that one"
        )
    return Base(folder, name, config, shards, print_, certain=wanted is not None)


def _recorded(folder: Path) -> dict:
    path = folder / IDENTITY
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("name", "fingerprint")}
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise RftError(f"{path}: not readable ({err!r}); name a whole checkpoint") from err


def _at_hand(name: str) -> Path | None:
    """The folder of a model without asking the network; None where it is not on this machine."""
    for path in (Path(name).expanduser(), runs.REPO / name):
        if (path / "config.json").is_file():
            return path
    if not _is_hub_id(name):
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _is_hub_id(name: str) -> bool:
    """As `rft.evals.models.locate` tells them from folders."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    return not Path(name).is_dir() and not (runs.REPO / name.split("/")[0]).is_dir()
