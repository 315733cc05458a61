#!/usr/bin/env python
"""Peaks that ``rft plan``'s arithmetic foresees against those of real processes: OpenRLHF's actor on the CPU, 2 steps.

    python benchmarks/plan.py --json                       # all models, one process
    python benchmarks/plan.py --zero3 --case weights       # two DeepSpeed ZeRO-3 ranks

Every case scores a micro-batch and trains on it twice. glibc is told to give memory back at once, so that the process
holds what torch holds; --glibc leaves it its defaults, under which the heap keeps more. The base (interpreter, imports,
a model of a few thousand parameters) is measured in the same process and is part of both figures.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where rft is not installed
LIMIT = 0.10


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--case", action="append", help="one of rft.plan.cases; repeatable (default: all)")
    parser.add_argument("--zero3", action="store_true", help="two ZeRO-3 ranks instead of one process")
    parser.add_argument("--glibc", action="store_true", help="with glibc's defaults, which keep more")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    args = parser.parse_args(argv)
    from rft.errors import RftError
    from rft.plan.cases import CASES

    unknown = sorted(set(args.case or ()) - set(CASES))
    if unknown:
        print(f"error: --case {unknown[0]}: no such case; use one of {', '.join(CASES)}", file=sys.stderr)
        return 2
    try:
        rows = measure(args.case or list(CASES), args)
    except RftError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    worst = max(abs(row["error"]) for row in rows)
    print(f"largest error: {worst:.1%} of the whole peak (limit {LIMIT:.0%})")
    if args.json:
        print(json.dumps({"rows": rows, "worst": worst}))
    return 0 if worst <= LIMIT or args.glibc else 1


def measure(names: list[str], args: argparse.Namespace) -> list[dict]:
    """A row a case and stage, printed as they come."""
    from rft.plan import measure as m
    from rft.plan.cases import CASES
    from rft.plan.terms import KEPT_SHARE

    kept = KEPT_SHARE if args.glibc else 0.0
    rows = []
    print(f"{'case':18} {'stage':10} {'planned':>10} {'measured':>10} {'base':>8} {'error':>7} above base")
    alone = [] if args.zero3 else m.measure([CASES[name] for name in names], returned=not args.glibc)
    for index, name in enumerate(names):
        case = CASES[name]
        if args.zero3:
            found = m.measure_zero3(case, offload=True)
            predicted = m.predict_zero3(case, True, found["base_bytes"])
        else:
            found = alone[index]
            predicted = m.predict(case, found["base_bytes"], kept)
        for row in m.compare(predicted, found):
            rows.append({"case": name, **row})
            sizes = " ".join(f"{row[key] / 1e6:8.0f} MB"[:11] for key in ("predicted_bytes", "measured_bytes"))
            above = f"{row['error']:+7.1%} {row['error_above_base']:+.1%}"
            print(f"{name:18} {row['stage']:10} {sizes} {row['base_bytes'] / 1e6:5.0f} MB {above}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
