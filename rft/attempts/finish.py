"""The end of an attempt: its entry in the research log and its capsules beside its notes, committed. Main thread."""

from collections.abc import Sequence

from rft import runs
from rft.attempts import capsule, entry, log, names, notes
from rft.attempts.git import Git
from rft.errors import RftError


def finish(
    git: Git, number: int, named: Sequence[str], given: entry.Given, replace: bool, commit: bool
) -> tuple[str, list]:
    """(verdict, runs); writes the entry and the capsules, and commits these two files alone.

    named   runs; without them the attempt's own, one an arm
    raises  RftError: not started, a run still under way, an entry that is there already; nothing is written then
    """
    attempt = names.get(git, number)
    tagged = git.commit_of(f"refs/tags/{attempt.tag}")
    if tagged is None:
        raise RftError(
            f"attempt {number}: {attempt.tag} is not there: it was never started; rft attempt start {number}"
        )
    text = git.show(tagged, attempt.notes)
    if text is None:
        raise RftError(f"attempt {number}: {attempt.notes} is not part of {attempt.tag}; the tag was moved by hand")
    before = notes.require_filled(text, f"{attempt.notes} at {attempt.tag}")
    if commit and git.changes([log.FILE]):
        raise RftError(f"{log.FILE} has changes of yours; commit them first, or give --no-commit")
    log.require_place(log.read(git.root), number, replace)  # before the figures are worked out
    chosen = entry.choose(attempt, named)
    for run in chosen:
        ran = runs.read_json(run.folder / runs.RUN_FILE).get("commit")
        if ran != tagged and not named:
            told = f"ran commit {str(ran)[:12]}, {attempt.tag} is {tagged[:12]}"
            raise RftError(f"attempt {number}: {run.id} {told}; name the runs that count with --run")
    launches = capsule.launches(git, attempt)
    title, words = entry.write(attempt, before, launches, chosen, given)
    log.write(git.root, log.with_entry(log.read(git.root), number, words))
    (git.root / attempt.capsule).parent.mkdir(exist_ok=True)
    runs.write_json(git.root / attempt.capsule, {"attempt": attempt.label, "launches": launches})
    if commit:
        paths = [log.FILE, attempt.capsule]
        git("add", "--", *paths)
        git("commit", "--quiet", "-m", f"Attempt {number}: {title}", "--", *paths)
    return title, chosen
