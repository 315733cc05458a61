"""Makes small real patch series for the tests of the patch tool, and runs the tool as a user does."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rft import patch_swap
from rft.patch_series import sha256

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
Description: {name} of a test
 What it is for.
Reason: bug
Origin: vendor
Forwarded: no
Upstream-Version: 0.9.3
Test: tests/test_patch_tool.py::test_apply_and_reverse
Last-Update: 2026-11-20

"""


class Series:
    """A patches folder that grows by edits of a private copy of a pristine site-packages folder."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.dir, self.tree, self.names = folder / "patches", folder / "now", []
        self.dir.mkdir(parents=True)
        (self.tree / "a").mkdir(parents=True)
        shutil.copytree(site / "openrlhf", self.tree / "a" / "openrlhf")
        shutil.copytree(self.tree / "a", self.tree / "b")
        self.pins: dict[str, str] = {}
        self.write()

    def add(self, name: str, edits: dict[str, str | Callable[[str], str]]) -> Path:
        """A patch: {path under openrlhf/: whole text of a new file, or a function from old text to new text}."""
        for path, edit in edits.items():
            target = self.tree / "b" / "openrlhf" / path
            if callable(edit):
                self.pins.setdefault(f"openrlhf/{path}", sha256(target.read_bytes()))
                target.write_text(edit(target.read_text()))
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(edit)
        command = ["git", "diff", "--no-index", "--no-prefix", "--full-index", "a", "b"]
        diff = subprocess.run(command, cwd=self.tree, capture_output=True, text=True).stdout
        # git names a new file b/… on both sides here, where it says a/… b/… in a repository
        diff = re.sub(r"^diff --git b/(\S+) b/", r"diff --git a/\1 b/", diff, flags=re.MULTILINE)
        assert diff, "an edit of a test changed nothing"
        self.names.append(f"{name}.patch")
        (self.dir / f"{name}.patch").write_text(HEADER.format(name=name) + diff)
        shutil.rmtree(self.tree / "a")
        shutil.copytree(self.tree / "b", self.tree / "a")
        self.write()
        return self.dir / f"{name}.patch"

    def write(self) -> None:
        (self.dir / "series").write_text("# a test's series\n\n" + "".join(f"{name}\n" for name in self.names))
        (self.dir / "base.sha256").write_text("".join(f"{d}  {p}\n" for p, d in sorted(self.pins.items())))


def command(verb: str, site: Path, series: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "rft.patches", verb, "--site-packages", str(site), "--patches", str(series), *more]


def tool(verb: str, site: Path, series: Path, *more: str, **options) -> subprocess.CompletedProcess:
    """Runs the patch tool in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command(verb, site, series, *more), capture_output=True, text=True, env=env, **options)


def contents(site: Path) -> dict[str, bytes]:
    """{path: bytes} of all files of the package."""
    root = site / "openrlhf"
    return {path.relative_to(site).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def leftovers(site: Path) -> list[str]:
    """What the work folder holds apart from its lock."""
    return sorted(path.name for path in (site / patch_swap.WORK).iterdir() if path.name != "lock")
