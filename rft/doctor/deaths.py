"""Who died first: the processes that a run cannot do without, watched by the kernel's own word.

`Deaths` belongs to the launcher's main thread. Each essential process is held by a pidfd (pidfd_open(2)), which becomes
readable the moment it ends, whoever its parent is: so the order of deaths is known, and which came before the log's
first error. What follows a death (time-outs, broken pipes, Ray's and vLLM's own messages) takes long and names others.
Linux 5.3 or newer; elsewhere nothing is watched.
"""

import os
import re
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from rft import runlog
from rft.doctor import machine, roles
from rft.doctor.roles import Member

LOOK_S = 2.0  # between looks for new processes
TOGETHER_S = 0.05  # deaths so near one another that the order of notice says nothing
LINGER_S = 20.0  # after an essential process has gone the run gets this long to say so itself
# The main process's own traceback, or an error of this project's in any process: the deaths after it are its doing.
_TOLD = re.compile(rb"^Traceback \(most recent call last\)|rft\.errors\.RftError: ", re.M)
# Errors that a death brings about; a launcher that looks late, on a busy machine, finds them told already.
_FOLLOWS = re.compile(
    r"(ray\.exceptions\.)?(ActorDied|RayActor|ActorUnavailable|NodeDied|LocalRayletDied)Error|.*EngineDeadError"
)


@dataclass(frozen=True)
class Death:
    """time: monotonic; log_bytes: how long the run's log was then."""

    who: Member
    time: float
    log_bytes: int


class Deaths:
    """members: gives the run's living processes; log: its log file."""

    def __init__(self, members: Callable[[], Iterable[psutil.Process]], log: Path):
        self._members, self._log = members, Path(log)
        self._poll = select.poll()
        self._held: dict[int, Member] = {}  # by pidfd
        self._pids: dict[int, int] = {}
        self._looked = 0.0
        self.dead: list[Death] = []

    def wait(self, seconds: float) -> None:
        """Sleeps `seconds`, less where an essential process ends meanwhile."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._look()
        for handle, _ in self._poll.poll(seconds * 1000):
            who = self._held.pop(handle)
            self._poll.unregister(handle)
            os.close(handle)
            del self._pids[who.pid]
            size = self._log.stat().st_size if self._log.exists() else 0
            self.dead.append(Death(who, time.monotonic(), size))

    def close(self) -> None:
        for handle in self._held:
            os.close(handle)
        self._held.clear()

    def _look(self) -> None:
        self._looked = time.monotonic()
        if not hasattr(os, "pidfd_open"):
            return
        for process in self._members():
            who = roles.member(process)
            if who is None or who.role not in roles.ESSENTIAL:
                continue
            if who.pid in self._pids:
                self._held[self._pids[who.pid]] = who  # titles change as actors work
                continue
            try:
                handle = os.pidfd_open(who.pid)
            except OSError:
                continue  # gone between the look and now: it was never seen to work
            self._poll.register(handle, select.POLLIN)
            self._held[handle], self._pids[who.pid] = who, handle

    def first(self) -> Death | None:
        """The death that everything else followed from; None where there was none, or the log told of an error before.

        The training process's own end is the run's end: only what killed another process is found here.
        """
        together = self._together()
        return None if not together or self._told_before(together[0]) else together[0]

    def _together(self) -> list[Death]:
        """The first death and those that were noticed at once with it, which pulls the others along first."""
        found = [death for death in self.dead if death.who.role != roles.TRAINING]
        together = [death for death in found if death.time - found[0].time <= TOGETHER_S]
        return sorted(together, key=lambda death: roles.ESSENTIAL.index(death.who.role))

    def _told_before(self, death: Death) -> bool:
        """Did the log tell of the run's end already? Actors are taken down after that."""
        try:
            with open(self._log, "rb") as file:
                told = _TOLD.search(file.read(death.log_bytes)) is not None
        except OSError:
            return False
        return told and not _FOLLOWS.match(runlog.cause(self._log, 1))

    def overdue(self) -> Death | None:
        """A death that the run has not followed for `LINGER_S`: it hangs."""
        together = self._together()
        if not together or time.monotonic() - together[0].time <= LINGER_S:
            return None  # asked at every poll: the log is read only when it matters
        return self.first()

    def cause(self, returncode: int | None) -> str | None:
        """One line on the process that died first, with what the log says about it; None where none did.

        returncode  of the training process; None if it had to be ended
        """
        death = self.first()
        if death is None:
            return None
        oom = machine.oom_kill_of(death.who.pid)
        why = (
            "the kernel's OOM killer ended it: " + oom
            if oom
            else "killed from outside (SIGKILL, out of memory?) or crashed"
        )
        said = runlog.cause(self._log, 1) if returncode is not None else "the rest of the run hung without it"
        others = ", ".join(other.who.name for other in self._together()[1:])
        with_it = f" (at once with it: {others})" if others else ""
        return f"{death.who.name} died{with_it}, {why}; {said}"
