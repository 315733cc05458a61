"""``rft monitor [RUN]`` and monitor.sh: the live screen, a plain snapshot (--once), a picture of it (--svg)."""

import argparse
import os
import sys

from rft.errors import RftError

EVERY_S = 2.0
ONCE_WIDTH = 80
EPILOG = "Keys: q quits, a shows all figures or the essential ones. Reads only; works on a copied run folder too."


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="rft monitor", description="Follows a run's JSONL files on the terminal.", epilog=EPILOG
    )
    found.add_argument("run", nargs="?", default="last", help="id, beginning of one, `last` (default), or a folder")
    found.add_argument("--once", action="store_true", help="print one plain snapshot and leave, as into a pipe")
    found.add_argument("--all", action="store_true", help="every figure of tiers 1 to 3, not the essential ones alone")
    found.add_argument("--every", type=float, default=EVERY_S, metavar="S", help="seconds between looks (default 2)")
    found.add_argument("--width", type=int, help="columns (default: the terminal's; 80 into a pipe)")
    found.add_argument("--no-color", action="store_true", help="no colour (also: NO_COLOR=1)")
    found.add_argument("--ascii", action="store_true", help="no character beyond ASCII")
    found.add_argument("--no-diagnosis", action="store_true", help="leave the diagnosis out; it takes a second to load")
    found.add_argument("--svg", metavar="FILE", help="write the snapshot as an SVG picture")
    return found


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if not args.every >= 0.1:
        raise RftError(f"--every {args.every:g}: at least 0.1 s")
    if args.width is not None and args.width < 40:
        raise RftError(f"--width {args.width}: at least 40 columns")
    from rft.monitor.live import once, watch

    console = _console(args)
    if args.svg or args.once or not console.is_terminal or console.is_dumb_terminal:
        return once(args, console)
    return watch(args, console)


def _console(args: argparse.Namespace):
    """A console for stdout; for --svg one that records, at a fixed width and in colour."""
    from rich.console import Console

    if args.svg:
        return Console(
            record=True,
            file=open(os.devnull, "w"),
            width=args.width or 100,
            force_terminal=True,
            color_system="truecolor",
        )
    plain = args.no_color or args.once or not sys.stdout.isatty()
    width = args.width or (None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or ONCE_WIDTH))
    return Console(width=width, no_color=plain or None, highlight=False, soft_wrap=False, markup=False, emoji=False)
