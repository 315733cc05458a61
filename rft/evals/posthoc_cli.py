"""``rft eval-posthoc``: models, merged checkpoints and adapters, each against the first; nothing generated twice."""

import argparse

from rft.evals import options


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rft eval-posthoc",
        description="Evaluates any number of models, merged checkpoints or adapters and compares each with the first. "
        "Results are found again by the digests of weights, prompts and settings, whatever they are called.",
    )
    which = parser.add_argument_group("models")
    which.add_argument(
        "--model", nargs="+", required=True, metavar="NAME=PATH", help="model or adapter folders, or hub ids"
    )
    which.add_argument("--base", metavar="PATH", help="base of the adapters (default: what each one names)")
    options.add(parser, "aime")
    return parser


def main(argv: list[str]) -> int:
    return options.exit_code(_run, parser().parse_args(argv))


def _run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from rft.errors import RftError
    from rft.evals import adapters, programs
    from rft.evals.plan import Policy

    policies = []
    for name, path in [options.named(text) for text in args.model]:
        if adapters.is_adapter(Path(path)):
            adapter = adapters.read(Path(path))
            base = args.base or adapter.base
            if not base:
                raise RftError(f"--model {path}: the adapter names no base model; give it with --base")
            policies.append(Policy(name, base, adapter, adapter.step))
        else:
            policies.append(Policy(name, path))
    options.require_distinct([policy.name for policy in policies])
    args.set, args.mode = args.set or ["aime"], args.mode or ["greedy"]
    return programs.run(policies, args)
