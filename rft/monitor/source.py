"""Where the files of a run are, and what is known of the run beside its metrics.

A run on its own machine is read where run.json says its files are; a copied folder has them inside. A folder without a
run.json will do if it holds a training_metrics.jsonl, at its top or in metrics/.
"""

import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from rft import runs
from rft.errors import RftError

LOG_TAIL_BYTES = 8_000


def table(value) -> dict:
    """The value if it is a dict, else {}: what stands in a file may be anything."""
    return value if isinstance(value, dict) else {}


@dataclass
class Source:
    """Paths of one run; they need not exist. `copied`: the folder is not where the run was made."""

    run_dir: Path
    metrics: Path
    samples: Path
    log: Path
    ckpt: Path
    copied: bool
    name: str = ""
    _read: tuple = field(default=(), repr=False)  # (mtime_ns, size, record) of run.json

    def record(self) -> dict:
        """run.json as it is now; {} where there is none. It is replaced whole, so a torn one is no run's: {} too."""
        try:
            found = os.stat(self.run_dir / runs.RUN_FILE)
            if self._read[:2] != (found.st_mtime_ns, found.st_size):
                value = json.loads((self.run_dir / runs.RUN_FILE).read_text(encoding="utf-8", errors="replace"))
                self._read = (found.st_mtime_ns, found.st_size, value if isinstance(value, dict) else {})
        except (OSError, ValueError, RecursionError):
            return {}
        return self._read[2]

    def here(self) -> bool:
        """The run was started on this machine, so that its processes, GPUs and disks can be looked at."""
        return not self.copied and table(self.record().get("machine")).get("host") == socket.gethostname()

    def log_state(self) -> tuple[float, str] | None:
        """(seconds since log.txt was last written, its last line); None where there is no log."""
        try:
            with open(self.log, "rb") as file:
                found = os.fstat(file.fileno())
                file.seek(max(0, found.st_size - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return None
        last = next((line for line in reversed(lines) if line.strip()), "")
        return max(0.0, time.time() - found.st_mtime), last


def open_run(reference: str) -> Source | None:
    """The run given by id, unique beginning, `last` or folder; None for `last` where there is no run yet.

    raises  RftError for anything else that is not there
    """
    path = Path(reference)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_folder(path.parent if path.name in (runs.RUN_FILE, runs.METRICS_FILE) else path)
    if reference == "last" and not any(runs.runs_dir().glob(f"*/{runs.RUN_FILE}")):
        return None
    return _of_folder(runs.find(reference))


def _of_folder(folder: Path) -> Source:
    if not folder.is_dir():
        raise RftError(f"{folder} is no run folder: give the folder that holds {runs.RUN_FILE}, or a run's id")
    folder = folder.resolve()
    source = Source(folder, folder, folder, folder, folder, copied=True, name=folder.name)
    record = source.record()
    named = {key: value for key, value in table(record.get("paths")).items() if isinstance(value, str)}
    source.copied = not _same(folder, named.get("run_dir"))
    source.name = str(record.get("id") or folder.name)

    def place(key: str, usual: str) -> Path:
        if not source.copied:
            return Path(named.get(key, folder / usual))
        inside = [folder / Path(named.get(key, usual)).name, folder / usual]
        return next((path for path in inside if path.exists()), inside[-1])

    source.metrics, source.samples = place("metrics", "metrics"), place("samples", "samples")
    source.log, source.ckpt = place("log", "log.txt"), place("ckpt", "ckpt")
    if not source.metrics.is_dir() and (folder / runs.METRICS_FILE).exists():
        source.metrics = folder
    return source


def _same(folder: Path, named: str | None) -> bool:
    try:
        return named is not None and os.path.samefile(folder, named)
    except OSError:
        return False


def status(source: Source) -> str:
    """``running``, ``finished``, ``failed``, ``interrupted``, or ``died``: it says running and its launcher is gone.

    ``running?`` where the launcher cannot be looked at from here, ``?`` without a run.json
    """
    record = source.record()
    found = str(record.get("status", "?"))
    if found != "running":
        return found
    if not source.here():
        return "running?"
    pid = record.get("pid")
    alive = isinstance(pid, int) and runs.process_start(pid) == record.get("pid_started")
    return "running" if alive else "died"
