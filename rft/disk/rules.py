"""What may be deleted, by rule, and how. Nothing of a run that is under way, and never a run's newest whole checkpoint.

A rule is a function of the inventory that returns proposals; `remove` takes one away so that an interruption leaves
nothing that looks whole. Main thread.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft import runs
from rft.checkpoints import best as best_link
from rft.disk import inventory
from rft.disk.inventory import RunUse
from rft.disk.usage import Counter
from rft.disk.whole import verify
from rft.errors import RftError

UNDER_WAY = ("running",)


@dataclass(frozen=True)
class Proposal:
    """bytes: what its removal frees; why: in words, for the user."""

    rule: str
    path: Path
    bytes: int
    why: str


@dataclass(frozen=True)
class Options:
    """keep: newest whole checkpoints of each run that stay; older_days: what is younger stays."""

    keep: int = 1
    older_days: float = 0.0


def half(found: Sequence[RunUse], options: Options) -> list[Proposal]:
    return [
        Proposal("half", part.path, part.bytes, f"{run.id} is {run.status}: a save that was cut off")
        for run in _ended(found, options)
        for part in run.of("half")
    ]


def shards(found: Sequence[RunUse], options: Options) -> list[Proposal]:
    return [
        Proposal("shards", part.path, part.bytes, f"{run.id} trains an adapter: a full-model file does not belong")
        for run in _ended(found, options)
        for part in run.of("shards")
    ]


def checkpoints(found: Sequence[RunUse], options: Options) -> list[Proposal]:
    """All but the newest whole ones and the best by evaluation; a run without a whole one is left alone."""
    proposals: list[Proposal] = []
    for run in _ended(found, options):
        parts = sorted(run.of("checkpoint"), key=lambda part: part.step, reverse=True)
        if len(parts) <= options.keep or run.status == "gone":
            continue
        whole = [part for part in parts if verify(part.path) is None]
        best = best_step(run.id)
        kept = {part.path for part in whole[: options.keep]} | {part.path for part in parts if part.step == best}
        kept |= {best_link.kept(folder) for folder in {part.path.parent for part in parts}} - {None}
        if whole:
            newest = whole[0].path.name
            why = f"{run.id} is {run.status}; {newest} stays" + (f", and the best, step {best}" if best else "")
            proposals += [Proposal("checkpoints", p.path, p.bytes, why) for p in parts if p.path not in kept]
    return proposals


def merged(found: Sequence[RunUse], options: Options) -> list[Proposal]:
    folder = inventory.merged_models()
    proposals = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        age = inventory.age_days(inventory.used(path)) if path.is_dir() and not path.is_symlink() else 0.0
        if path.is_dir() and not path.is_symlink() and age >= max(options.older_days, 1.0):
            why = f"unchanged for {age:.0f} days; rft export makes it again"
            proposals.append(Proposal("merged", path, Counter().tree(path), why))
    return proposals


def gone(found: Sequence[RunUse], options: Options) -> list[Proposal]:
    """Whole folders on the data disks whose run.json is gone; only where asked for by name."""
    tops = [(run, disk / "rft" / run.id) for run in found for disk in (runs.DATA_DISK, runs.SCRATCH_DISK)]
    return [
        Proposal("gone", top, Counter().tree(top), "no run.json names it any more")
        for run, top in tops
        if run.status == "gone" and top.is_dir()
    ]


# name: (rule, what it says in --help, part of a plain --prune)
RULES: dict[str, tuple[Callable[[Sequence[RunUse], Options], list[Proposal]], str, bool]] = {
    "half": (half, "saves that were cut off", True),
    "shards": (shards, "full-model files in runs that train an adapter", True),
    "checkpoints": (checkpoints, "all but the newest whole and the best by evaluation, of runs that have ended", True),
    "merged": (merged, "cached merged models, unchanged for --older days (at least 1)", False),
    "gone": (gone, "folders on the data disks whose run.json is gone", False),
}


def _ended(found: Sequence[RunUse], options: Options) -> list[RunUse]:
    """Runs that are over, for at least so long; not one whose checkpoint folder a running one writes into."""
    busy = {part.path.parent for run in found if run.status in UNDER_WAY for part in run.parts}
    return [
        run
        for run in found
        if run.status not in UNDER_WAY
        and inventory.age_days(run.end) >= options.older_days
        and not any(part.path.parent in busy for part in run.parts if part.kind in ("checkpoint", "half", "shards"))
    ]


def best_step(run: str) -> int | None:
    """Step of the highest accuracy, the earliest of equals; of greedy evaluations where there are any."""
    from rft.evals import of_run

    lines = runs.metrics_lines(of_run.folders(runs.find(run))["metrics"] / runs.METRICS_FILE)
    accuracy = best_link.scores(lines)
    return max(accuracy, key=lambda step: (accuracy[step], -step), default=None)


def remove(proposal: Proposal) -> None:
    """Renames a folder first, to a name that no reader takes for a checkpoint; a file is unlinked.

    raises  RftError: it is a link, or the system refuses; what is left is named
    """
    path = proposal.path
    if path.is_symlink():
        raise RftError(f"{path}: a link; what it leads to may serve others: delete it by hand")
    try:
        if path.is_dir():
            doomed = path if path.name.startswith(".") else path.with_name(f".{path.name}.old")
            if doomed != path:
                if doomed.exists():
                    shutil.rmtree(doomed)
                os.rename(path, doomed)
            shutil.rmtree(doomed)
        else:
            path.unlink()
    except OSError as err:
        raise RftError(f"{err.filename or path}: {err.strerror}; make it writable, then call again") from err
