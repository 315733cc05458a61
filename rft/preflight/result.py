"""What a check looks at and what it says. Standard library only; passes between processes by pickle and JSON."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError
from rft.runs import Paths

OK, WARN, FAIL, SKIPPED = "ok", "warn", "fail", "skipped"


@dataclass(frozen=True)
class Subject:
    """The launch that is looked at.

    args   of the patched parser; env: the run's whole environment; paths: where the run would write
    repo   what relative paths are relative to
    """

    args: Namespace
    env: dict[str, str]
    repo: Path
    paths: Paths


@dataclass(frozen=True)
class Result:
    """value: what was found; remedy: what to do about it, "" for ok. error: the whole line of a failure."""

    verdict: str
    value: str
    remedy: str = ""
    error: str = ""

    @classmethod
    def of_error(cls, error: RftError) -> "Result":
        """A failure, from a line that ends, as all do, with its remedy behind the last semicolon or colon."""
        line = " ".join(str(error).split())
        value, mark, remedy = line.rpartition("; ")
        if not mark:
            value, mark, remedy = line.rpartition(": ")
        return cls(FAIL, value or line, remedy if mark else "", line)


def ok(value: str) -> Result:
    return Result(OK, value)


def warn(value: str, remedy: str) -> Result:
    return Result(WARN, value, remedy)


def skipped(value: str) -> Result:
    """There is nothing to look at."""
    return Result(SKIPPED, value)


Function = Callable[[Subject], Result]


def run(name: str, function: Function, subject: Subject) -> Result:
    """The check's result; what it raises is a failure, and a crash of the check itself never looks like a pass."""
    try:
        return function(subject)
    except RftError as error:
        return Result.of_error(error)
    except Exception as error:
        line = f"the check {name} crashed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Result(FAIL, line, f"report it; --skip {name} goes on without", f"{line}; --skip {name} goes on without")
