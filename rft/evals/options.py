"""Flags that the evaluation programs share, and what they stand for. Standard library: ``--help`` reads it."""

import argparse
from pathlib import Path

from rft.errors import RftError
from rft.evals import modes

REPO = Path(__file__).resolve().parents[2]
MAX_TOKENS, SEED = 8192, 42


def add(parser: argparse.ArgumentParser, sets_default: str | None, from_run: bool = False) -> None:
    """from_run: defaults may come from the checkpoint's run."""
    of_run = ", or the run's" if from_run else ""
    sets = parser.add_argument_group("what is asked")
    sets.add_argument(
        "--set",
        nargs="+",
        default=None,
        metavar="SET",
        help=f"aime id ood math apex gsm8k, or JSONL files (default {sets_default or 'the run’s evaluation set'})",
    )
    sets.add_argument(
        "--mode",
        nargs="+",
        default=None,
        metavar="MODE",
        help=f"{' '.join(modes.DEFAULTS)} or greedy sampling nondet (default greedy_pass@1{of_run})",
    )
    sets.add_argument("--temperature", type=float, help=f"of sampling modes (default {modes.SAMPLING_T}{of_run})")
    sets.add_argument("--top_p", type=float, help=f"of sampling modes (default 1{of_run})")
    sets.add_argument("--max_tokens", type=int, help=f"of an answer (default {MAX_TOKENS}{of_run})")
    sets.add_argument("--seed", type=int, help=f"of sampling (default {SEED}{of_run})")
    sets.add_argument("--limit", type=int, help="only the first so many problems of a set")
    sets.add_argument("--reasoning", choices=("low", "medium", "high"), help="effort, through the chat template")
    sets.add_argument("--input_template", metavar="TEXT", help="text around a problem, which replaces {} in it")
    sets.add_argument(
        "--prompt_date", metavar="DATE", help="that the template writes (default $RFT_PROMPT_DATE or 2025-08-05)"
    )
    sets.add_argument("--data", type=Path, default=REPO / "data", help="folder of the sets (default data/)")
    sets.add_argument(
        "--train",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="training data that no problem may be in, beside what the manifests name",
    )
    sets.add_argument("--allow_overlap", action="store_true", help="only warn about problems that training saw")
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine_model", metavar="PATH", help="weights that the engine loads for the model (CPU: the bf16 twin)"
    )
    engine.add_argument(
        "--lora_apply", choices=("sidepath", "merge"), help=f"how adapters are served (default sidepath{of_run})"
    )
    engine.add_argument("--tp", type=int, default=1, metavar="N", help="tensor-parallel ranks (default 1)")
    engine.add_argument("--memory", type=float, default=0.9, help="share of a GPU's memory (default 0.9)")
    engine.add_argument("--enforce_eager", action="store_true", help="no CUDA graphs")
    engine.add_argument("--verbose", action="store_true", help="vLLM's own log")
    out = parser.add_argument_group("output")
    out.add_argument("--report", type=Path, metavar="DIR", help="write report.md and report.html there")
    out.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    out.add_argument("--force", action="store_true", help="compare results of different settings; the table says so")
    out.add_argument("--quiet", action="store_true", help="no progress, no remarks")


def wanted_modes(args: argparse.Namespace) -> list[modes.Mode]:
    found = [modes.parse(name, args.temperature, 1.0 if args.top_p is None else args.top_p) for name in args.mode]
    return list(dict.fromkeys(found))


def check(args: argparse.Namespace) -> None:
    """raises  RftError: a number that cannot be meant"""
    for flag in ("max_tokens", "limit", "tp"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise RftError(f"--{flag} {value}: give a number of at least 1")
    if args.input_template is not None and "{}" not in args.input_template:
        raise RftError(f"--input_template {args.input_template!r}: no {{}} in it, so the problem would be left out")
    if not 0 < args.memory <= 1:
        raise RftError(f"--memory {args.memory}: give a share above 0, at most 1")


def wanted_sets(args: argparse.Namespace) -> list:
    """The sets of ``--set``, checked: digest, and overlap with training data.

    raises  RftError: see rft/evals/sets.py and set_checks.py; an overlap unless --allow_overlap
    """
    import sys

    from rft.evals import set_checks, sets

    found = [sets.load(name, args.data, args.limit) for name in dict.fromkeys(args.set)]
    for path in args.train:
        if not path.is_file():
            raise RftError(f"--train {path}: no such file")
    training = set_checks.training_files(args.data) + args.train
    remarks = [remark for one in found if (remark := set_checks.check_digest(one))]
    if not training:
        remarks.append(
            f"no training data is known in {args.data}: overlap with it is not checked; name it with --train"
        )
    overlaps = set_checks.check_disjoint(found, training)
    if overlaps and not args.allow_overlap:
        raise RftError(f"{overlaps[0]}; take them out of one of the two, or --allow_overlap")
    for remark in [] if args.quiet else remarks + overlaps:
        print(f"note: {remark}", file=sys.stderr)
    return found


def plan_options(args: argparse.Namespace):
    from rft.evals.plan import Options

    return Options(
        max_tokens=args.max_tokens or MAX_TOKENS,
        seed=SEED if args.seed is None else args.seed,
        effort=args.reasoning,
        template=args.input_template,
        prompt_date=args.prompt_date,
        lora_apply=args.lora_apply or "sidepath",
        engine_model=args.engine_model,
        tp_size=args.tp,
        memory=args.memory,
        eager=args.enforce_eager,
        verbose=args.verbose,
        quiet=args.quiet,
    )


def named(text: str) -> tuple[str, str]:
    """``name=PATH``, or a path alone, whose last part is the name."""
    name, mark, path = text.partition("=")
    if mark and not name.strip():
        raise RftError(f"--model {text}: an empty name; write NAME=PATH")
    return (name, path) if mark else (Path(text).name or text, text)


def require_distinct(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RftError(f"--model: two are called {twice[0]!r}; name them apart, NAME=PATH")


def exit_code(run, args: argparse.Namespace) -> int:
    """Of ``run(args)``: an RftError is one line and 2, Ctrl-C 130."""
    import sys

    try:
        check(args)
        return run(args)
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: stopped; finished samples are kept, give the same command again to go on", file=sys.stderr)
        return 130
