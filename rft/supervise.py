"""One training process under watch: log, progress, signals, deaths, hangs, and an end that leaves nothing behind.

:func:`supervise` starts the command, shows its progress until it ends, and returns its exit status. SIGINT, SIGTERM and
SIGHUP become one :class:`Interrupted`, once; during the teardown they are ignored, so that it cannot be cut short. The
first SIGTERM after a finished step is handed on instead: the trainer saves and ends (rft/checkpoints/stop.py); a second
one ends at once. A process that dies (rft/doctor/deaths.py) is named as the cause of the end; a step that takes too
long (rft/doctor/watchdog.py) is examined, and under RFT_ON_HANG=stop ends the run. The teardown belongs to the caller
(:mod:`rft.launch`), which also owns the cluster. Main thread only.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rft import runs
from rft.checkpoints import stop
from rft.doctor.attendant import Attendant
from rft.doctor.deaths import Deaths
from rft.errors import RftError
from rft.processes import Family
from rft.progress import Progress

POLL_S = 0.2
LOST_HEAD_S = 20.0  # after its Ray head has died the training process gets this long to say so itself
STOP_S = 900.0  # RFT_STOP_S: for the update under way and the save, once SIGTERM was handed on


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


class Stopping:
    """Context: the first SIGTERM is handed on to the trainer, if there is something to save; the next is `Signals`'.

    ready  asked in the handler: has a step been finished?
    """

    def __init__(self, env: dict[str, str], ready: Callable[[], bool], say: Callable[[str], None]):
        self._folder, self._run_id = env.get("METRICS_LOG_DIR"), env.get("RFT_RUN_ID")
        self._limit = float(env.get("RFT_STOP_S") or STOP_S)
        self._ready, self._say = ready, say
        self.asked_at: float | None = None
        self._told = False

    def __enter__(self) -> "Stopping":
        self._before = signal.signal(signal.SIGTERM, self._on_signal)
        return self

    def __exit__(self, *exc_info) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if self.asked_at is not None:
            stop.withdraw(self._folder)

    def _on_signal(self, number: int, frame) -> None:
        if self.asked_at is None and self._folder and self._run_id and self._ready():
            self.asked_at = time.monotonic()
            stop.ask(self._folder, self._run_id, "SIGTERM")
        else:
            signal.signal(number, self._before)
            signal.raise_signal(number)

    def check(self) -> None:
        """Says once what happens. raises Interrupted where the trainer has not ended in time"""
        if self.asked_at is not None and not self._told:
            self._told = True
            self._say("SIGTERM: the trainer saves and ends (a second one ends it at once) …")
        if self.asked_at is not None and time.monotonic() - self.asked_at > self._limit:
            self._say(f"no checkpoint within {self._limit:.0f} s (RFT_STOP_S); ending without it")
            raise Interrupted(signal.SIGTERM)


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
    raises  Interrupted on a signal, also where SIGTERM let the command end by itself; RftError where a process of the
            run died, where a hang ends it, or where alive() turned False and the command did not end by itself
    """
    metrics_file = Path(env.get("METRICS_LOG_DIR") or log_path.parent) / runs.METRICS_FILE
    attendant = Attendant(metrics_file, command, env, progress.say)  # before it: what is in the file now is old
    with open(log_path, "ab") as log:
        child = family.start(command, env, cwd, log)
    tail = Tail(log_path, verbose)
    start = time.monotonic()
    deaths = Deaths(family.members, log_path)
    lost: float | None = None
    with Stopping(env, attendant.watchdog.trained, progress.say) as stopping, contextlib.closing(deaths):
        while child.poll() is None:
            attendant.poll()
            _show(progress, tail, verbose, start)
            stopping.check()
            if lost is None and not alive():
                lost = time.monotonic()
            if deaths.overdue() is not None:
                raise RftError(deaths.cause(None))
            if lost is not None and time.monotonic() - lost > LOST_HEAD_S:
                raise RftError(
                    deaths.cause(None)
                    or "the run's Ray head died and the training process hangs without it: see the ray/ logs"
                )
            deaths.wait(POLL_S)
        progress.poll()
        tail.poll()
        stopping.check()
        if stopping.asked_at is not None and child.returncode != 0:
            raise Interrupted(signal.SIGTERM)
        cause = deaths.cause(child.returncode) if child.returncode != 0 else None
        if cause is not None:
            raise RftError(cause)
        return child.returncode


def _show(progress: Progress, tail: Tail, verbose: bool, start: float) -> None:
    tail.poll()
    progress.poll()
    if not progress.started and not verbose:
        progress.status(f"starting engines and models … {time.monotonic() - start:.0f} s")
