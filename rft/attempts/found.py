"""The runs of an attempt, and in which state the attempt is. Reads only; main thread."""

from dataclasses import dataclass
from pathlib import Path

from rft import runs
from rft.attempts import capsule, names
from rft.attempts.git import Git
from rft.attempts.names import Attempt
from rft.attempts.start import ARM_VARIABLE, VARIABLE
from rft.errors import RftError

UNDER_WAY = ("running",)


@dataclass(frozen=True)
class AttemptRun:
    """One run folder of an attempt; state: a line of ``rft runs``."""

    folder: Path
    arm: str | None
    state: dict
    launched_for: str | None  # the attempt's number

    @property
    def id(self) -> str:
        return self.state["id"]

    def own(self, number: int) -> bool:
        """Was it launched for this attempt?"""
        return self.launched_for == str(number)


def of(attempt: Attempt) -> list[AttemptRun]:
    """Runs that were launched for it (run.json's environment says so), oldest first."""
    found = []
    for file in runs.runs_dir().glob(f"*/{runs.RUN_FILE}"):
        record = runs.read_json(file)
        if (record.get("environment") or {}).get(VARIABLE) == str(attempt.number):
            found.append((record.get("start") or 0, _read(file.parent)))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def named(reference: str) -> AttemptRun:
    """A run by id, beginning of one, `last` or folder, whatever started it."""
    return _read(runs.find(reference))


def _read(folder: Path) -> AttemptRun:
    environment = runs.read_json(folder / runs.RUN_FILE).get("environment") or {}
    return AttemptRun(folder, environment.get(ARM_VARIABLE), runs.describe(folder), environment.get(VARIABLE))


def by_arm(found: list[AttemptRun]) -> dict[str | None, AttemptRun]:
    """The last finished run of each arm, else its last one; arms in their order."""
    chosen: dict[str | None, AttemptRun] = {}
    for run in found:
        old = chosen.get(run.arm)
        if old is None or run.state["status"] == "finished" or old.state["status"] != "finished":
            chosen[run.arm] = run
    return dict(sorted(chosen.items(), key=lambda item: item[0] or ""))


def one(git: Git, reference: str) -> AttemptRun:
    """``31`` or ``31a`` -> its run.

    raises  RftError: no run, or several arms and none named
    """
    number, arm = names.split(reference)
    arms = by_arm(of(names.get(git, number)))
    if arm is None and len(arms) == 1:
        return next(iter(arms.values()))
    if arm in arms:
        return arms[arm]
    if not arms:
        raise RftError(f"attempt {reference}: no run of it in {runs.runs_dir()}; start it: rft attempt start {number}")
    known = ", ".join(f"{number}{name or ''}" for name in arms)
    raise RftError(f"attempt {reference}: name one of its arms: {known}")


def status(git: Git, attempt: Attempt, verdict: str | None) -> dict:
    """A line of ``rft attempt list``.

    verdict  title of its entry in the research log; None: not finished
    """
    tagged = git.commit_of(f"refs/tags/{attempt.tag}")
    runs_of = of(attempt)
    state = "finished" if verdict else "started" if tagged else "new"
    if any(run.state["status"] in UNDER_WAY for run in runs_of):
        state = "running"
    return {
        "attempt": attempt.number,
        "short": attempt.short,
        "branch": attempt.branch,
        "state": state,
        "commit": tagged,
        "launches": len(capsule.launches(git, attempt)),
        "runs": [run.id for run in runs_of],
        "verdict": verdict,
    }
