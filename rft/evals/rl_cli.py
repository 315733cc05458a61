"""``eval_rl.py``: the base model and the adapters of a checkpoint folder, problem by problem.

Where the folder lies in a run, everything that was not given is as the run's own evaluation had it, and the table says
whether the two agree.
"""

import argparse
import sys
from pathlib import Path

from rft.errors import RftError
from rft.evals import options


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eval_rl.py",
        description="Evaluates the base model and trained adapters on the same problems, prompts and seeds, with one "
        "engine for all of them. Of a run's checkpoints, all settings default to those of the run's own evaluation. "
        "Samples are kept: the same call goes on where it was stopped.",
    )
    which = parser.add_argument_group("models")
    which.add_argument(
        "--checkpoint_path",
        type=Path,
        required=True,
        metavar="DIR",
        help="an adapter, a folder of global_step*_hf, or a run",
    )
    which.add_argument("--model", metavar="PATH", help="the base (default: the run's, or what the adapter names)")
    which.add_argument("--steps", nargs="+", type=int, metavar="N", help="only these steps")
    which.add_argument("--no_base", action="store_true", help="compare with the first checkpoint instead of the base")
    options.add(parser, None, from_run=True)
    return parser


def main(argv: list[str] | None = None) -> int:
    return options.exit_code(_run, parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    from rft.evals import adapters, of_run, programs
    from rft.evals.plan import Policy

    if not args.checkpoint_path.is_dir():
        raise RftError(f"--checkpoint_path {args.checkpoint_path}: no such folder")
    found = adapters.find(args.checkpoint_path)
    if args.steps:
        missing = sorted(set(args.steps) - {adapter.step for adapter in found})
        if missing:
            have = ", ".join(str(adapter.step) for adapter in found)
            raise RftError(f"--steps {missing[0]}: {args.checkpoint_path} has no such step (it has {have})")
        found = [adapter for adapter in found if adapter.step in args.steps]
    run = of_run.find(args.checkpoint_path)
    if run is not None:
        of_run.defaults(args, run)
        if not args.quiet:
            print(f"note: settings that were not given are those of {run}", file=sys.stderr)
    base = args.model or found[0].base
    if not base:
        raise RftError(f"{found[0].path}: names no base model; give it with --model")
    if not args.set:
        raise RftError("--set is missing: name a set (aime id ood math apex gsm8k) or a JSONL file")
    args.mode = args.mode or ["greedy"]
    policies = [] if args.no_base else [Policy("base", base, None, 0)]
    for adapter in found:
        name = f"step{adapter.step}" if adapter.step is not None else adapter.path.resolve().name
        policies.append(Policy(name, base, adapter, adapter.step))
    own = of_run.own(run) if run is not None else []
    return programs.run(policies, args, own)
