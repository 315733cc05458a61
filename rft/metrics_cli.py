"""``rft metrics``: what each figure of a run means, and whether a run's metrics file is whole."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rft import metrics
from rft.errors import RftError
from rft.metrics_check import check_file

START, END = "<!-- metrics -->", "<!-- /metrics -->"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="rft metrics", description=__doc__)
    made.add_argument("names", nargs="*", metavar="NAME", help="figures to explain (default: all)")
    made.add_argument("--markdown", action="store_true", help="the README's table: figures with a healthy range")
    made.add_argument("--all", action="store_true", help="with --markdown or --update: every figure (docs/metrics.md)")
    made.add_argument("--json", action="store_true", help="the definitions as JSON")
    made.add_argument("--update", type=Path, metavar="FILE", help=f"put the table between {START} and {END} in FILE")
    made.add_argument("--check", type=Path, metavar="RUN", help="check a run's folder, or its training_metrics.jsonl")
    return made


def between_markers(text: str, where: str) -> tuple[int, int]:
    """Start and end of what stands between the markers. RftError if they are not there, once and in order."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise RftError(
            f"{where}: needs one line {START} and one line {END} after it; add them where the table is to be"
        )
    return text.index(START) + len(START), text.index(END)


def update(path: Path, ranges_only: bool) -> None:
    """Write the table into `path`, or nothing at all."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as err:
        raise RftError(f"{path}: {err.strerror}; give a Markdown file") from err
    start, end = between_markers(text, str(path))
    part = path.with_name(path.name + ".part")
    part.write_text(f"{text[:start]}\n{metrics.markdown(ranges_only)}\n{text[end:]}", encoding="utf-8")
    part.replace(path)


def explain(name: str) -> str:
    """One figure in one line; RftError for a name that nothing has."""
    metric = metrics.get(name)
    if metric is None:
        raise RftError(
            f"{name}: no figure of rft's; rft metrics lists them (a reward's own fields are means over samples)"
        )
    about = ", ".join(part for part in (metrics.TIERS[metric.tier], metric.unit, metric.range_text()) if part)
    return f"{metric.name}  {metric.formula}  ({about}; from {metric.source})"


def main(argv: list[str]) -> int:
    """0; with --check 1 if the file has problems."""
    options = parser().parse_args(argv)
    if options.check:
        path = options.check
        if path.is_dir():
            path = next(p for p in (path / "metrics", path) if p.is_dir()) / "training_metrics.jsonl"
        problems = check_file(path)
        print("\n".join(problems) if problems else f"{path}: whole")
        return 1 if problems else 0
    if options.update:
        update(options.update, ranges_only=not options.all)
    elif options.json:
        wanted = [metrics.get(name) for name in options.names] if options.names else metrics.METRICS.values()
        print(json.dumps([asdict(metric) for metric in wanted if metric is not None]))
    elif options.markdown:
        print(metrics.markdown(ranges_only=not options.all))
    else:
        print("\n".join(explain(name) for name in options.names or metrics.METRICS))
    return 0
