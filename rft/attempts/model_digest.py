"""Digests of a model: sha256 of each file of a folder, or the revision and blob names of a hub model in the cache.

A file's digest is remembered under its path, size and time of change (digests.json among the runs), so that 65 GB are
read once. Standard library and rich; main thread.
"""

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

from rft import runs
from rft.errors import RftError

CHUNK = 1 << 24
BAR_BYTES = 1 << 30  # less than this is read without a progress bar


def of(name: str, root: Path, env: dict[str, str], store: Path) -> dict:
    """{"name", "files": {file: digest}} and, of a hub model, its "revision" (None: not in the cache yet).

    name    folder, relative to root, or hub id
    store   where digests are remembered
    raises  RftError: a file cannot be read
    """
    folder = root / os.path.expanduser(name)
    if folder.is_dir():
        return {"name": name, "files": _folder(folder, store)}
    return {"name": name, **_hub(name, env)}


def _folder(folder: Path, store: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    known = _read(store)
    keys = {path: f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths}
    missing = [path for path in paths if keys[path] not in known]
    total = sum(path.stat().st_size for path in missing)
    with _bar(total) as advance:
        for path in missing:
            known[keys[path]] = _sha256(path, advance)
    if missing:
        store.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(store, known)
    return {str(path.relative_to(folder)): known[keys[path]] for path in paths}


def _read(store: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(store.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _sha256(path: Path, advance) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
                advance(len(data))
    except OSError as err:
        raise RftError(
            f"{path}: not readable ({err.strerror}); the attempt's capsule needs the model's digest"
        ) from err
    return digest.hexdigest()


@contextlib.contextmanager
def _bar(total: int):
    if total < BAR_BYTES or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("model digests", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)


def _hub(name: str, env: dict[str, str]) -> dict:
    """Revision of `main` in the hub cache; large files are stored under their own sha256, small ones under git's."""
    home = Path(env.get("HF_HOME") or Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    repo = Path(env.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    try:
        revision = (repo / "refs" / "main").read_text().strip()
    except OSError:
        return {"revision": None, "files": {}}
    snapshot = repo / "snapshots" / revision
    paths = sorted(path for path in snapshot.rglob("*") if path.is_file())
    return {"revision": revision, "files": {str(path.relative_to(snapshot)): path.resolve().name for path in paths}}
