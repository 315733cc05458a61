"""The processes of a run: started so that none can outlive it, found again wherever they hide, ended without mercy.

Ray workers, vLLM's engine cores and its tensor-parallel workers are grandchildren that fork, daemonise and open
sessions of their own. The launcher therefore makes itself a *child subreaper* (prctl(2)): whatever loses its parent
below it becomes its child, so "all descendants" stays the whole truth. Direct children additionally get a parent-death
signal, for the case that the launcher itself is killed with SIGKILL. Nothing is ever looked up by name.

Linux only. Used by the launcher on its main thread; :meth:`Family.memory` also from its sampler thread.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def start(command: Sequence[str], env: dict[str, str], cwd: Path, log) -> subprocess.Popen:
    """A child in a session of its own (Ctrl-C in the terminal reaches the launcher alone), output to an open file."""
    return subprocess.Popen(
        list(command),
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


class Family:
    """All descendants of this process that came after this object was made."""

    def __init__(self):
        if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        self._self = psutil.Process()
        self._before = set(self._self.children(recursive=True))
        self._owned: list[subprocess.Popen] = []

    def start(self, command: Sequence[str], env: dict[str, str], cwd: Path, log) -> subprocess.Popen:
        """:func:`start`, remembered so that its exit status stays with the returned object."""
        child = start(command, env, cwd, log)
        self._owned.append(child)
        return child

    def owned(self) -> list[subprocess.Popen]:
        """The direct children, in the order in which they were started."""
        return list(self._owned)

    def members(self) -> list[psutil.Process]:
        """The living ones (zombies are dead)."""
        alive = []
        for process in self._self.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process not in self._before and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def memory(self, pss: bool = False) -> tuple[int, int]:
        """(bytes, processes) of this process and the family: the sum of RSS, or of PSS, which counts a page shared by n
        processes n-th each and so adds up to what is really taken."""
        total, count = 0, 0
        for process in [self._self, *self.members()]:
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                total += _pss_bytes(process.pid) if pss else process.memory_info().rss
                count += 1
        return total, count

    def stop(self, grace_s: float = 3.0, kill_s: float = 10.0) -> list[psutil.Process]:
        """SIGTERM to all, then SIGKILL until none is left; returns those that even so stayed (normally [])."""
        self._signal(signal.SIGTERM)
        self._wait_gone(grace_s)
        deadline = time.monotonic() + kill_s
        while not self._gone() and time.monotonic() < deadline:
            self._signal(signal.SIGKILL)  # again and again: a dying parent hands its children to us
            self._wait_gone(0.2)
        return self.members()

    def _signal(self, number: int) -> None:
        for process in self.members():
            with contextlib.suppress(psutil.Error, OSError):
                process.send_signal(number)

    def _wait_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._gone():
                return
            time.sleep(0.05)

    def _gone(self) -> bool:
        """No member and nothing to collect, in three looks: one look misses a child whose parent dies meanwhile."""
        for _ in range(3):
            self._reap()
            if self.members() or self._zombies():
                return False
            time.sleep(0.02)
        return True

    def _zombies(self) -> list[psutil.Process]:
        """Dead adopted children that wait to be collected."""
        owned = {child.pid for child in self._owned}
        found = []
        for process in self._self.children():
            with contextlib.suppress(psutil.Error):
                adopted = process.pid not in owned and process not in self._before
                if adopted and process.status() == psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _reap(self) -> None:
        """Collects dead adopted children; those that a Popen owns are collected through it, so no status is lost."""
        for child in self._owned:
            child.poll()
        for process in self._zombies():
            with contextlib.suppress(OSError):
                os.waitpid(process.pid, os.WNOHANG)


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(pid)


def end(child: subprocess.Popen, wait_s: float) -> None:
    """Asks one child to go (SIGTERM) and waits a bounded time; does nothing to one that has ended."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait_s)
