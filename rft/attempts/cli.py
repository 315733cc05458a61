"""``rft attempt new | start | finish | list | show | compare | presets``: an experiment from question to verdict."""

import argparse
import json
import sys
from pathlib import Path

from rft import runs
from rft.errors import RftError


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rft attempt",
        description="An attempt is a branch attempt-XX-<short-desc>, notes with question and expectation written "
        "before the run, a tag attempt-XX-start on the commit that ran, and an entry in rl_grpo_research.md.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="new|start|finish|list|show|compare|presets")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text)

    new = verb("new", "make branch and notes; with question, expectation and change given, the notes are committed")
    new.add_argument("number")
    new.add_argument("short", metavar="short-desc", help="small letters, digits, dashes, as in lr-2e-6")
    new.add_argument("--question", help="what the run decides")
    new.add_argument("--expectation", help="with the number that would refute it")
    new.add_argument("--change", help="the one change, against which run or attempt")
    start = verb("start", "check, tag attempt-XX-start, write the capsule, become the launcher; refuses a dirty tree")
    start.add_argument("number")
    start.add_argument("--preset", help="launcher and flags from presets.toml; flags behind -- are added")
    start.add_argument("--arm", help="arm of the preset, or a name of your own: a, b, …")
    start.add_argument("--presets", type=Path, metavar="FILE", help="another file of presets")
    start.add_argument("--print", action="store_true", help="check and print the command; tag and start nothing")
    start.add_argument("--no-launch", action="store_true", help="tag, write the capsule, print the command")
    start.add_argument("--retag", action="store_true", help="move the tag to HEAD, after a launch that trained nothing")
    finish = verb("finish", "write the entry with verdict and tables into rl_grpo_research.md, and commit it")
    finish.add_argument("number")
    finish.add_argument("--run", action="append", default=[], help="a run that counts (default: the last of each arm)")
    finish.add_argument("--result", action="append", default=[], type=Path, metavar="FILE", help=RESULT)
    finish.add_argument("--verdict", help="the title's words (default: what the statistics claim)")
    finish.add_argument("--anomalies", help="default: diagnosis and last whole checkpoint")
    finish.add_argument("--next", help="what follows from it")
    finish.add_argument("--force", action="store_true", help="compare arms and results that were not made alike")
    finish.add_argument("--replace", action="store_true", help="write an entry that is there anew")
    finish.add_argument("--no-commit", action="store_true", help="write the files and commit nothing")
    show = verb("show", "an attempt: notes, tag, capsules, runs, verdict")
    show.add_argument("number")
    compare = verb("compare", "two arms or attempts, as in: compare 31, compare 31a 31b, compare 31 32")
    compare.add_argument("first")
    compare.add_argument("second", nargs="?")
    compare.add_argument("--window", default="0.5", help="last share of the steps for training metrics (0.5)")
    compare.add_argument("--force", action="store_true", help="compare what was not made alike; the table says so")
    presets = verb("presets", "list the launch presets")
    presets.add_argument("--presets", type=Path, metavar="FILE", help="another file of presets")
    for one in (verb("list", "all attempts: state, runs, verdict"), show, compare, finish):
        one.add_argument("--json", action="store_true", help="machine-readable")
    return parser


RESULT = (
    "a result of an evaluation program; the first of a set and mode is what the others are compared with; repeatable"
)


def main(argv: list[str]) -> int:
    own, behind = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    args = parser().parse_args(own)
    if behind and args.verb != "start":
        raise RftError(f"rft attempt {args.verb}: nothing goes behind --")
    args.command = behind
    return {"new": _new, "start": _start, "finish": _finish, "list": _list, "show": _show}.get(args.verb, _other)(args)


def _git():
    from rft.attempts.names import top

    return top(runs.REPO)


def _new(args: argparse.Namespace) -> int:
    from rft.attempts import names, notes, start

    given = dict(zip(notes.BEFORE, (args.question, args.expectation, args.change), strict=True))
    given = {name: value for name, value in given.items() if value}
    print("\n".join(start.new(_git(), names.named(args.number, args.short), given)))
    return 0


def _start(args: argparse.Namespace) -> int:
    from rft.attempts import names, presets, start

    number, arm = names.split(args.number)
    arm = args.arm or arm
    preset = presets.get(args.preset, args.presets or presets.FILE) if args.preset else None
    if arm and not names.REFERENCE.fullmatch(f"1{arm}"):
        raise RftError(f"--arm {arm}: name it by a letter and letters or digits, as in a")
    git = _git()
    launch = start.prepare(git, number, arm, preset, args.command)
    if not args.print:
        kept = start.mark(git, launch, args.retag)
        print(f"{launch.attempt.tag} on {git.commit_of('HEAD')[:12]}, capsule {kept}", file=sys.stderr)
    if args.print or args.no_launch:
        print(launch.words())
        return 0
    start.run(git, launch)
    raise AssertionError("exec came back")


def _finish(args: argparse.Namespace) -> int:
    from rft.attempts import entry, names
    from rft.attempts.finish import finish

    number, arm = names.split(args.number)
    if arm:
        raise RftError(f"rft attempt finish {args.number}: an attempt is finished with all its arms: finish {number}")
    given = entry.Given(args.verdict, args.anomalies, args.next, tuple(args.result), args.force)
    title, chosen = finish(_git(), number, args.run, given, args.replace, not args.no_commit)
    print(entry.as_json(title, chosen) if args.json else f"{number} — {title}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from rft.attempts import found, log, names

    git = _git()
    known = log.verdicts(log.read(git.root))
    rows = [found.status(git, attempt, known.get(attempt.number)) for attempt in names.every(git)]
    if args.json:
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    if not rows:
        print("no attempts yet; rft attempt new 1 SHORT-DESC", file=sys.stderr)
    width = max((len(row["short"]) for row in rows), default=0)
    for row in rows:
        said = row["verdict"] or ", ".join(row["runs"][-2:]) or "-"
        commit = (row["commit"] or "-")[:12]
        print(f"{row['attempt']:>4}  {row['short']:<{width}}  {row['state']:<8}  {commit:<12}  {said}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from rft.attempts import capsule, found, log, names, notes

    git = _git()
    attempt = names.get(git, names.split(args.number)[0])
    tagged = git.commit_of(f"refs/tags/{attempt.tag}")
    text = git.show(tagged or attempt.branch, attempt.notes)
    if text is None and (git.root / attempt.notes).is_file():
        text = (git.root / attempt.notes).read_text(encoding="utf-8")
    about = found.status(git, attempt, log.verdicts(log.read(git.root)).get(attempt.number))
    about["notes"] = notes.sections(text or "")
    about["runs"] = [{"arm": run.arm, **run.state} for run in found.of(attempt)]
    about["launches"] = capsule.launches(git, attempt)
    if args.json:
        print(json.dumps(about, ensure_ascii=False))
        return 0
    print(f"{attempt.branch}: {about['state']}" + (f", {attempt.tag} on {tagged[:12]}" if tagged else ""))
    for name, value in about["notes"].items():
        print(f"{name}: {' '.join(value.split()) or '-'}")
    for one in about["launches"]:
        print(f"launch {one['arm'] or ''} {one['time']} series {one['series_id']}: {' '.join(one['command'])}")
    for run in about["runs"]:
        print(f"run {run['arm'] or ''} {run['id']}: {run['status']}, {run['steps']} steps, reward {run['reward']}")
    if about["verdict"]:
        print(f"verdict: {about['verdict']}")
    return 0


def _other(args: argparse.Namespace) -> int:
    if args.verb == "presets":
        from rft.attempts import presets

        for name, preset in presets.load(args.presets or presets.FILE).items():
            print(f"{name}: {preset.about}\n  {preset.launcher}, {preset.change}")
        return 0
    from rft.attempts import found, names
    from rft.evals import compare_cli

    git = _git()
    pair = [args.first, args.second]
    if args.second is None:
        number, arm = names.split(args.first)
        arms = [name or "" for name in found.by_arm(found.of(names.get(git, number)))]
        if arm or len(arms) != 2:
            raise RftError(f"rft attempt compare {args.first}: with which? name two, as in: compare 31a 31b")
        pair = [f"{number}{name}" for name in arms]
    folders = [str(found.one(git, reference).folder) for reference in pair]
    switches = [f"--{name}" for name in ("force", "json") if getattr(args, name)]
    return compare_cli.main([*folders, "--window", args.window, *switches])
