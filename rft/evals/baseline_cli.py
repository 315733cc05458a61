"""``eval_baseline.py``: models as they are, on any set and mode, each against the first."""

import argparse
import sys
from pathlib import Path

from rft.errors import RftError
from rft.evals import options


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval_baseline.py",
        description="Evaluates models on problem sets: accuracy with intervals, format, lengths; several models are "
        "compared with the first, problem by problem. Samples are kept: the same call goes on where it was stopped.",
    )
    which = parser.add_argument_group("models")
    which.add_argument(
        "--model", nargs="+", default=[], metavar="[NAME=]PATH", help="folders or hub ids; several: a sweep"
    )
    which.add_argument("--teacher", metavar="PATH", help="compared as `teacher`, with --student")
    which.add_argument("--student", metavar="PATH", help="compared as `student`")
    which.add_argument("--auto-symlink", type=Path, metavar="DIR", help="link the expected paths in data/ to DIR first")
    options.add(parser, "aime")
    return parser


def main(argv: list[str] | None = None) -> int:
    return options.exit_code(_run, parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    from rft.evals import programs
    from rft.evals.plan import Policy

    if args.auto_symlink:
        from rft.data import links

        if not args.auto_symlink.is_dir():
            raise RftError(f"--auto-symlink {args.auto_symlink}: no such folder; name the one that holds the data")
        links.check(args.auto_symlink, options.REPO / "data")
        print("\n".join(links.link(args.auto_symlink, options.REPO / "data")), file=sys.stderr)
    if bool(args.teacher) != bool(args.student):
        raise RftError("--teacher and --student: give both, or --model")
    named = [options.named(text) for text in args.model]
    named += [(name, path) for name, path in (("teacher", args.teacher), ("student", args.student)) if path]
    if not named:
        if args.auto_symlink:
            return 0
        raise RftError("--model is missing: give a model folder or a hub id")
    options.require_distinct([name for name, _ in named])
    args.set, args.mode = args.set or ["aime"], args.mode or ["greedy"]
    return programs.run([Policy(name, path) for name, path in named], args)
