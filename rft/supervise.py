"""One training process under watch: log, progress, memory, signals, and an end that leaves nothing behind.

:func:`supervise` starts the command, shows its progress until it ends, and returns its exit status. SIGINT, SIGTERM and
SIGHUP become one :class:`Interrupted`, once; during the teardown they are ignored, so that it cannot be cut short. The
teardown belongs to the caller (:mod:`rft.launch`), which also owns the cluster. Main thread only.
"""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rft.errors import RftError
from rft.processes import Family
from rft.progress import Progress

POLL_S = 0.2
LOST_HEAD_S = 20.0  # after its Ray head has died the training process gets this long to say so itself


class Interrupted(BaseException):
    """A signal asked for the end. exit_code is the shell's 128 + number."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number


class Signals:
    """Context: the first SIGINT, SIGTERM or SIGHUP raises Interrupted; after it, or after hush(), they do nothing."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __enter__(self) -> "Signals":
        self._quiet = False
        self._previous = {number: signal.signal(number, self._on_signal) for number in self.NUMBERS}
        return self

    def __exit__(self, *exc_info) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def hush(self) -> None:
        self._quiet = True

    def _on_signal(self, number: int, frame) -> None:
        if not self._quiet:
            self._quiet = True
            raise Interrupted(number)


class Tail:
    """Copies what is appended to the log to the terminal (--verbose): the terminal cannot stall the run."""

    def __init__(self, path: Path, enabled: bool):
        self._file = open(path, "rb") if enabled else None  # noqa: SIM115 - open for the run's length

    def poll(self) -> None:
        if self._file is not None:
            data = self._file.read()
            if data:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()


def supervise(
    family: Family,
    command: Sequence[str],
    env: dict[str, str],
    cwd: Path,
    log_path: Path,
    progress: Progress,
    verbose: bool = False,
    alive: Callable[[], bool] = lambda: True,
) -> int:
    """Runs the command to its end, output appended to log_path; returns the exit status (negative: killed by a signal).

    alive   asked at every poll; False = what the command depends on (its Ray head) is gone
    raises  Interrupted on a signal; RftError where alive() turned False and the command did not end by itself
    """
    with open(log_path, "ab") as log:
        child = family.start(command, env, cwd, log)
    tail = Tail(log_path, verbose)
    start = time.monotonic()
    lost: float | None = None
    while child.poll() is None:
        _show(progress, tail, verbose, start)
        if lost is None and not alive():
            lost = time.monotonic()
        if lost is not None and time.monotonic() - lost > LOST_HEAD_S:
            raise RftError("the run's Ray head died and the training process hangs without it: see the ray/ logs")
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL_S)
    progress.poll()
    tail.poll()
    return child.returncode


def _show(progress: Progress, tail: Tail, verbose: bool, start: float) -> None:
    tail.poll()
    progress.poll()
    if not progress.started and not verbose:
        progress.status(f"starting engines and models … {time.monotonic() - start:.0f} s")
