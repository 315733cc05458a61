"""Who keeps the run waiting: rules over the evidence, the surest first, and one paragraph that names process and frame.

A rule looks for one kind of trouble and returns a `Guilty` or None. Pure functions.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rft.doctor import family, roles
from rft.doctor.evidence import Evidence
from rft.doctor.stacks import Frame, Thread

# Where a thread stands when it has nothing to do, or waits for another: (function, end of the file's path)
_IDLE = (
    ("_worker", "concurrent/futures/thread.py"),
    ("select", "selectors.py"),
    ("wait", "threading.py"),
    ("main_loop", "ray/_private/worker.py"),
    ("get_objects", "ray/_private/worker.py"),
    ("get", "ray/_private/worker.py"),
    ("wait", "ray/_private/worker.py"),
)
_COLLECTIVE = ("torch/distributed/distributed_c10d.py", "deepspeed/comm/", "torch/distributed/c10d_logger.py")
_SAMPLING = "answers of the engines"


@dataclass(frozen=True)
class Guilty:
    """pid: None where it is no process; frame: where it stands, if a stack was to be had; why: in words."""

    who: str
    why: str
    pid: int | None = None
    frame: str | None = None


def _stands(thread: Thread | None) -> str | None:
    """The innermost frame outside of Python's own library, and the caller of it that is nobody's library."""
    if thread is None or not thread.frames:
        return None
    outer = [frame for frame in thread.frames if not _is_python(frame)] or list(thread.frames)
    own = next((f for f in outer if "/site-packages/" not in f.file and not f.file.startswith("<")), outer[0])
    return str(own) if own is outer[0] else f"{outer[0]}, called from {own}"


def _is_python(frame: Frame) -> bool:
    return "/lib/python3" in frame.file and "/site-packages/" not in frame.file


def _is_idle(thread: Thread) -> bool:
    frame = thread.frames[0] if thread.frames else None
    return frame is None or any(frame.function == name and frame.file.endswith(end) for name, end in _IDLE)


def _in_collective(thread: Thread | None) -> bool:
    return thread is not None and any(part in f.file for f in thread.frames for part in _COLLECTIVE)


def _main(found: Evidence, pid: int) -> Thread | None:
    return found.stacks[pid].main() if pid in found.stacks else None


def _of(found: Evidence, role: str) -> list[dict]:
    return [one for one in found.processes if one["role"] == role]


def _accuse(found: Evidence, one: dict, why: str, thread: Thread | None = None) -> Guilty:
    return Guilty(family.name(one), why, one["pid"], _stands(thread or _main(found, one["pid"])))


def ended(found: Evidence) -> Guilty | None:
    if found.status in ("running", "finished") or found.cause is None:
        return None
    alive = [family.name(one) for one in found.processes if one["role"] not in ("", roles.LAUNCHER)]
    left = f"; still alive of it: {', '.join(alive)}" if alive else ""
    return Guilty("the run", f"has ended ({found.status}): {found.cause}{left}")


def dead_actor(found: Evidence) -> Guilty | None:
    for actor in found.actors:
        if actor["state"] == "DEAD" and "INTENDED" not in (actor["death_cause"] or ""):
            role = roles.role_of([f"ray::{actor['class'].split('(')[0]}"]) or actor["class"]
            return Guilty(
                f"{role} (pid {actor['pid']})", f"is dead: {actor['death_cause'] or 'Ray names no cause'}", actor["pid"]
            )
    return None


def missing(found: Evidence) -> Guilty | None:
    """A run with a training process, but without its Ray or an engine's core."""
    if found.status != "running" or not _of(found, roles.TRAINING):
        return None
    for role, needs in (("raylet", roles.CONTROLLER), ("Ray's GCS", roles.CONTROLLER), (roles.CORE, roles.ENGINE)):
        if not _of(found, role) and _of(found, needs) and found.metrics:
            return Guilty(f"the {role}", f"is gone, and {family.name(_of(found, needs)[0])} waits for it")
    return None


def stopped(found: Evidence) -> Guilty | None:
    for one in found.processes:
        if one["state"] in ("T", "t") and one["role"]:
            word = "was stopped (SIGSTOP)" if one["state"] == "T" else "is held by a debugger"
            return _accuse(found, one, f"{word}: kill -CONT {one['pid']} lets it go on")
    return None


def stale_lock(found: Evidence) -> Guilty | None:
    for one in found.processes:
        thread = _main(found, one["pid"])
        if thread and any(f.file.endswith("torch/utils/file_baton.py") for f in thread.frames):
            stale = [lock.path for lock in found.locks if lock.holder is None]
            if stale:
                return _accuse(found, one, f"waits for a lock that no living process holds: rm {stale[0]}", thread)
            held = [f"pid {lock.holder} holds {lock.path}" for lock in found.locks]
            return _accuse(found, one, f"waits for another's compiler ({held[0] if held else 'its lock'})", thread)
    return None


def reward(found: Evidence) -> Guilty | None:
    """A reward thread at work while no engine has a request left, or while the engines' cores are idle."""
    said = (found.waiting or {}).get("engines") or []
    counts = [one.get("unfinished_requests") for one in said]
    busy_cores = [one for one in _of(found, roles.CORE) if one.get("cpu_share", 0) > 0.05]
    if any(counts) or (not counts and busy_cores):
        return None
    for one in _of(found, roles.ENGINE):
        for thread in found.stacks[one["pid"]].threads if one["pid"] in found.stacks else ():
            if thread.name.startswith("reward") and not _is_idle(thread):
                return _accuse(found, one, f"its reward has not returned (thread {thread.name})", thread)
    return None


def waits_for_device(found: Evidence) -> Guilty | None:
    for one in found.processes:
        if one["state"] == "D" and one["role"] and one.get("cpu_share", 0) == 0:
            return _accuse(
                found, one, f"waits in the kernel for a disk, a network file system or a driver ({one['wchan'] or '?'})"
            )
    return None


def out_of_step(found: Evidence) -> Guilty | None:
    """Of several actor ranks the one that is not where the others wait for it."""
    for role in (roles.ACTOR, "reference actor", roles.WORKER):
        ranks = [one for one in _of(found, role) if _main(found, one["pid"])]
        waiting = [one for one in ranks if _in_collective(_main(found, one["pid"]))]
        others = [one for one in ranks if one not in waiting]
        if waiting and len(others) == 1:
            return _accuse(found, others[0], f"{len(waiting)} other rank(s) wait for it in a collective")
    return None


def awaited(found: Evidence) -> Guilty | None:
    """Whoever the controller says that it waits for."""
    what = (found.waiting or {}).get("what", "")
    if not what:
        return None
    said = (found.waiting or {}).get("engines") or []
    deaf = [number for number, one in enumerate(said) if "error" in one]
    chosen = [roles.CORE, roles.ENGINE] if _SAMPLING in what or "engine" in what else [roles.ACTOR, roles.CORE]
    if deaf:
        chosen = [roles.ENGINE, roles.CORE]
    for role in chosen:
        for one in _of(found, role):
            return _accuse(
                found,
                one,
                f"the controller has waited {found.waiting['time'] - found.waiting['since']:.0f} s for {what}",
            )
    return None


def working(found: Evidence) -> Guilty | None:
    """Nobody named: the busiest process of the run."""
    named = [one for one in found.processes if one["role"] in roles.ESSENTIAL and one.get("cpu_share", 0) > 0.2]
    if named:
        one = max(named, key=lambda one: one["cpu_share"])
        return _accuse(found, one, f"is the busiest ({one['cpu_share']:.1f} CPUs): slow rather than stuck, perhaps")
    return None


RULES: tuple[Callable[[Evidence], Guilty | None], ...] = (
    ended,
    dead_actor,
    missing,
    stopped,
    stale_lock,
    reward,
    waits_for_device,
    out_of_step,
    awaited,
    working,
)


def guilty(found: Evidence) -> Guilty | None:
    return next((accused for rule in RULES if (accused := rule(found)) is not None), None)


def paragraph(found: Evidence, accused: Guilty | None) -> str:
    """The verdict: who, why, where it stands, and what is known around it."""
    step = found.last_step()
    parts = [f"{found.id}, {'no step' if step is None else f'step {step}'} finished"]
    parts[0] += f": {found.late}." if found.late else "."
    if accused is None and found.status == "finished":
        parts.append("The run came to its end: nobody is to blame.")
    elif accused is None:
        parts.append("Nothing stands out: no process is dead, stopped or waited for; compare the stacks.")
    else:
        parts.append(
            f"{accused.who[0].upper()}{accused.who[1:]} {accused.why}"
            + (f"; it stands in {accused.frame}." if accused.frame else ".")
        )
    if found.kernel:
        parts.append(f"The kernel killed for memory: {found.kernel[-1].strip()[:160]}.")
    full = [path for path, disk in found.disks.items() if disk["free_share"] < 0.01]
    if full:
        parts.append(f"Under 1 % free: {', '.join(full)}.")
    stale = [str(lock.path) for lock in found.locks if lock.holder is None]
    if stale and (accused is None or stale[0] not in accused.why):
        parts.append(f"Stale lock: {stale[0]}.")
    if found.status != "finished":
        parts.append(
            f"Last whole checkpoint: {found.checkpoint}; continue with --resume {found.id}."
            if found.checkpoint
            else "There is no whole checkpoint."
        )
    return " ".join(parts)
