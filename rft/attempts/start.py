"""From a number to a running launch: the branch and its notes (`new`), checks, tag and capsule (`start`).

Nothing is tagged and nothing written before every check has passed. Main thread.
"""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rft.attempts import capsule, names, notes, presets
from rft.attempts.git import Git
from rft.attempts.names import Attempt
from rft.diagnosis.history import flags
from rft.errors import RftError

VARIABLE, ARM_VARIABLE = "RFT_ATTEMPT", "RFT_ATTEMPT_ARM"  # recorded in run.json: how a run is found again


def new(git: Git, attempt: Attempt, given: dict[str, str]) -> list[str]:
    """Makes branch and notes; where question, expectation and change are given, commits the notes. Says what it did.

    given   section of the notes -> text
    raises  RftError: the number is taken, or git refuses; then there is neither branch nor file
    """
    taken = names.find(git, attempt.number)
    if taken or git.commit_of(f"refs/tags/{attempt.tag}"):
        what = taken.branch if taken else attempt.tag
        raise RftError(f"attempt {attempt.number}: {what} exists already; take the next number: {_next(git)}")
    if git.commit_of("HEAD") is None:
        raise RftError(f"{git.root}: no commit yet; commit what the attempt starts from")
    text = notes.make(git.root / notes.TEMPLATE, f"Attempt {attempt.number}: {attempt.short}", given)
    before = git.branch() or git.commit_of("HEAD")
    path = git.root / attempt.notes
    git("switch", "--quiet", "--create", attempt.branch)
    try:
        path.write_text(text, encoding="utf-8")
        if all(given.get(name) for name in notes.BEFORE):
            git("add", "--", attempt.notes)
            git("commit", "--quiet", "-m", f"Attempt {attempt.number}: {given['Question']}", "--", attempt.notes)
            return [f"branch {attempt.branch}, notes {attempt.notes} committed", _how_to_start(attempt)]
    except (RftError, OSError) as err:
        git.ask("reset", "--quiet", "--", attempt.notes)
        path.unlink(missing_ok=True)
        git("switch", "--quiet", *([] if git.commit_of(f"refs/heads/{before}") else ["--detach"]), before)
        git("branch", "--quiet", "-D", attempt.branch)
        raise err if isinstance(err, RftError) else RftError(f"{path}: {err.strerror}; nothing was made") from err
    fill = f"fill in {', '.join(name for name in notes.BEFORE if not given.get(name))} in {attempt.notes}, commit"
    return [f"branch {attempt.branch}", f"{fill}, then: {_how_to_start(attempt)}"]


def _next(git: Git) -> int:
    return max((attempt.number for attempt in names.every(git)), default=0) + 1


def _how_to_start(attempt: Attempt) -> str:
    return f"rft attempt start {attempt.number} -- bash train_grpo_20b.sh …"


@dataclass(frozen=True)
class Launch:
    """One launch that passed every check; made by :func:`prepare`."""

    attempt: Attempt
    arm: str | None
    command: list[str]
    env: dict[str, str]  # added to the environment

    def words(self) -> str:
        """As it can be typed."""
        assigned = [f"{name}={value}" for name, value in self.env.items()]
        return shlex.join(["env", *assigned, *self.command])


def prepare(git: Git, number: int, arm: str | None, preset: presets.Preset | None, command: list[str]) -> Launch:
    """The launch of an attempt's arm: all checks, nothing changed.

    command  the launcher and its flags; with a preset: flags behind the preset's
    raises   RftError: other branch, dirty tree, notes not filled in, no launcher, not as many steps as the preset says
    """
    attempt = names.get(git, number)
    if git.branch() != attempt.branch:
        now = git.branch() or "a detached HEAD"
        raise RftError(f"{git.root}: on {now}, not on {attempt.branch}; change: git switch {attempt.branch}")
    git.require_clean(f"{attempt.tag} must name exactly what runs")
    text = git.show("HEAD", attempt.notes)
    if text is None:
        raise RftError(
            f"{attempt.notes}: not there on {attempt.branch}; restore it from {notes.TEMPLATE} and commit it"
        )
    notes.require_filled(text, attempt.notes)
    full = [*preset.command(arm), *command] if preset else command
    if not full:
        raise RftError(f"attempt {number}: start what? name a --preset, or: -- bash train_grpo_20b.sh …")
    if not preset and full[0] not in ("bash", "sh") and "/" not in full[0]:
        raise RftError(
            f"attempt {number}: {full[0]}: give a launcher, as in: -- bash train_grpo_20b.sh --num_episodes 3"
        )
    full = [*full, "--name", attempt.label + (arm or "")]
    if preset and preset.steps:
        _check_steps(git.root, preset, full)
    env = {VARIABLE: str(attempt.number)} | ({ARM_VARIABLE: arm} if arm else {})
    return Launch(attempt, arm, full, env)


def _check_steps(root: Path, preset: presets.Preset, command: list[str]) -> None:
    """Does the pool that lies here come to the optimizer steps that the preset promises?"""
    given = flags(capsule.resolve(command, root)[1])
    pool = root / str(given.get("prompt_data"))
    if not pool.is_file():
        raise RftError(f"--preset {preset.name}: {pool} is not there; make it: python prepare_sft_data.py")
    from rft.prompts import optimizer_steps

    with open(pool, "rb") as file:
        prompts = sum(1 for line in file if line.strip())
    sizes = [int(given[key]) for key in ("n_samples_per_prompt", "rollout_batch_size", "train_batch_size")]
    steps = optimizer_steps(prompts, *sizes) * int(given.get("num_episodes", 1)) * int(given.get("max_epochs", 1))
    if steps != preset.steps:
        told = f"{steps} optimizer steps from {prompts} prompts, the preset says {preset.steps}"
        raise RftError(f"--preset {preset.name}: {told}; use the pool of 400, or start without --preset")


def mark(git: Git, launch: Launch, retag: bool) -> Path:
    """Capsule and tag; the capsule's file.

    raises  RftError: the tag stands on another commit (moved with retag), or the capsule cannot be made
    """
    attempt, head = launch.attempt, git.commit_of("HEAD")
    tagged = git.commit_of(f"refs/tags/{attempt.tag}")
    if tagged not in (None, head) and not retag:
        raise RftError(
            f"{attempt.tag} is on {tagged[:12]}, HEAD is {head[:12]}: a changed approach is a new attempt; after a "
            "launch that trained nothing, --retag moves the tag"
        )
    made = capsule.make(git, attempt, launch.arm, launch.command)
    if tagged not in (None, head):
        made["retagged_from"] = tagged
    git.require_clean("something wrote into the checkout while the attempt was checked")
    path = capsule.remember(git, attempt, made)
    if tagged != head:
        message = f"{attempt.branch}\n\n{shlex.join(made['command'])}\nseries {made['series_id']}\n"
        git("tag", "--annotate", "--force", "--cleanup=verbatim", "-m", message, attempt.tag, head)
    return path


def run(git: Git, launch: Launch) -> None:
    """Becomes the launcher; does not come back."""
    os.chdir(git.root)
    sys.stdout.flush()
    try:
        os.execvpe(launch.command[0], launch.command, {**os.environ, **launch.env})
    except OSError as err:
        raise RftError(f"{launch.command[0]}: {err.strerror}; give a launcher that is there") from err
