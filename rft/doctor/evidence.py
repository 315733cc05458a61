"""What can be had of a run, living or dead: each kind by itself, so that what is missing leaves the rest standing.

`collect` runs the collectors in order and keeps a failed one's reason in its place. Main thread of ``rft doctor``.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rft import runlog, runs
from rft.checkpoints import auto
from rft.doctor import family, locks, machine, ray_state, stacks, waits_file
from rft.doctor.locks import Lock
from rft.doctor.stacks import Stacks

CPU_S = 0.5  # between two looks at the CPU time
LOG_BYTES = 200_000
METRICS_LINES = 20


@dataclass
class Evidence:
    """Everything, in plain values; stacks by pid."""

    folder: Path
    record: dict
    late: str | None = None
    status: str = "?"
    processes: list[dict] = field(default_factory=list)
    stacks: dict[int, Stacks] = field(default_factory=dict)
    actors: list[dict] = field(default_factory=list)
    waiting: dict | None = None
    metrics: list[dict] = field(default_factory=list)
    cause: str | None = None
    log_tail: str = ""
    kernel: list[str] = field(default_factory=list)
    gpus: str = ""
    disks: dict = field(default_factory=dict)
    memory: dict = field(default_factory=dict)
    locks: list[Lock] = field(default_factory=list)
    checkpoint: str | None = None
    problems: dict[str, str] = field(default_factory=dict)  # collector -> why it has nothing

    @property
    def id(self) -> str:
        return self.record.get("id") or self.folder.name

    def path(self, key: str) -> Path:
        return Path(self.record.get("paths", {}).get(key) or self.folder / key)

    @property
    def log(self) -> Path:
        return Path(self.record.get("paths", {}).get("log") or self.folder / "log.txt")

    def last_step(self) -> int | None:
        steps = [line.get("step") for line in self.metrics if line.get("event") == "train"]
        return steps[-1] if steps else None


def _processes(found: Evidence) -> None:
    members = family.of_run(found.record)
    first = {one["pid"]: one["cpu_s"] for one in family.describe(members)}
    if members:
        time.sleep(CPU_S)
    found.processes = family.describe(members)
    for one in found.processes:
        one["cpu_share"] = round((one["cpu_s"] - first.get(one["pid"], one["cpu_s"])) / CPU_S, 2)
    found.record["gcs_address"] = family.gcs_address(members)
    found.status = runs.describe(found.folder)["status"]


def _stacks(found: Evidence) -> None:
    wanted = [one["pid"] for one in found.processes if one["role"] not in ("raylet", "Ray's GCS") and _is_python(one)]
    found.stacks = stacks.dump(wanted) if wanted else {}
    refused = [one.problem for one in found.stacks.values() if one.problem]
    if refused:
        found.problems["stacks"] = f"{len(refused)} of {len(wanted)} not to be had: {refused[0]}"


def _is_python(one: dict) -> bool:
    return bool(one["role"]) or "python" in one["title"]


def _ray(found: Evidence) -> None:
    address = found.record.get("gcs_address")
    if address:
        found.actors, problem = ray_state.actors(address)
        if problem:
            found.problems["ray"] = problem
    else:
        found.problems["ray"] = "the run has no Ray any more"


def _metrics(found: Evidence) -> None:
    lines = runs.metrics_lines(found.path("metrics") / runs.METRICS_FILE)
    found.metrics = lines[-METRICS_LINES:]
    waiting = waits_file.read(found.path("metrics"))
    found.waiting = waiting if waiting and waiting.get("run") in (None, found.id) and found.processes else None


def _log(found: Evidence) -> None:
    if found.log.is_file():
        with open(found.log, "rb") as file:
            file.seek(max(0, found.log.stat().st_size - LOG_BYTES))
            found.log_tail = file.read().decode("utf-8", "replace")
        if found.status not in ("running", "finished"):
            found.cause = found.record.get("error") or runlog.cause(found.log, 1)
    else:
        found.problems["log"] = f"{found.log} is not there"


def _machine(found: Evidence) -> None:
    text, problem = machine.kernel_log()
    found.kernel = machine.oom_lines(text)
    if problem:
        found.problems["kernel log"] = problem
    found.gpus, problem = machine.gpus()
    if problem:
        found.problems["GPUs"] = problem
    paths = [found.path(key) for key in ("run_dir", "ckpt", "metrics", "samples")]
    found.disks = machine.disks([*paths, Path("/tmp"), Path("/dev/shm")])
    found.memory = machine.memory()


def _locks(found: Evidence) -> None:
    env = {**found.record.get("environment", {})}
    for one in found.processes:
        if one["role"]:
            pairs = Path(f"/proc/{one['pid']}/environ").read_bytes().split(b"\0")
            env |= dict(pair.decode(errors="replace").split("=", 1) for pair in pairs if b"=" in pair)
            break
    found.locks = locks.find(locks.folder(env))


def _checkpoint(found: Evidence) -> None:
    whole, wrong = auto.whole(found.path("ckpt"))
    found.checkpoint = whole.name if whole else None
    if wrong:
        found.problems["checkpoints"] = "; ".join(wrong)


COLLECTORS: dict[str, Callable[[Evidence], None]] = {
    "processes": _processes,
    "stacks": _stacks,
    "ray": _ray,
    "metrics": _metrics,
    "log": _log,
    "machine": _machine,
    "locks": _locks,
    "checkpoints": _checkpoint,
}


def collect(folder: Path, late: str | None = None, done: Callable[[str], None] = lambda name: None) -> Evidence:
    """late: what the watchdog said; done: called after each collector, for a bar."""
    found = Evidence(folder, runs.read_json(folder / runs.RUN_FILE), late)
    for name, collector in COLLECTORS.items():
        try:
            collector(found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            found.problems[name] = f"{type(error).__name__}: {error}"[:300]
        done(name)
    return found


def as_json(found: Evidence) -> str:
    """All but the stacks and the log, which are files of their own."""
    left_out = ("stacks", "log_tail", "record", "folder", "metrics", "gpus")
    plain = {key: value for key, value in vars(found).items() if key not in left_out}
    return json.dumps(plain, indent=1, default=str)
