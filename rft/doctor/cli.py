"""``rft doctor [run]``: what a run is stuck on, or died of; one dated bundle and a verdict."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from rft import runs


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rft doctor",
        description="Examines a run that hangs or has died: stacks of all its processes (py-spy), Ray's actors, what "
        "the trainer waits for, last metrics, OOM kills, GPUs, disks, stale compiler locks. Prints who is to blame and "
        "writes <run>/doctor/<date>/ and a .tar.gz of it. Changes nothing of the run.",
    )
    parser.add_argument(
        "run", nargs="?", default="last", help="an id, a unique beginning of one, `last` (default), a path"
    )
    parser.add_argument("--out", metavar="DIR", help="write the bundle there instead")
    parser.add_argument("--late", metavar="TEXT", help="what the watchdog saw; it opens the verdict")
    parser.add_argument("--json", action="store_true", help="verdict, process, frame and bundle as JSON")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    folder = runs.find(args.run)
    from rft.doctor import bundle, evidence, verdict

    with _bar(len(evidence.COLLECTORS)) as done:
        found = evidence.collect(folder, args.late, done)
    accused = verdict.guilty(found)
    said = verdict.paragraph(found, accused)
    made = bundle.write(found, said, Path(args.out) if args.out else folder / "doctor")
    if args.json:
        named = vars(accused) if accused else {}
        print(json.dumps({"verdict": said, **named, "bundle": str(made), "missing": found.problems}))
    else:
        print(said)
        for what, why in found.problems.items():
            print(f"  without {what}: {why}")
        print(f"bundle: {made}  ({made.name}.tar.gz beside it)")
    return 0


@contextlib.contextmanager
def _bar(total: int):
    """Yields what is called after each part; draws only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("examining", total=total)
        yield lambda name: progress.update(task, advance=1, description=f"examining: {name}")
