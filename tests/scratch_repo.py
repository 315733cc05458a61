"""A git repository of its own with the project's files as they lie here, to make branches, tags and runs in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHO = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
LEFT_OUT = ("tests/", "benchmarks/", "docs/")


class Scratch:
    """root: the checkout; env: of every command."""

    def __init__(self, root: Path, **env: str):
        self.root, self.runs = root, root / "runs"
        callers = {key: value for key, value in os.environ.items() if not key.startswith(("RFT_", "GIT_", "RAY_"))}
        for name in ("METRICS_LOG_DIR", "SAMPLES_LOG_DIR", "PYTHONPATH"):
            callers.pop(name, None)
        self.env = {**callers, **WHO, **CONFIG, "OMP_NUM_THREADS": "1", **env}

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", "-C", self.root, *args], env=self.env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def rft(self, *args: object, **env: str) -> subprocess.CompletedProcess:
        """``rft`` of the scratch repository's own files."""
        command = [sys.executable, "-m", "rft.cli", *map(str, args)]
        env = {**self.env, **env}
        return subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True, check=False)

    def write(self, path: str, text: str) -> Path:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        return self.root / path

    def commit(self, message: str = "change") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")


def make(root: Path, **env: str) -> Scratch:
    """The project's tracked and new files, but for tests and documents, in one commit on branch main."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if name and not name.startswith(LEFT_OUT) and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')  # a link would lose the environment's packages
    python.chmod(0o755)
    scratch = Scratch(root, **env)
    scratch.git("init", "-q", "-b", "main")
    scratch.commit("the project")
    return scratch
