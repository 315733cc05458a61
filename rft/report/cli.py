"""``rft report``: a run, or several overlaid, as one HTML page and a Markdown summary."""

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="rft report",
        description="Writes report.html (one file: plots of every tier with healthy ranges, evaluations with "
        "intervals, phases, spikes, samples, certificates, configuration; no script, nothing loaded), report.md, "
        "steps.csv (every figure of every step) and headline.json. Several runs are overlaid. Reads runs only.",
    )
    parser.add_argument("run", nargs="+", help="folder, id, beginning of an id, `last`, or a training_metrics.jsonl")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: reports/<id> in the folder of runs")
    args = parser.parse_args(argv)
    from rft.report.run_report import write

    for path in write(args.run, args.out):
        print(path)
    return 0
