"""``rft disk``: what runs, checkpoints and caches take up, what may go, what does not belong."""

import argparse
import json
import shutil
import sys
from pathlib import Path

from rft import runs
from rft.errors import RftError

MOST_RUNS = 20


def parser() -> argparse.ArgumentParser:
    from rft.disk.rules import RULES

    said = [f"{name}: {text}{'' if plain else ' (only when named)'}" for name, (_, text, plain) in RULES.items()]
    described = "; ".join(said)
    parser = argparse.ArgumentParser(
        prog="rft disk",
        description="Shows what runs, their checkpoints and the caches take on the disk. With --prune it lists what "
        f"may go, and deletes it only with --yes. Rules: {described}. Nothing of a run that is under way is touched.",
    )
    parser.add_argument("run", nargs="?", help="one run only: an id, a unique beginning of one, `last`, or a path")
    parser.add_argument("--prune", action="store_true", help="list what the rules would delete")
    parser.add_argument("--yes", action="store_true", help="with --prune: delete it")
    parser.add_argument("--rule", action="append", choices=list(RULES), help="only this rule; repeatable")
    parser.add_argument("--keep", type=int, default=1, metavar="N", help="newest whole checkpoints to keep (1)")
    parser.add_argument("--older", type=float, default=0.0, metavar="DAYS", help="only what ended so long ago")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    return parser


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.keep < 1:
        raise RftError(f"--keep {args.keep}: keep at least 1 checkpoint of every run")
    if args.yes and not args.prune:
        raise RftError("--yes: only with --prune, which lists what may go")
    if args.older < 0:
        raise RftError(f"--older {args.older}: give days, 0 or more")
    from rft.disk import inventory
    from rft.disk.usage import Counter

    counter = Counter()
    found = inventory.run_uses(counter)
    if args.run:
        wanted = runs.read_json(runs.find(args.run) / runs.RUN_FILE).get("id")
        found = [run for run in found if run.id == wanted]
    if args.prune:
        return _prune(args, found)
    caches = [] if args.run else inventory.caches(counter)
    if args.json:
        print(json.dumps(_as_dict(found, caches, counter), default=str))
    else:
        print("\n".join(_table(found, caches, counter, args.run is not None)))
    return 0


def _prune(args: argparse.Namespace, found) -> int:
    from rft.disk import rules
    from rft.disk.usage import size

    chosen = args.rule or [name for name, (_, _, plain) in rules.RULES.items() if plain]
    whole, options = found, rules.Options(args.keep, args.older)
    proposals = [one for name in chosen for one in rules.RULES[name][0](whole, options)]
    freed = 0
    for one in proposals:
        if args.yes:
            rules.remove(one)
        freed += one.bytes
        if not args.json:
            print(f"{'deleted' if args.yes else 'would delete'}  {size(one.bytes):>8}  {one.path}  ({one.why})")
    if args.json:
        listed = [{**vars(one), "path": str(one.path)} for one in proposals]
        print(json.dumps({"deleted": args.yes, "bytes": freed, "proposals": listed}))
    elif not proposals:
        print("nothing to delete by these rules")
    else:
        print(f"{size(freed)} {'freed' if args.yes else 'to free: the same command with --yes deletes it'}")
    return 0


def _table(found, caches, counter, alone: bool) -> list[str]:
    """alone: one run was asked for, so each of its parts is told."""
    from rft.disk.usage import size

    lines = []
    for disk, free, total in _disks(found, caches):
        lines.append(f"{disk}: {size(free)} free of {size(total)}")
    lines.append("")
    for run in found[:MOST_RUNS]:
        kinds = {
            kind: sum(part.bytes for part in run.of(kind)) for kind in ("checkpoint", "final", "samples", "metrics")
        }
        count = len(run.of("checkpoint"))
        told = [f"{count} checkpoints {size(kinds['checkpoint'])}"] if count else []
        told += [f"{kind} {size(kinds[kind])}" for kind in ("final", "samples", "metrics") if kinds[kind]]
        lines.append(f"{size(run.bytes):>8}  {run.id}  {run.status}  {', '.join(told)}")
        for kind, what in (("shards", "full-model files that do not belong"), ("half", "saves that were cut off")):
            if run.of(kind):
                places = sorted({str(part.path.parent) for part in run.of(kind)})
                taken = size(sum(part.bytes for part in run.of(kind)))
                lines.append(f"          ! {len(run.of(kind))} {what}, {taken}, in {', '.join(places[:2])}")
        if alone:
            lines += [f"{size(part.bytes):>10}  {part.kind}  {part.path}" for part in run.parts]
    if len(found) > MOST_RUNS:
        rest = found[MOST_RUNS:]
        lines.append(f"{size(sum(run.bytes for run in rest)):>8}  {len(rest)} more runs")
    lines += [""] if caches and found else []
    lines += [f"{size(one.bytes):>8}  {one.name}  {one.path}" for one in sorted(caches, key=lambda one: -one.bytes)]
    lines += [f"not readable: {path}" for path in counter.unreadable[:3]]
    if not found and not caches:
        print(f"no runs in {runs.runs_dir()}", file=sys.stderr)
    return lines


def _disks(found, caches) -> list[tuple[str, int, int]]:
    """(mount, free, total) of every file system that something lies on."""
    from rft.disk.usage import existing

    places = [runs.runs_dir(), *(part.path for run in found for part in run.parts), *(one.path for one in caches)]
    disks: dict[int, tuple[str, int, int]] = {}
    for place in map(existing, places):
        device = place.stat().st_dev
        if device not in disks:
            space = shutil.disk_usage(place)
            disks[device] = (str(_mount(place)), space.free, space.total)
    return list(disks.values())


def _mount(path: Path) -> Path:
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path


def _as_dict(found, caches, counter) -> dict:
    return {
        "disks": [{"mount": m, "free_bytes": free, "total_bytes": total} for m, free, total in _disks(found, caches)],
        "runs": [
            {"id": run.id, "status": run.status, "bytes": run.bytes, "parts": [vars(part) for part in run.parts]}
            for run in found
        ],
        "caches": [vars(one) for one in caches],
        "unreadable": counter.unreadable,
    }
