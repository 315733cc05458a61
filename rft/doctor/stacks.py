"""Stacks of Python processes, by py-spy: what each thread is doing, without the process's help.

A process that was stopped (SIGSTOP) or waits in a driver is read all the same: py-spy only reads its memory. Needs the
right to trace (root, or CAP_SYS_PTRACE in a container); where it is refused the reason takes the stack's place.
"""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_S = 20.0
TRIES = 3  # unpaused, a process that moves may be read torn


@dataclass(frozen=True)
class Frame:
    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({_short(self.file)}:{self.line})"


@dataclass(frozen=True)
class Thread:
    """frames: the innermost first."""

    name: str
    active: bool
    frames: tuple[Frame, ...]


@dataclass
class Stacks:
    """Of one process; problem: why there are none."""

    pid: int
    threads: list[Thread] = field(default_factory=list)
    problem: str | None = None

    def main(self) -> Thread | None:
        return next((thread for thread in self.threads if thread.name == "MainThread"), None) or next(
            iter(self.threads), None
        )

    def text(self) -> str:
        if self.problem:
            return f"no stack: {self.problem}\n"
        said = []
        for thread in self.threads:
            said.append(f"Thread {thread.name} ({'running' if thread.active else 'waiting'})")
            said += [f"    {frame.function} ({frame.file}:{frame.line})" for frame in thread.frames]
        return "\n".join(said) + "\n"


def program() -> str | None:
    """py-spy's, of this environment or of PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def dump(pids: list[int]) -> dict[int, Stacks]:
    """pid -> its stacks, several processes at once."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(pids, pool.map(_one, pids), strict=True))


def _one(pid: int) -> Stacks:
    spy = program()
    if spy is None:
        return Stacks(pid, problem="py-spy is not installed: pip install py-spy")
    problem = ""
    for _ in range(TRIES):
        try:
            words = [spy, "dump", "--json", "--nonblocking", "--full-filenames", "--pid", str(pid)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return Stacks(pid, problem=f"py-spy did not answer within {TIMEOUT_S:.0f} s")
        if done.returncode == 0:
            return Stacks(pid, _threads(done.stdout))
        problem = " ".join(done.stderr.split())[:200]
    return Stacks(pid, problem=problem)


def _threads(text: str) -> list[Thread]:
    found = []
    for thread in json.loads(text):
        frames = tuple(Frame(f["name"], f["filename"], f["line"]) for f in thread["frames"])
        found.append(Thread(thread.get("thread_name") or str(thread["thread_id"]), bool(thread["active"]), frames))
    return found


def _short(path: str) -> str:
    """The path from its package on."""
    _, found, rest = path.rpartition("/site-packages/")
    return rest if found else "/".join(Path(path).parts[-2:])
