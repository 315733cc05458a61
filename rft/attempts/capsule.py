"""The capsule of a launch: what it takes to start the same thing again, and to prove that it was the same.

    {"attempt", "arm", "branch", "commit", "tag", "time", "command": as typed, "resolved": as OpenRLHF gets it,
     "variables": the recipe's own, "environment": what else changes a run, "series_id", "applied_series_id",
     "versions", "packages_sha256", "data_sha256", "models", "machine"}

No secret is in it. Capsules of an attempt's launches are kept in ``attempts/attempt-NN.json`` among the runs while it
goes on, and committed beside its notes when it is finished. Main thread.
"""

import datetime
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rft import provenance, runs
from rft.attempts import model_digest, secret
from rft.attempts.git import Git
from rft.attempts.names import Attempt
from rft.diagnosis.history import flags
from rft.errors import RftError

DRY_RUN_S = 120


def folder() -> Path:
    """attempts/ among the runs."""
    return runs.runs_dir() / "attempts"


def resolve(command: Sequence[str], root: Path) -> tuple[dict[str, str], list[str]]:
    """(variables, words) of the launcher's dry run: nothing is started.

    raises  RftError: the launcher refuses; its own line
    """
    try:
        done = subprocess.run(
            [*command, "--dry-run"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=DRY_RUN_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise RftError(f"{command[0]} cannot be run ({err}); give a launcher, as in: bash train_grpo_20b.sh") from err
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RftError(f"{' '.join(command[:2])} --dry-run: {said[-1].removeprefix('error: ')}")
    variables: dict[str, str] = {}
    words = done.stdout.splitlines()
    while words and (match := secret.ASSIGNED.fullmatch(words[0])):
        variables[match[1]] = match[2]
        words.pop(0)
    if not any(word.startswith("--") for word in words):
        raise RftError(f"{' '.join(command[:2])}: --dry-run printed no command; give one of the project's launchers")
    return variables, words


def make(git: Git, attempt: Attempt, arm: str | None, command: Sequence[str]) -> dict:
    """raises  RftError: the launcher refuses, the patches cannot be read, or a model file cannot"""
    from rft import patches

    variables, words = resolve(command, git.root)
    given = flags(words)
    env = {**os.environ, **variables}
    data = [name for key in ("prompt_data", "eval_dataset") for name in str(given.get(key, "")).split(",")]
    rewards = [name for name in str(given.get("remote_rm_url", "")).split() if name.endswith((".py", ".toml"))]
    names = {str(given[key]) for key in ("pretrain", "engine_pretrain") if isinstance(given.get(key), str)}
    models = [model_digest.of(name, git.root, env, folder() / "digests.json") for name in sorted(names)]
    try:
        applied = patches.applied_series_id()
    except RftError:  # no openrlhf on this machine: the launcher will say so; a capsule can be made
        applied = None
    return {
        "attempt": attempt.label,
        "arm": arm,
        "branch": attempt.branch,
        "commit": git.commit_of("HEAD"),
        "tag": attempt.tag,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": secret.hide(command),
        "resolved": secret.hide(words),
        "variables": secret.variables(variables),
        "environment": secret.variables(provenance.environment(dict(os.environ))),
        "series_id": patches.series_id(git.root / "patches") if (git.root / "patches" / "series").is_file() else None,
        "applied_series_id": applied,
        "versions": provenance.versions(),
        "packages_sha256": hashlib.sha256(provenance.package_list().encode()).hexdigest(),
        "data_sha256": provenance.digests([*data, *rewards], git.root),
        "models": models,
        "machine": provenance.machine(),
    }


def launches(git: Git, attempt: Attempt) -> list[dict]:
    """Capsules of an attempt, oldest first: those among the runs, or else those that were committed."""
    for path in (folder() / f"{attempt.label}.json", git.root / attempt.capsule):
        if path.is_file():
            return runs.read_json(path)["launches"]
    return []


def remember(git: Git, attempt: Attempt, capsule: dict) -> Path:
    """Adds a capsule to those among the runs; the file, which is replaced whole."""
    path = folder() / f"{attempt.label}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_json(path, {"attempt": attempt.label, "launches": [*launches(git, attempt), capsule]})
    except OSError as err:
        raise RftError(f"{path}: {err.strerror}; free space or make it writable, then call again") from err
    return path
