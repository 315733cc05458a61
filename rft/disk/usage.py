"""Bytes that files and folders take on the disk. Standard library; any thread."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

BLOCK = 512  # what st_blocks counts


class Counter:
    """Allocated bytes of trees; a file with several names counts where it is met first, links are not followed."""

    def __init__(self):
        self._seen: set[tuple[int, int]] = set()
        self.unreadable: list[str] = []

    def tree(self, path: Path, without: Iterable[Path] = ()) -> int:
        """Bytes of a file or folder; 0 for one that is not there; what cannot be read is left out and listed.

        without  folders that are not entered
        """
        skipped, total, todo = {str(one) for one in without}, 0, [str(path)]
        while todo:
            one = todo.pop()
            try:
                about = os.lstat(one)
                if stat.S_ISDIR(about.st_mode):
                    with os.scandir(one) as entries:
                        todo += [entry.path for entry in entries if entry.path not in skipped]
            except FileNotFoundError:  # it went away meanwhile, or never was there
                continue
            except OSError:
                self.unreadable.append(one)
                continue
            if about.st_nlink > 1 and not stat.S_ISDIR(about.st_mode):
                if (about.st_dev, about.st_ino) in self._seen:
                    continue
                self._seen.add((about.st_dev, about.st_ino))
            total += about.st_blocks * BLOCK
        return total


def size(count: int) -> str:
    """``41.8 GB``, ``31.9 MB``, ``512 B``: decimal, as disks are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def existing(path: Path) -> Path:
    """The path or its nearest ancestor that exists: what a free-space question is asked of."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
