"""What every evaluation program does once it knows its policies: check, announce, evaluate, print, report."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from rft.errors import RftError
from rft.evals import compared, options, plan, results, table


def run(
    policies: Sequence[plan.Policy], args: argparse.Namespace, own: Sequence[dict] = (), start: Callable | None = None
) -> int:
    """Evaluates and prints; 0.

    own    the run's own results, to compare with
    start  see rft/evals/plan.py
    raises RftError
    """
    sets, modes = options.wanted_sets(args), options.wanted_modes(args)
    if not args.quiet:
        announce(sets, modes, len(policies))
    made = plan.evaluate(policies, sets, modes, options.plan_options(args), start)
    text = table.markdown(made, args.force, own)
    print(text, end="")
    if not args.quiet:
        print(f"results and samples: {results.folder()}", file=sys.stderr)
    if args.report:
        report(made, text, args)
    if args.json:
        print(json.dumps(summary(made, args.force), ensure_ascii=False))
    return 0


def announce(sets, modes, policies: int) -> None:
    """What the coming comparison can find, before any of it is paid for."""
    for one in sets:
        for mode in modes:
            line = f"{one.name}, {mode.name}: {len(one.problems)} problems x {mode.n}"
            if policies > 1 and not mode.diagnostic:
                found = compared.detectable(len(one.problems), mode.n)
                line += f"; {found.words} with {100 * found.power:.0f} % power ({found.basis})"
            print(line, file=sys.stderr)


def report(made: Sequence[dict], text: str, args: argparse.Namespace) -> None:
    """report.md, and report.html where rft/report/ is there."""
    path = args.report / "report.md"
    part = path.with_name(f".{path.name}.tmp")
    try:
        args.report.mkdir(parents=True, exist_ok=True)
        part.write_text(f"# Evaluation\n\n{text}", encoding="utf-8")
        part.replace(path)
    except OSError as err:
        raise RftError(f"--report {args.report}: {err.strerror}; free space or name another folder") from err
    print(f"report: {path}", file=sys.stderr)
    try:
        import rft.report.eval_report as eval_report
    except ModuleNotFoundError as err:
        if not (err.name or "").startswith("rft.report"):
            raise
        print("note: no HTML page: rft/report/ is not there", file=sys.stderr)
        return
    print(f"report: {eval_report.write(list(made), results.folder(), args.report / 'report.html')}", file=sys.stderr)


def summary(made: Sequence[dict], force: bool) -> dict:
    """What --json prints: figures of each result, and the comparisons."""
    rows = [{key: result[key] for key in ("name", "step", "settings", "figures")} for result in made]
    pairs = []
    for group in compared.groups(made):
        comparisons, refused = compared.against_first(group, force)
        of = group[0]["settings"]
        where = {"data_set": of["data_set"], "mode": of["mode"], "n_problems": len(group[0]["problems"])}
        if refused:
            pairs.append({**where, "refused": refused})
        for one in comparisons:
            interval = [one.row.interval.low, one.row.interval.high]
            pairs.append(
                {
                    **where,
                    "first": one.first,
                    "second": one.second,
                    "difference": one.row.difference,
                    "difference_ci95": interval,
                    "p": one.p,
                    "claim": one.claim,
                    "verdict": one.verdict,
                }
            )
    return {"results": rows, "comparisons": pairs}
