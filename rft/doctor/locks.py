"""Locks on compiled extensions that nobody holds any more.

torch compiles C++ extensions (DeepSpeed's Adam) under TORCH_EXTENSIONS_DIR/<python>/<name>/ and keeps a file ``lock``
there while it does. The compiling process has it open; who finds it waits for it to go away, without limit. A compiler
that was killed leaves the file, and every later run hangs on it.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lock:
    """holder: pid of the process that has it open; None: stale."""

    path: Path
    holder: int | None


def folder(env: dict[str, str]) -> Path:
    """Where the extensions of a process with this environment are compiled."""
    given = env.get("TORCH_EXTENSIONS_DIR")
    if given:
        return Path(given)
    cache = Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or Path.home()) / ".cache")
    return cache / "torch_extensions"


def find(extensions: Path) -> list[Lock]:
    """All locks under the folder. A holder of another user, or in another container, is not seen: then None, too."""
    locks = [path for path in extensions.glob("**/lock") if path.is_file()] if extensions.is_dir() else []
    holders = _open_files({os.path.realpath(path) for path in locks})
    return [Lock(path, holders.get(os.path.realpath(path))) for path in sorted(locks)]


def _open_files(wanted: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    if not wanted:
        return found
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                for link in (entry / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        target = os.readlink(link)
                        if target in wanted:
                            found[target] = int(entry.name)
    return found
