"""``rft samples RUN``: a screen on a terminal; a table, one answer in full (--show) or JSON lines elsewhere."""

import argparse
import json
import os
import sys

from rft.errors import RftError

BAR_FROM_BYTES = 50_000_000  # a progress bar while reading more than this
EPILOG = """examples:
  rft samples last                                    browse; / search, f filter, s sort, enter read
  rft samples last --set train --where 'reward<0.5 truncated=1'
  rft samples last --step 40 --search '/boxed\\{97/' --show 1
  rft samples last --set eval --sort -response_length --json | head
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="rft samples",
        description="Browses the answers that a run saved: training samples and evaluations.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("run", nargs="?", default="last", help="id, beginning of one, `last` (default), or a folder")
    found.add_argument("--step", default="all", metavar="N", help="steps: N, N,M, `last` or `all` (default)")
    found.add_argument("--set", default="all", choices=("all", "train", "eval"), help="training samples, evaluations")
    found.add_argument(
        "--where", default="", metavar="FILTER", help="comparisons that must all hold (= != < <= > >= ~)"
    )
    found.add_argument("--search", default="", metavar="TEXT", help="text, or /pattern/, in prompt, label or answer")
    found.add_argument("--sort", default="", metavar="FIELD", help="by a field; -FIELD: largest first")
    found.add_argument("--limit", type=int, default=0, metavar="N", help="at most N rows in a table or of JSON")
    found.add_argument("--once", action="store_true", help="print the table and leave, as into a pipe")
    found.add_argument("--show", type=int, metavar="N", help="print the N-th row of the table in full")
    found.add_argument("--json", action="store_true", help="print the rows as JSON lines, texts included")
    found.add_argument("--fields", action="store_true", help="print the fields that filters can use")
    return found


def main(argv: list[str]) -> int:
    args = parser().parse_args(_joined(argv))
    steps = _steps(args.step)
    from rft.monitor.source import open_run
    from rft.samples_browser import index

    source = open_run(args.run)
    if source is None:
        raise RftError("there is no run yet: give the folder of one, or start one with bash train_grpo.sh")
    folder = source.samples if source.samples.is_dir() or not _has_samples(source.run_dir) else source.run_dir
    samples = _read(index.files(folder, steps, args.set))
    if args.fields:
        print("\n".join(samples.names()))
        return 0
    return _show(args, samples)


def _joined(argv: list[str]) -> list[str]:
    """``--sort -reward`` as ``--sort=-reward``: argparse takes what begins with a dash for an option."""
    tokens = list(argv)
    for place in range(len(tokens) - 1, 0, -1):
        if tokens[place - 1] == "--sort" and tokens[place].startswith("-") and not tokens[place].startswith("--"):
            tokens[place - 1 : place + 1] = [f"--sort={tokens[place]}"]
    return tokens


def _steps(text: str) -> set[int] | None:
    """None: all; {}: the newest."""
    if text == "all":
        return None
    if text == "last":
        return set()
    try:
        return {int(part) for part in text.split(",")}
    except ValueError:
        raise RftError(f"--step {text}: give a number, several with commas, `last` or `all`") from None


def _has_samples(folder) -> bool:
    return any(folder.glob("samples_step*.jsonl")) or any(folder.glob("eval_step*.jsonl"))


def _read(entries: list):
    """The index, with a progress bar where that takes a while."""
    from rft.samples_browser import index

    total = sum(os.path.getsize(path) for _, _, path in entries)
    if total < BAR_FROM_BYTES or not sys.stderr.isatty():
        return index.read(entries)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    with Progress(
        "reading", BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("reading", total=total)
        return index.read(entries, lambda count: bar.advance(task, count))


def _show(args: argparse.Namespace, samples) -> int:
    from rich.console import Console

    from rft.samples_browser import query

    screen = sys.stdout.isatty() and sys.stdin.isatty() and os.environ.get("TERM") != "dumb"
    asked = {"where": args.where, "search": args.search, "sort": args.sort}
    if screen and not (args.once or args.json or args.show is not None):
        return _browse(samples, asked, Console(markup=False, highlight=False, emoji=False))
    rows = query.select(samples, **asked)
    if samples.passed_over:
        print(f"{samples.passed_over} torn or foreign lines passed over", file=sys.stderr)
    if args.show is not None:
        return _print_one(rows, args.show)
    rows = rows[: args.limit] if args.limit > 0 else rows
    return _print_json(rows) if args.json else _print_table(rows, len(samples.rows))


def _print_one(rows: list, number: int) -> int:
    from rft.samples_browser import index, view

    if not 1 <= number <= len(rows):
        raise RftError(f"--show {number}: there are {len(rows)} rows; give 1 to {len(rows)}, or loosen the filter")
    row = rows[number - 1]
    print(view.full(row, index.texts(row)).plain.rstrip())
    return 0


def _print_json(rows: list) -> int:
    from rft.metrics_file import finite
    from rft.samples_browser import index

    for row in rows:
        print(json.dumps(finite({**index.texts(row), **row.fields}), ensure_ascii=True))
    return 0


def _print_table(rows: list, total: int) -> int:
    from rft.samples_browser import index, view

    width = int(os.environ.get("COLUMNS") or 0) or (os.get_terminal_size().columns if sys.stdout.isatty() else 80)
    shown = view.columns(rows)
    print(view.heading(shown))
    for number, row in enumerate(rows, 1):
        print(view.line(number, row, shown, index.texts(row), width))
    print(f"{len(rows)} of {total} answers")
    return 0


def _browse(samples, asked: dict[str, str], console) -> int:
    from rich.console import Group
    from rich.live import Live

    from rft.monitor.keys import Keys
    from rft.samples_browser.browse import Browser

    browser = Browser(samples, **asked)
    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        size = None
        while not browser.done:
            pressed = keys.wait(0.5) if size == console.size else []
            for key in pressed:
                browser.done = browser.done or key == "eof"
                browser.press(key)
            if pressed or size != console.size:
                size = console.size
                live.update(Group(*browser.lines(size.width, size.height, console)), refresh=True)
    return 0
