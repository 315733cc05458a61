"""The command ``rft power``: the smallest difference that a set could detect, before anything is run.

Prints one line a combination of problems and assumed discordance; ``--json`` one object a line instead.
"""

import argparse
import json
from dataclasses import asdict

from rft.errors import RftError
from rft.stats.power import ALPHA, CHANGE_SD, POWER, detectable_greedy, detectable_sampling

# Sizes of the project's own sets: AIME, MATH level 4-5, Apex, ID probe, OOD probe.
SETS = (18, 45, 48, 200, 202)
DISCORDANCES = (0.05, 0.1, 0.2, 0.3)


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="rft power",
        description="The smallest difference between two models that P problems find with the given power: exact"
        " McNemar for greedy_pass@1, the paired permutation test over problems for avg@n.",
        epilog="Discordance: the share of problems (greedy) or of pairs of answers (sampling) where the two models"
        " differ in correctness. Small for neighbouring checkpoints, large for different models; a first pair tells.",
    )
    out.add_argument("--problems", type=int, nargs="+", default=list(SETS), metavar="P", help="default: %(default)s")
    out.add_argument("--samples", type=int, default=1, metavar="N", help="answers a problem; 1 is greedy (default)")
    out.add_argument("--discordance", type=float, nargs="+", default=list(DISCORDANCES), metavar="D")
    out.add_argument(
        "--change-sd", type=float, default=CHANGE_SD, help="sampling: sd of the true changes (%(default)s)"
    )
    out.add_argument("--comparisons", type=int, default=1, help="checkpoints compared with the base (default 1)")
    out.add_argument("--power", type=float, default=POWER, help="default %(default)s")
    out.add_argument("--alpha", type=float, default=ALPHA, help="risk of a false claim among all comparisons")
    out.add_argument("--json", action="store_true", help="one JSON object a line")
    return out


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.samples < 1 or args.comparisons < 1 or min(args.problems) < 1:
        raise RftError(
            f"--problems {args.problems} --samples {args.samples} --comparisons {args.comparisons}: at least 1 of each"
        )
    if not all(0 <= d <= 1 for d in args.discordance) or args.change_sd < 0:
        raise RftError(f"--discordance {args.discordance} --change-sd {args.change_sd}: shares in [0, 1], an sd >= 0")
    alpha = args.alpha / args.comparisons
    for problems in args.problems:
        for discordance in args.discordance:
            if args.samples == 1:
                found = detectable_greedy(problems, discordance, args.power, alpha)
            else:
                found = detectable_sampling(problems, args.samples, discordance, args.change_sd, args.power, alpha)
            print(
                json.dumps(asdict(found) | {"samples": args.samples}) if args.json else f"{found.words} ({found.basis})"
            )
    return 0
