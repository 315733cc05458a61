"""The processes of a run, found without its launcher: descendants of the pid in run.json, and whoever carries its id.

The run's id stands in the environment of everything that the launcher started (RFT_RUN_ID), also where a process lost
its parent: an orphan of a dead run is found by it. Processes of other users are not seen. Linux.
"""

import contextlib
import re
from pathlib import Path

import psutil

from rft import runs
from rft.doctor import roles
from rft.doctor.roles import Member

_GCS = re.compile(r"--gcs-address=(\S+)")


def of_run(record: dict) -> list[psutil.Process]:
    """Living processes of a run, the launcher first; record: its run.json."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        launcher = psutil.Process(record.get("pid") or -1)
        if runs.process_start(launcher.pid) == record.get("pid_started"):
            found = {process.pid: process for process in [launcher, *launcher.children(recursive=True)]}
    mark = f"RFT_RUN_ID={record.get('id')}".encode()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if process.pid not in found and mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found[process.pid] = process
    mine = {psutil.Process().pid, *(parent.pid for parent in psutil.Process().parents())}
    return [
        process for pid, process in found.items() if _alive(process) and (pid not in mine or pid == record.get("pid"))
    ]


def describe(processes: list[psutil.Process]) -> list[dict]:
    """pid, role, title, state (a letter of proc(5): R S D T Z), wchan, CPU seconds, RSS, threads."""
    found = []
    for process in processes:
        who = roles.member(process)
        if who is None:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            times = process.cpu_times()
            found.append(
                {
                    "pid": who.pid,
                    "ppid": process.ppid(),
                    "role": who.role,
                    "title": who.title[:200],
                    "state": state(who.pid),
                    "wchan": _read(f"/proc/{who.pid}/wchan"),
                    "cpu_s": round(times.user + times.system, 2),
                    "rss_bytes": process.memory_info().rss,
                    "threads": process.num_threads(),
                    "started": process.create_time(),
                }
            )
    return found


def name(described: dict) -> str:
    return Member(described["pid"], described["role"], described["title"]).name


def gcs_address(processes: list[psutil.Process]) -> str | None:
    """host:port of the run's own Ray, from its raylet's command line; None where it has none."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            found = _GCS.search(" ".join(process.cmdline()))
            if found:
                return found[1]
    return None


def state(pid: int) -> str:
    """R runs, S waits, D waits for a device, T was stopped, t is traced, Z is dead."""
    return (_read(f"/proc/{pid}/stat").rpartition(")")[2].split() or ["?"])[0]


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return ""
