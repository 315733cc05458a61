"""git in one repository; a refusal of git is one line. Used by the attempts and by ``rft spare``. Main thread."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from rft.errors import RftError


class Git:
    """root: the top of a checkout."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def __call__(self, *args: str, text: str | None = None) -> str:
        """git's output without its last line break.

        text    its standard input
        raises  RftError: git is missing or refuses; the line is git's own last one
        """
        done = self.ask(*args, text=text)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
            fatal = next((line for line in said if line.startswith(("fatal:", "error:"))), said[-1])
            raise RftError(f"{self.root}: git {args[0]}: {fatal}; mend that and call again")
        return done.stdout.removesuffix("\n")

    def ask(self, *args: str, text: str | None = None) -> subprocess.CompletedProcess:
        """The same without raising when git says no."""
        command = ["git", "-C", str(self.root), *args]
        try:
            return subprocess.run(command, capture_output=True, text=True, input=text, check=False)
        except OSError as err:
            raise RftError(f"git cannot be run ({err.strerror}): install git") from err

    def commit_of(self, name: str) -> str | None:
        """Full id of the commit that a branch, tag or `HEAD` stands for; None where there is none."""
        done = self.ask("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        return done.stdout.strip() if done.returncode == 0 else None

    def branch(self) -> str | None:
        """The branch that is checked out; None for a detached HEAD."""
        done = self.ask("symbolic-ref", "--quiet", "--short", "HEAD")
        return done.stdout.strip() if done.returncode == 0 else None

    def changes(self, paths: Sequence[str] = ()) -> list[str]:
        """Paths that differ from HEAD or are untracked (ignored ones never), as ``git status`` writes them."""
        out = self("status", "--porcelain", "--untracked-files=all", "--", *paths)
        return [line[3:] for line in out.splitlines()]

    def require_clean(self, why: str) -> None:
        """raises  RftError naming the first paths that are not committed"""
        changed = self.changes()
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise RftError(f"{self.root}: {', '.join(changed[:3])}{more} not committed; commit or stash them: {why}")

    def show(self, commit: str, path: str) -> str | None:
        """A file as it was at a commit; None where it was not."""
        done = self.ask("show", f"{commit}:{path}")
        return done.stdout if done.returncode == 0 else None
