"""All-or-nothing replacement of files of an installed package, which the next call completes if it is interrupted.

Beside the package, in the same file system, stands a work folder ``.openrlhf-rft/``:

    lock          flock: exclusive for a swap and its recovery, shared for reading
    state.json    what is applied: series id, patches, {path: {"base": sha256 or null, "patched": sha256}}
    base/…        the pristine bytes of every upstream file that is patched now
    journal.json  exists only during a swap: the states old and new, and per file the digests old, new and base
    stage/new/…   the bytes to swap in        stage/old/…  the bytes they replace

A swap writes base, stage and journal first, then renames each staged file over its target, drops stale bytecode, writes
the state and removes the journal; an error on the way undoes it at once. A journal found by a later call means an
interrupted swap: it is completed, or undone where that cannot be. An installed file is never opened for writing: uv
hard-links it to its cache, so that would change the cache and every other environment. Called by rft/patches.py and
rft/patch_tree.py only; raises RftError, or OSError from the file system.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rft.errors import RftError
from rft.patch_series import sha256

WORK = ".openrlhf-rft"


@contextlib.contextmanager
def locked(site: Path, exclusive: bool) -> Iterator[None]:
    """Holds the lock of a site-packages folder. A reader of a tree that was never patched needs no lock file."""
    path = site / WORK / "lock"
    if exclusive:
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    else:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def settled(site: Path) -> Iterator[None]:
    """Shared lock on a tree in which no swap is left half-done (one that is, is completed or undone first)."""
    while True:
        with locked(site, exclusive=False):
            if not interrupted(site):
                yield
                return
        with changing(site):
            pass


@contextlib.contextmanager
def changing(site: Path) -> Iterator[None]:
    """Exclusive lock on a tree; an interrupted swap is completed or undone first."""
    with locked(site, exclusive=True):
        done = recover(site)
        if done:
            print(f"patches: {done}", file=sys.stderr)
        yield


def digest_of(path: Path) -> str | None:
    """The sha256 of a file, None if there is none."""
    try:
        return sha256(path.read_bytes())
    except FileNotFoundError:
        return None


def read_state(site: Path) -> dict | None:
    """What is applied, or None. Its digests say what was applied, not that the files are still so."""
    return _read_json(site / WORK / "state.json")


def interrupted(site: Path) -> bool:
    return (site / WORK / "journal.json").exists()


def base_bytes(site: Path, path: str) -> bytes:
    """The pristine bytes of a file that is patched now."""
    return (site / WORK / "base" / path).read_bytes()


def swap(site: Path, files: dict[str, bytes | None], base: dict[str, bytes], state: dict | None) -> None:
    """Brings ``files`` (None: the file must not exist) in place and records ``state``. The caller holds the lock.

    base  the pristine bytes of every upstream file among ``files``: kept for those that the new state patches
    """
    work = site / WORK
    shutil.rmtree(work / "stage", ignore_errors=True)
    journal = {"states": {"old": read_state(site), "new": state}, "files": {}}
    for path, data in files.items():
        target = site / path
        old = target.read_bytes() if target.exists() else None
        for side, content in (("old", old), ("new", data)):
            if content is not None:
                mode = 0o644 if old is None else target.stat().st_mode & 0o777
                _write(work / "stage" / side / path, content, mode)
        pristine = sha256(base[path]) if path in base else None
        digests = [None if content is None else sha256(content) for content in (old, data)]
        journal["files"][path] = {"old": digests[0], "new": digests[1], "base": pristine}
        if path in base:
            _write(work / "base" / path, base[path], 0o644)
    _write(work / "journal.json", json.dumps(journal, indent=1).encode(), 0o644)
    try:
        _finish(site, journal, "new")
    except BaseException:
        with contextlib.suppress(OSError):
            _finish(site, journal, "old")
        raise
    _clean(site)


def recover(site: Path) -> str | None:
    """Completes or undoes an interrupted swap; says which in one line, None if there was none. Under the lock."""
    if not interrupted(site):
        shutil.rmtree(site / WORK / "stage", ignore_errors=True)
        return None
    journal = _read_json(site / WORK / "journal.json")
    for side, word in (("new", "completed"), ("old", "undone")):
        if all(_can_finish(site, path, entry, side) for path, entry in journal["files"].items()):
            _finish(site, journal, side)
            _clean(site)
            return f"an interrupted change of the installed files was {word}"
    for path, entry in journal["files"].items():
        found = digest_of(site / path)
        if found not in entry.values():
            raise RftError(
                f"{site / path}: changed after an interrupted swap (found sha256 {found}); {reinstall(site)}"
            )
    raise RftError(f"{site / WORK}: staged files of an interrupted swap are gone; {reinstall(site)}")


def reinstall(site: Path) -> str:
    """The remedy for files that nobody here can account for."""
    python = site.parents[2] / "bin" / "python" if len(site.parents) > 2 else None
    where = f"--python {python} " if python and python.exists() else ""
    return f"reinstall it: uv pip install {where}--no-deps --reinstall openrlhf==0.9.3"


def _can_finish(site: Path, path: str, entry: dict, side: str) -> bool:
    found = digest_of(site / path)
    if found not in entry.values():
        return False
    return found == entry[side] or entry[side] is None or digest_of(site / WORK / "stage" / side / path) == entry[side]


def _finish(site: Path, journal: dict, side: str) -> None:
    """Renames the staged files of one side ('new' or 'old') into place and closes the journal. Can be repeated."""
    work = site / WORK
    for path, entry in journal["files"].items():
        target = site / path
        if digest_of(target) != entry[side]:
            if entry[side] is None:
                target.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(work / "stage" / side / path, target)
        _drop_bytecode(target)
    for path, entry in journal["files"].items():
        _drop_empty_dirs(site, path, entry[side] is None)
    state = journal["states"][side]
    if state is not None:
        _write(work / "state.json", json.dumps(state, indent=1).encode(), 0o644)
    else:
        (work / "state.json").unlink(missing_ok=True)
    (work / "journal.json").unlink(missing_ok=True)


def _clean(site: Path) -> None:
    """Drops the stage, and the pristine bytes of files that the state does not patch."""
    shutil.rmtree(site / WORK / "stage", ignore_errors=True)
    state = read_state(site)
    kept = {path for path, entry in (state["files"] if state else {}).items() if entry["base"]}
    root = site / WORK / "base"
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            if (Path(folder) / name).relative_to(root).as_posix() not in kept:
                (Path(folder) / name).unlink()
        if not os.listdir(folder):
            os.rmdir(folder)


def _drop_bytecode(source: Path) -> None:
    cached = Path(importlib.util.cache_from_source(str(source)))
    for pyc in [cached, *(source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")]:
        pyc.unlink(missing_ok=True)


def _drop_empty_dirs(site: Path, path: str, removed: bool) -> None:
    """After a created file is removed: its folders too, if nothing (but bytecode folders) is left in them."""
    folder = (site / path).parent
    while removed and folder.parent != site:
        with contextlib.suppress(OSError):
            (folder / "__pycache__").rmdir()
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RftError(
            f"{path}: not readable ({error}); remove {path.parent} and {reinstall(path.parents[1])}"
        ) from None


def _write(path: Path, data: bytes, mode: int) -> None:
    """Writes a file of the work folder whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
