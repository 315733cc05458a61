"""``rft compare A B``: two runs of an A/B (training metrics and evaluations), or two results of evaluation programs."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rft.errors import RftError


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rft compare",
        description="Compares two runs (same pool, one change) or two evaluation results: what differs, "
        "with intervals, and what can be claimed.",
    )
    parser.add_argument("first", metavar="A", help="run (id, beginning of one, last, folder) or result (.json)")
    parser.add_argument("second", metavar="B", help="the same kind as A")
    parser.add_argument("--window", type=float, default=0.5, help="last share of the steps for training metrics (0.5)")
    parser.add_argument("--force", action="store_true", help="compare what was not made alike; the table says so")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if not 0 < args.window <= 1:
        raise RftError(f"--window {args.window}: give a share above 0, at most 1")
    files = [Path(name).is_file() for name in (args.first, args.second)]
    if files[0] != files[1]:
        raise RftError(f"{args.first} and {args.second}: a result and a run; name two of the same kind")
    return _results(args) if files[0] else _runs(args)


def _results(args: argparse.Namespace) -> int:
    from rft.evals import compared, results, settings, table

    pair = [results.load(Path(name)) for name in (args.first, args.second)]
    settings.require_equal(pair, args.force)
    if pair[0]["name"] == pair[1]["name"]:
        pair = [
            {**result, "name": Path(name).stem} for result, name in zip(pair, (args.first, args.second), strict=True)
        ]
    if args.json:
        comparisons, refused = compared.against_first(pair, args.force)
        if refused:
            raise RftError(refused)
        print(json.dumps(asdict(comparisons[0]), ensure_ascii=False))
    else:
        print(table.group(pair, args.force))
    return 0


def _runs(args: argparse.Namespace) -> int:
    from rft import runs
    from rft.evals import compare_runs

    found = compare_runs.compare(runs.find(args.first), runs.find(args.second), args.force, args.window)
    print(json.dumps(asdict(found), ensure_ascii=False) if args.json else markdown(found, args.force))
    return 0


def markdown(found, force: bool = False) -> str:
    """A `rft.evals.compare_runs.Compared` as tables."""
    a, b = found.names
    lines = [f"A: {a}", f"B: {b}", ""]
    lines += [f"- changed: {line}" for line in found.changed] or ["- no flag differs"]
    if len(found.changed) > 1:
        lines.append(f"- note: {len(found.changed)} changes, so a difference cannot be put down to one of them")
    lines += [f"- {'forced' if force and line.startswith('pool') else 'note'}: {line}" for line in found.remarks]
    if found.trained:
        steps, start = found.trained[0].steps, found.trained[0].first_step
        lines += ["", f"Training, {steps} steps from step {start}, paired by step:", ""]
        lines += ["| metric | A | B | B - A | 95 % interval |", "| --- | --- | --- | --- | --- |"]
        for row in found.trained:
            bounds = "-" if row.interval is None else f"[{row.interval[0]:+.4g}, {row.interval[1]:+.4g}]"
            difference = row.second - row.first
            lines.append(f"| {row.metric} | {row.first:.4g} | {row.second:.4g} | {difference:+.4g} | {bounds} |")
    if found.evaluated:
        lines += ["", "Evaluations, paired by problem:", ""]
        lines += ["| mode | step | n | A | B | B - A | 95 % interval |", "| --- | --- | --- | --- | --- | --- | --- |"]
        for one in found.evaluated:
            row = one.comparison.row
            cells = [one.comparison.mode, str(one.step), str(row.first.problems)]
            for side in (row.first, row.second):
                cells.append(f"{side.value:.3f} [{side.interval.low:.3f}, {side.interval.high:.3f}]")
            cells += [f"{row.difference:+.3f}", f"[{row.interval.low:+.3f}, {row.interval.high:+.3f}]"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
        lines += [f"- step {e.step}, {e.comparison.mode}: {e.comparison.verdict}" for e in found.evaluated if e.last]
    else:
        lines += ["", "No evaluation of the same mode and step in both."]
    return "\n".join(lines)
