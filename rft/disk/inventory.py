"""What lies on the disks: each run with its checkpoints and their like, and the caches. Reads only; main thread.

A run's parts lie where its run.json says, which may be other disks (rft/runs.py). Folders of runs beside which no
run.json stands any more are found on the same disks (`orphans`).
"""

import os
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rft import runs
from rft.cluster import TEMP_PARENT
from rft.disk.usage import Counter
from rft.disk.whole import TAG

HALF = re.compile(r"\.(global_step\d+_hf|final)\.(part|old)|\..+\.part")
# What a save of the whole model leaves: upstream's PEFT + ZeRO-3 saves write it beside an adapter.
SHARD = re.compile(
    r"(pytorch_model|model)(-\d+-of-\d+)?\.(bin|safetensors)|(pytorch_model\.bin|model\.safetensors)\.index\.json"
    r"|zero_pp_rank_\d+_mp_rank_\d+_(optim|model)_states\.pt|mp_rank_\d+_model_states\.pt"
)
ADAPTER = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")


@dataclass(frozen=True)
class Part:
    """A file or folder of a run: kind is checkpoint | half | shards | final | metrics | samples | log | other."""

    kind: str
    path: Path
    bytes: int
    step: int | None = None


@dataclass
class RunUse:
    """status: that of ``rft runs``, or `gone` where no run.json says what it was; end: unix seconds or None."""

    id: str
    status: str
    end: float | None
    parts: list[Part] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def of(self, kind: str) -> list[Part]:
        return [part for part in self.parts if part.kind == kind]


@dataclass(frozen=True)
class Cache:
    """used: last change of a file at its top, unix seconds; None where it is empty."""

    name: str
    path: Path
    bytes: int
    used: float | None


def run_uses(counter: Counter) -> list[RunUse]:
    """All runs, largest first, then what runs that are gone left."""
    found = [_run(file.parent, counter) for file in sorted(runs.runs_dir().glob(f"*/{runs.RUN_FILE}"))]
    known = {run.id for run in found}
    for disk in (runs.DATA_DISK / "rft", runs.SCRATCH_DISK / "rft"):
        for folder in sorted(disk.glob("*")) if disk.is_dir() and not os.environ.get("RFT_RUNS_DIR") else ():
            if folder.is_dir() and folder.name not in known and looks_like_run(folder):
                found.append(RunUse(folder.name, "gone", None, _tree(folder, counter)))
    return sorted(found, key=lambda run: -run.bytes)


def looks_like_run(folder: Path) -> bool:
    """Does a folder hold what a run leaves? Nothing else on a shared disk is ours to judge."""
    return any((folder / name).exists() for name in ("ckpt", "metrics", "samples", "final"))


def _run(folder: Path, counter: Counter) -> RunUse:
    record = runs.read_json(folder / runs.RUN_FILE)
    state, paths = runs.describe(folder), record.get("paths") or {}
    use = RunUse(str(record.get("id", folder.name)), state["status"], record.get("end"))
    places = {"ckpt": "ckpt", "save": "final", "metrics": "metrics", "samples": "samples", "log": "log.txt"}
    at = {key: folder / name if (folder / name).exists() else Path(paths.get(key) or folder / name) for key, name in
          places.items()}  # fmt: skip
    shared = _shared(record, at)
    for key, path in at.items():
        if key not in shared:
            use.parts += _checkpoints(path, counter) if key == "ckpt" else _part(key, path, counter)
    use.parts.append(Part("other", folder, counter.tree(folder, at.values())))
    return use


def _shared(record: dict, at: dict[str, Path]) -> set[str]:
    """Parts that belong to the run that this one continues."""
    if not record.get("resumed_from"):
        return set()
    own = Path((record.get("paths") or {}).get("run_dir") or at["log"].parent).name
    return {key for key in ("ckpt", "metrics", "samples") if own not in at[key].parts}


def _part(key: str, path: Path, counter: Counter) -> list[Part]:
    kind = {"save": "final"}.get(key, key)
    strays = _strays(path, counter) if key == "save" else []
    taken = sum(part.bytes for part in strays)
    whole = 0 if not path.exists() else counter.tree(path, [part.path for part in strays])
    return [Part(kind, path, whole), *strays] if whole or taken else []


def _checkpoints(folder: Path, counter: Counter) -> list[Part]:
    """Checkpoints, half-written ones, stray shards, and the rest of a --ckpt_path."""
    parts: list[Part] = []
    if not folder.is_dir():
        return parts
    for path in sorted(folder.iterdir()):
        if path.is_symlink():  # what it leads to is not this run's
            continue
        if match := TAG.fullmatch(path.name):
            strays = _strays(path, counter)
            inner = counter.tree(path, [part.path for part in strays])
            parts += [Part("checkpoint", path, inner, int(match[1])), *strays]
        elif HALF.fullmatch(path.name):
            parts.append(Part("half", path, counter.tree(path)))
        elif SHARD.fullmatch(path.name):
            parts.append(Part("shards", path, counter.tree(path)))
        else:
            strays = _strays(path, counter) if path.is_dir() else []
            parts += strays
            parts.append(Part("other", path, counter.tree(path, [part.path for part in strays])))
    return [part for part in parts if part.bytes or part.kind == "checkpoint"]


def _strays(folder: Path, counter: Counter) -> list[Part]:
    """Files of a whole model below a folder of a run that trains an adapter."""
    adapter = any((folder / name).is_file() for name in ADAPTER)
    found = [path for path in folder.rglob("*") if SHARD.fullmatch(path.name) and path.is_file()] if adapter else []
    return [Part("shards", path, counter.tree(path)) for path in sorted(found)]


def _tree(folder: Path, counter: Counter) -> list[Part]:
    parts = _checkpoints(folder / "ckpt", counter)
    return [*parts, Part("other", folder, counter.tree(folder, [folder / "ckpt"]))]


def caches(counter: Counter) -> list[Cache]:
    """The caches of the libraries, merged models, reports, evaluations, and what Ray left in the temporary folder."""
    env, home = os.environ, Path.home()
    cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(env.get("HF_HOME") or cache / "huggingface")
    places = {
        "hub models": Path(env.get("HF_HUB_CACHE") or hub / "hub"),
        "hub data sets": Path(env.get("HF_DATASETS_CACHE") or hub / "datasets"),
        "vllm": Path(env.get("VLLM_CACHE_ROOT") or cache / "vllm"),
        "triton": Path(env.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"),
        "torch extensions": Path(env.get("TORCH_EXTENSIONS_DIR") or runs.REPO / ".venv" / "torch_extensions"),
        "merged models": merged_models(),
        "evaluations": Path(env.get("RFT_EVALS_DIR") or runs.runs_dir() / "evals"),
        "reports": runs.runs_dir() / "reports",
        "ray": Path(env.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray",
    }
    heads = [("ray of a run", path.parent) for path in sorted(Path(TEMP_PARENT).glob("rft-*/head.log"))]
    every = [*places.items(), *heads]
    return [Cache(name, path, counter.tree(path), used(path)) for name, path in every if path.is_dir()]


def merged_models() -> Path:
    """Where merged models are cached: $RFT_MERGED_DIR, else merged/ among the runs."""
    return Path(os.environ.get("RFT_MERGED_DIR") or runs.runs_dir() / "merged")


def used(path: Path) -> float | None:
    """The newest change at the top of a folder."""
    times = [entry.lstat().st_mtime for entry in path.iterdir()] if path.is_dir() else []
    return max(times, default=None)


def age_days(seconds: float | None) -> float:
    """Days since a time; 0 for None, so that what is not known counts as new."""
    return 0.0 if seconds is None else max(0.0, (time.time() - seconds) / 86400)
