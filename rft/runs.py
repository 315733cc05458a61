"""Run folders: where every file of a run lives, what ``run.json`` holds, and ``rft runs``.

The one home of the run layout. A run folder ``runs/<id>/`` is made once, before anything starts, and never written
over; ``run.json`` is replaced atomically at the start and at the end of the run. Large outputs go elsewhere where such
disks exist: checkpoints under ``/mnt/data/rft/<id>/``, metrics, samples and log under ``/mnt/scratch/rft/<id>/``;
run.json names the real paths. The environment overrides: RFT_RUNS_DIR (then everything stays below it),
METRICS_LOG_DIR, SAMPLES_LOG_DIR, RFT_CKPT_DIR, RFT_SAVE_DIR, RFT_LOG_FILE.

Called by the launcher (which alone writes) and by every reader of runs. Times are unix seconds.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import secrets
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rft.errors import RftError

REPO = Path(__file__).resolve().parent.parent
DATA_DISK = Path("/mnt/data")
SCRATCH_DISK = Path("/mnt/scratch")
METRICS_FILE = "training_metrics.jsonl"
RUN_FILE = "run.json"
PLACEHOLDER = "<id>"  # stands for the run's id in a dry run


@dataclass(frozen=True)
class Paths:
    """Every path of a run; ``run_dir`` holds run.json, resources.json and summary.json."""

    run_dir: str
    log: str
    metrics: str
    samples: str
    ckpt: str
    save: str

    @property
    def metrics_file(self) -> Path:
        return Path(self.metrics) / METRICS_FILE


def runs_dir() -> Path:
    """The parent of all run folders: $RFT_RUNS_DIR, else runs/ in the repository."""
    return Path(os.environ.get("RFT_RUNS_DIR") or REPO / "runs")


def new_id(name: str) -> str:
    """``<name>-<UTC yyyymmdd-hhmmss>-<4 hex>``."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise RftError(f"--name {name!r} cannot name a folder: use letters, digits, dot, dash, underscore")
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return f"{name}-{stamp}-{secrets.token_hex(2)}"


def layout(run_id: str) -> Paths:
    """The paths a run with this id gets under the present environment and disks; makes nothing."""
    env = os.environ.get
    run_dir = runs_dir() / run_id
    fixed = bool(env("RFT_RUNS_DIR"))
    large = DATA_DISK / "rft" / run_id if DATA_DISK.is_dir() and not fixed else run_dir
    quick = SCRATCH_DISK / "rft" / run_id if SCRATCH_DISK.is_dir() and not fixed else run_dir
    return Paths(
        run_dir=str(run_dir),
        log=env("RFT_LOG_FILE") or str(quick / "log.txt"),
        metrics=env("METRICS_LOG_DIR") or str(quick / "metrics"),
        samples=env("SAMPLES_LOG_DIR") or str(quick / "samples"),
        ckpt=env("RFT_CKPT_DIR") or str(large / "ckpt"),
        save=env("RFT_SAVE_DIR") or str(large / "final"),
    )


def write_json(path: Path, value: dict) -> None:
    """Replaces the file whole: a reader sees the old content or the new one, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def read_json(path: Path) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RftError(f"{path} cannot be read ({err}): is this a run folder?") from err


class Run:
    """A run that this process writes: made by :func:`new_run`."""

    def __init__(self, run_id: str, paths: Paths, record: dict):
        self.id, self.paths, self.record = run_id, paths, record

    @property
    def dir(self) -> Path:
        return Path(self.paths.run_dir)

    def update(self, **fields) -> None:
        self.record.update(fields)
        write_json(self.dir / RUN_FILE, self.record)

    def finish(self, status: str, exit_code: int, error: str | None = None) -> None:
        """status: finished | failed | interrupted."""
        self.update(status=status, exit_code=exit_code, error=error, end=time.time())


def new_run(run_id: str, name: str, paths: Paths, record: dict) -> Run:
    """Makes the run's folders and writes run.json with status ``running``.

    paths   of :func:`layout`; the launcher replaces some (a continued run's, or those of --ckpt_path and --save_path)
    record  what the launcher knows: command, argv, commit, versions, … (id, status, times and paths are added here)
    raises  RftError where a folder cannot be made or exists already
    """
    made_by = {"pid": os.getpid(), "pid_started": process_start(os.getpid())}
    full = {"id": run_id, "name": name, "status": "running", "start": time.time(), "end": None, "exit_code": None}
    full |= {"error": None, **made_by, "paths": asdict(paths), **record}
    run = Run(run_id, paths, full)
    try:
        run.dir.mkdir(parents=True)
        for folder in (paths.metrics, paths.samples, paths.ckpt, str(Path(paths.log).parent)):
            Path(folder).mkdir(parents=True, exist_ok=True)
        run.update()
    except FileExistsError as err:
        raise RftError(f"{err.filename} exists already: a run folder is never written over, start again") from err
    except OSError as err:
        where = err.filename or paths.run_dir
        raise RftError(f"cannot make {where} ({err.strerror}): make its parent writable or set RFT_RUNS_DIR") from err
    return run


def process_start(pid: int) -> int | None:
    """Start time in clock ticks since boot (field 22 of /proc/PID/stat): with it a pid is unique on a boot."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def find(reference: str) -> Path:
    """The folder of a run given by id, by a unique beginning of it, by ``last`` or by path."""
    path = Path(reference)
    if (path / RUN_FILE).is_file():
        return path
    names = sorted(folder.name for folder in _folders())
    if reference == "last" and names:
        return max(_folders(), key=lambda folder: read_json(folder / RUN_FILE).get("start") or 0)
    hits = [name for name in names if name.startswith(reference)]
    if reference in names or len(hits) == 1:
        return runs_dir() / (reference if reference in names else hits[0])
    several = f"several runs begin so ({', '.join(hits[:3])}, …)" if hits else f"no such run in {runs_dir()}"
    raise RftError(f"run {reference!r}: {several}; list them with: rft runs")


def _folders() -> list[Path]:
    return [file.parent for file in runs_dir().glob(f"*/{RUN_FILE}")]


def metrics_lines(path: Path) -> list[dict]:
    """Whole JSON objects of a JSONL file; torn or foreign lines are left out. [] where there is no file."""
    lines = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    lines.append(value)
    return lines


def describe(folder: Path) -> dict:
    """One line of ``rft runs``: id, status, steps, total_steps, reward (last), duration_s, error."""
    record = read_json(folder / RUN_FILE)
    metrics = Path(record.get("paths", {}).get("metrics", folder / "metrics")) / METRICS_FILE
    train = [line for line in metrics_lines(metrics) if line.get("event") == "train"]
    last = train[-1] if train else {}
    status, end = record.get("status", "?"), record.get("end")
    if status == "running" and process_start(record.get("pid", -1)) != record.get("pid_started"):
        status = "interrupted"  # the launcher is gone without having said so: SIGKILL, power, another machine
        end = last.get("time") or record.get("start")
    start = record.get("start")
    return {
        "id": record.get("id", folder.name),
        "status": status,
        "steps": last.get("step", 0),
        "total_steps": last.get("total_steps"),
        "reward": last.get("reward_mean"),
        "duration_s": round((end or time.time()) - start, 1) if start else None,
        "error": record.get("error"),
    }


def duration(seconds: float | None) -> str:
    """``4m05s``, ``2h03m``; ``-`` for None."""
    if seconds is None:
        return "-"
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


def _table(rows: list[dict]) -> str:
    head = ("run", "status", "step", "reward", "time")
    cells = [head]
    for row in rows:
        step = f"{row['steps']}/{row['total_steps']}" if row["total_steps"] else str(row["steps"])
        reward = "-" if row["reward"] is None else f"{row['reward']:.3f}"
        cells.append((row["id"], row["status"], step, reward, duration(row["duration_s"])))
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def main(argv: list[str]) -> int:
    """``rft runs [list | show RUN] [--json]``."""
    parser = argparse.ArgumentParser(prog="rft runs", description="Lists the runs, oldest first, or shows one.")
    parser.add_argument("action", nargs="?", default="list", choices=("list", "show"))
    parser.add_argument("run", nargs="?", help="for show: an id, a unique beginning of one, `last`, or a path")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    args = parser.parse_args(argv)
    if args.action == "show":
        if not args.run:
            raise RftError("rft runs show: which run? give an id, or `last`")
        folder = find(args.run)
        print(json.dumps({**read_json(folder / RUN_FILE), "state": describe(folder)}, indent=1))
        return 0
    folders = sorted(_folders(), key=lambda folder: read_json(folder / RUN_FILE).get("start") or 0)
    rows = [describe(folder) for folder in folders]
    if args.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        print(_table(rows))
    else:
        print(f"no runs in {runs_dir()}", file=sys.stderr)
    return 0
