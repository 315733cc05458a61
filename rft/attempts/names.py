"""What an attempt is called: branch, tag, notes, capsule, and how it is found again. One home of these names."""

import re
from dataclasses import dataclass
from pathlib import Path

from rft.attempts.git import Git
from rft.errors import RftError

BRANCH = re.compile(r"attempt-(\d{2,})-([a-z0-9][a-z0-9._-]*)")
REFERENCE = re.compile(r"(\d+)([a-z][a-z0-9]*)?")


@dataclass(frozen=True)
class Attempt:
    """number from 1 up; short: what its branch says after the number."""

    number: int
    short: str

    @property
    def label(self) -> str:
        return f"attempt-{self.number:02d}"

    @property
    def branch(self) -> str:
        return f"{self.label}-{self.short}"

    @property
    def tag(self) -> str:
        """On the exact commit that ran."""
        return f"{self.label}-start"

    @property
    def notes(self) -> str:
        return f"notes/{self.branch}.md"

    @property
    def capsule(self) -> str:
        """The capsules of all its launches, committed when it is finished."""
        return f"notes/{self.branch}.json"


def named(number: str, short: str) -> Attempt:
    """raises  RftError: not a number, or a description that cannot be part of a branch's name"""
    attempt = Attempt(_number(number), short)
    if not BRANCH.fullmatch(attempt.branch) or short == "start" or short.endswith((".", ".lock")) or ".." in short:
        raise RftError(f"attempt {number}: {short!r}: describe it in small letters, digits and dashes, as in lr-2e-6")
    return attempt


def split(reference: str) -> tuple[int, str | None]:
    """``31`` -> (31, None), ``31a`` or ``attempt-31a`` -> (31, "a")."""
    match = REFERENCE.fullmatch(reference.removeprefix("attempt-"))
    if not match:
        raise RftError(f"attempt {reference!r}: give its number, as in 31, or number and arm, as in 31a")
    return _number(match[1]), match[2]


def _number(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 10000:
        raise RftError(f"attempt {text!r}: give a number from 1 to 9999")
    return int(text)


def find(git: Git, number: int) -> Attempt | None:
    """By its branch (local, then of a remote), else by its notes file.

    raises  RftError: two attempts have the number
    """
    found = [attempt for attempt in every(git) if attempt.number == number]
    if len(found) > 1:
        names = ", ".join(attempt.branch for attempt in found)
        raise RftError(f"attempt {number}: several have that number ({names}); rename all but one")
    return found[0] if found else None


def get(git: Git, number: int) -> Attempt:
    """:func:`find`, or one line that says how to make it."""
    attempt = find(git, number)
    if attempt is None:
        raise RftError(
            f"attempt {number}: there is none; see rft attempt list, or: rft attempt new {number} DESCRIPTION"
        )
    return attempt


def every(git: Git) -> list[Attempt]:
    """All attempts of a repository, by number."""
    refs = git("for-each-ref", "--format=%(refname)", "refs/heads", "refs/remotes").splitlines()
    names = {ref.rpartition("/")[2] for ref in refs}
    names |= {path.stem for path in (git.root / "notes").glob("attempt-*.md")}
    found = {Attempt(int(m[1]), m[2]) for name in names if (m := BRANCH.fullmatch(name)) and m[2] != "start"}
    return sorted(found, key=lambda attempt: (attempt.number, attempt.short))


def top(path: Path) -> Git:
    """The repository that a folder lies in.

    raises  RftError: it lies in none
    """
    done = Git(path).ask("rev-parse", "--show-toplevel")
    if done.returncode != 0:
        raise RftError(f"{path}: no git repository: attempts need one; call git init or clone the project")
    return Git(Path(done.stdout.strip()))
