"""State of this machine's GPUs (nvidia-smi, where present) and of the disks that a run writes to.

nvidia-smi takes up to a second of a core, so it is asked by a thread, once in `GPU_EVERY_S` at most.
"""

import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

GPU_EVERY_S = 60.0
TIMEOUT_S = 20.0
_FIELDS = "index,utilization.gpu,memory.used,memory.total,temperature.gpu"


@dataclass(frozen=True)
class Gpu:
    """use 0 to 100 %, memory in MiB, temperature in °C; None where the device does not say."""

    index: int
    use: float | None
    used_mib: float | None
    total_mib: float | None
    celsius: float | None


def parse_gpus(text: str) -> list[Gpu]:
    """Lines of ``nvidia-smi --query-gpu=… --format=csv,noheader,nounits``; a field like ``[N/A]`` is None."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(_FIELDS.split(",")) and cells[0].isdigit():
            found.append(Gpu(int(cells[0]), *map(_number, cells[1:])))
    return found


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


class Gpus:
    """The last answer of nvidia-smi; asking happens beside the caller."""

    def __init__(self, every_s: float = GPU_EVERY_S):
        self.every_s = every_s
        self.program = shutil.which("nvidia-smi")
        self.devices: list[Gpu] = []
        self.error: str | None = None
        self._asked = -every_s
        self._thread: threading.Thread | None = None

    def poll(self, wait_s: float = 0.0) -> None:
        """Ask again if it is time; wait_s: how long to wait for the answer."""
        if self.program is None:
            return
        if time.monotonic() - self._asked >= self.every_s and not (self._thread and self._thread.is_alive()):
            self._asked = time.monotonic()
            self._thread = threading.Thread(target=self._ask, name="nvidia-smi", daemon=True)
            self._thread.start()
        if wait_s and self._thread:
            self._thread.join(wait_s)

    def _ask(self) -> None:
        command = [self.program, f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as err:
            self.devices, self.error = [], f"nvidia-smi: {type(err).__name__}"
            return
        self.devices = parse_gpus(done.stdout)
        lines = (done.stdout + done.stderr).strip().splitlines()
        self.error = None if self.devices else f"nvidia-smi: {lines[-1] if lines else f'exit status {done.returncode}'}"


def gpu_line(devices: list[Gpu]) -> str:
    """``8 GPUs  use 12-99 %  memory 61.0-79.2 of 80.0 GiB  up to 71 °C``."""
    parts = [f"{len(devices)} GPU{'s' if len(devices) > 1 else ''}"]
    use = [gpu.use for gpu in devices if gpu.use is not None]
    used = [gpu.used_mib / 1024 for gpu in devices if gpu.used_mib is not None]
    total = [gpu.total_mib / 1024 for gpu in devices if gpu.total_mib is not None]
    heat = [gpu.celsius for gpu in devices if gpu.celsius is not None]
    parts += [f"use {_span(use, '.0f')} %"] if use else []
    parts += [f"memory {_span(used, '.1f')} of {_span(total, '.1f')} GiB"] if used and total else []
    parts += [f"up to {max(heat):.0f} °C"] if heat else []
    return "  ".join(parts)


def _span(values: list[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}-{high}"


@dataclass(frozen=True)
class Disk:
    """A file system that holds some of the run's folders (`names`); bytes."""

    names: tuple[str, ...]
    free: int
    total: int

    @property
    def low(self) -> bool:
        """Under 20 GB and under 5 % free."""
        return self.free < min(20e9, 0.05 * self.total)


def disks(folders: dict[str, Path]) -> list[Disk]:
    """The file systems of those folders that exist, each once."""
    by_device: dict[int, tuple[list[str], os.statvfs_result]] = {}
    for name, folder in folders.items():
        try:
            device, space = os.stat(folder).st_dev, os.statvfs(folder)
        except OSError:
            continue
        by_device.setdefault(device, ([], space))[0].append(name)
    return [
        Disk(tuple(names), space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize)
        for names, space in by_device.values()
    ]
