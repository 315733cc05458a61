"""``rft preflight``: the checks of a launch, alone. The same as ``bash LAUNCHER --preflight [flags]``."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from rft.errors import RftError
from rft.preflight.table import CHECKS, LATER
from rft.runs import REPO


def main(argv: list[str]) -> int:
    """Exit status 0: no check failed; 1: one did; 2: the launch itself is refused (an unknown flag, …)."""
    own, launcher = _split(argv)
    args = _parser().parse_args(own)
    if args.list:
        width = max(map(len, LATER))
        print("\n".join(f"{one.name:<{width}}  {one.help}" for one in CHECKS))
        print(
            "\n".join(f"{name:<{width}}  {text} (in the run, after its first rollout)" for name, text in LATER.items())
        )
        return 0
    if not launcher:
        known = ", ".join(sorted(path.name for path in REPO.glob("train_grpo*.sh")))
        raise RftError(f"rft preflight: which launch? name a launcher ({known}) and its flags")
    script = next((path for path in (Path(launcher[0]), REPO / launcher[0]) if path.is_file()), None)
    if script is None or script.suffix != ".sh":
        raise RftError(f"rft preflight: {launcher[0]}: no launcher of that name; give one such as train_grpo_20b.sh")
    options = ["--preflight", *(["--json"] if args.json else [])]
    for name in args.skip:
        options += ["--skip", name]
    sys.stdout.flush()
    return subprocess.run(["bash", str(script), *launcher[1:], *options], env=dict(os.environ), check=False).returncode


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """(own options, launcher with its flags): the launcher is the first word that ends in .sh, after -- or not."""
    for place, word in enumerate(argv):
        if word == "--":
            return argv[:place], argv[place + 1 :]
        if word.endswith(".sh"):
            return argv[:place], argv[place:]
    return argv, []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rft preflight",
        usage="rft preflight [--json] [--skip CHECK] [--list] LAUNCHER.sh [flags of the launch]",
        description="Checks a launch without starting it: one table of check, value, verdict and remedy.",
        epilog="example: rft preflight train_grpo_20b.sh --num_episodes 3",
    )
    parser.add_argument("--json", action="store_true", help="the table as one JSON line")
    parser.add_argument("--skip", action="append", default=[], metavar="CHECK", help="leave a check out; repeatable")
    parser.add_argument("--list", action="store_true", help="the names of the checks, and what each looks at")
    return parser
