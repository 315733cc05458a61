"""``rft sft-decision``: is a supervised warm start needed before RL? Only if the model does not keep the answer format.

The rule: SFT only if fewer than 95 % of the answers at 8,192 tokens stand in a box. Read from a result, with its
interval over problems; where the interval holds 95 %, more problems are needed to tell.
"""

import argparse
import json
from pathlib import Path

from rft.errors import RftError

COMPLIANCE, MAX_TOKENS = 0.95, 8192


def decide(result: dict) -> dict:
    """{"boxed", "ci95", "problems", "samples", "sft": bool, "certain": bool, "verdict"} of a result.

    raises  RftError: evaluated with another token limit
    """
    from rft.stats.results import rate

    limit = result["settings"]["max_tokens"]
    if limit != MAX_TOKENS:
        raise RftError(
            f"{result['name']}: evaluated with --max_tokens {limit}; the rule is for {MAX_TOKENS}, evaluate again"
        )
    figure = rate([problem["boxed"] for problem in result["problems"]], "boxed")
    needed, low, high = figure.value < COMPLIANCE, figure.interval.low, figure.interval.high
    certain = high < COMPLIANCE if needed else low >= COMPLIANCE
    facts = f"{100 * figure.value:.1f} % boxed [{100 * low:.1f}, {100 * high:.1f}], {figure.problems} problems"
    answer = "SFT first" if needed else "no SFT"
    doubt = "" if certain else f"; uncertain, {100 * COMPLIANCE:.0f} % lies in the interval"
    cut = sum(sum(problem["truncated"]) for problem in result["problems"]) / (figure.problems * figure.samples)
    doubt += f"; {100 * cut:.1f} % ran into the token limit" if cut else ""
    return {
        "boxed": figure.value,
        "ci95": [low, high],
        "problems": figure.problems,
        "samples": figure.samples,
        "sft": needed,
        "certain": certain,
        "verdict": f"{answer}: {facts}{doubt}",
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rft sft-decision", description=__doc__.split("\n\n")[0].split(": ", 1)[1])
    parser.add_argument("result", type=Path, nargs="+", help=".json files of an evaluation with --max_tokens 8192")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args(argv)
    from rft.evals import results

    for path in args.result:
        result = results.load(path)
        found = decide(result)
        name = f"{result['name']}, {result['settings']['data_set']}"
        print(json.dumps({"name": name, **found}) if args.json else f"{name}: {found['verdict']}")
    return 0
