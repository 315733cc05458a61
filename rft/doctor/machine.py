"""The machine's part in a run's trouble: OOM kills, GPUs, disks, memory. Reads only; what cannot be read says why."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import psutil

_KILLED = re.compile(r"[Kk]illed process (\d+) \(([^)]*)\)|oom-kill:.*task=([^,]+),pid=(\d+)")
_CGROUP_EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
GPU_FIELDS = (
    "index,name,memory.used,memory.total,utilization.gpu,temperature.gpu,power.draw,"
    "ecc.errors.uncorrected.volatile.total"
)


def command(words: list[str], timeout_s: float = 10.0) -> tuple[str, str | None]:
    """(what it printed, None) or ("", why there is nothing)."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, errors="replace", check=False)
    except FileNotFoundError:
        return "", f"{words[0]} is not installed"
    except subprocess.TimeoutExpired:
        return "", f"{words[0]} did not answer within {timeout_s:.0f} s"
    if done.returncode != 0:
        return "", f"{words[0]}: {(done.stderr or done.stdout).strip()[:200] or f'exit status {done.returncode}'}"
    return done.stdout, None


def kernel_log() -> tuple[str, str | None]:
    return command(["dmesg", "--time-format", "iso"], 5.0)


def oom_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if _KILLED.search(line)]


def oom_kill_of(pid: int) -> str | None:
    """The kernel's line on killing that process for memory; None where there is none or dmesg is not allowed."""
    for line in reversed(oom_lines(kernel_log()[0])):
        found = _KILLED.search(line)
        if str(pid) in (found[1], found[4]):
            return line.strip()[:200]
    return None


def cgroup_oom_kills() -> int | None:
    """How many processes of this container were killed for memory since it started; readable without rights."""
    for path in _CGROUP_EVENTS:
        with contextlib.suppress(OSError):
            for line in Path(path).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return None


def gpus() -> tuple[str, str | None]:
    """nvidia-smi's table and the processes on the cards."""
    cards, problem = command(["nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv"])
    if problem:
        return "", problem
    used = command(["nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory", "--format=csv"])[0]
    xids = [line for line in kernel_log()[0].splitlines() if "NVRM: Xid" in line]
    return "\n".join([cards, used, *xids[-20:]]), None


def disks(paths: list[Path]) -> dict[str, dict]:
    """Bytes free and in all of the file systems that `paths` lie on (the nearest part of each that exists)."""
    found = {}
    for path in paths:
        there = next((p for p in [path, *path.parents] if p.exists()), None)
        if there is not None:
            usage = shutil.disk_usage(there)
            found[str(path)] = {
                "free": usage.free,
                "total": usage.total,
                "free_share": round(usage.free / usage.total, 4),
            }
    return found


def memory() -> dict:
    """Bytes; load: the averages of 1, 5 and 15 minutes."""
    virtual = psutil.virtual_memory()
    found = {"available": virtual.available, "total": virtual.total, "swap_used": psutil.swap_memory().used}
    return {
        **found,
        "load": list(psutil.getloadavg()),
        "cpus": psutil.cpu_count(),
        "cgroup_oom_kills": cgroup_oom_kills(),
    }
