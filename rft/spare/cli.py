"""``rft spare sync | run | status | fetch HOST``: evaluations and diagnostics on a second machine."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rft.errors import RftError
from rft.spare import config

VERIFIED = ("commit", "series", "packages", "data")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rft spare",
        description="A second machine, described in spare.toml (--config, $RFT_SPARE_CONFIG or ~/.config/rft/):\n\n"
        + config.__doc__.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="sync|run|status|fetch")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text)
        one.add_argument("host", metavar="HOST", help="a table of spare.toml")
        one.add_argument("--config", type=Path, metavar="FILE", help="another spare.toml")
        one.add_argument("--json", action="store_true", help="machine-readable")
        return one

    def skip(one: argparse.ArgumentParser) -> None:
        text = "a difference that does not matter now; repeatable, kept with the job"
        one.add_argument("--skip", action="append", default=[], choices=VERIFIED, help=text)

    sync = verb("sync", "send code, data and adapters, then verify commit, data, patch series and package versions")
    sync.add_argument("--adapter", action="append", default=[], metavar="RUN|DIR", help="send this too; repeatable")
    sync.add_argument("--setup", choices=("cpu", "gpu"), help="run setup.sh there: packages and patches")
    skip(sync)
    run = verb("run", "verify, then start a command behind -- in tmux there; {merged} and {adapter} stand for paths")
    run.add_argument("--name", help="of the job (default: made from the command and the time)")
    run.add_argument("--adapter", metavar="RUN|DIR", help="sent first; {merged} is built from it there, once")
    run.add_argument("--base", help="the adapter's base model there (default: what the adapter names)")
    run.add_argument("--format", choices=("bf16", "mxfp4"), default="mxfp4", help="of the merged model (mxfp4)")
    skip(run)
    status = verb("status", "jobs, GPUs and disks there; with a job: the end of its log")
    status.add_argument("job", nargs="?")
    status.add_argument("--lines", type=int, default=30, help="of the log (30)")
    fetch = verb("fetch", "bring a job's folder (log, exit status, results) or a path here")
    fetch.add_argument("job", nargs="?", help="default: every job that has ended")
    fetch.add_argument("--path", help="a file or folder there instead, relative to its repository or absolute")
    fetch.add_argument("--to", type=Path, metavar="DIR", help="default: spare/HOST/ among the runs")
    return parser


def main(argv: list[str]) -> int:
    own, behind = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    args = parser().parse_args(own)
    if args.verb == "run" and not behind:
        raise RftError(f"rft spare run {args.host}: run what? give a command behind --")
    if args.verb != "run" and behind:
        raise RftError(f"rft spare {args.verb}: nothing goes behind --")
    from rft.spare.ssh import Remote

    verbs = {"sync": _sync, "status": _status, "fetch": _fetch}
    with Remote(config.load(args.host, args.config)) as remote:
        return _run(remote, args, behind) if args.verb == "run" else verbs[args.verb](remote, args)


def _sync(remote, args: argparse.Namespace) -> int:
    from rft.spare import sync, verify

    for line in sync.all_of(remote, args.adapter, args.setup):
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)
    checks = verify.require(remote, args.skip)
    if args.json:
        print(json.dumps([asdict(check) for check in checks]))
    else:
        print("\n".join(_line(check) for check in checks))
    return 0


def _line(check) -> str:
    return f"{check.name}: {'ok' if check.ok else 'skipped'}: {check.told}"


def _run(remote, args: argparse.Namespace, command: list[str]) -> int:
    from rft.spare import job, sync, verify

    name = job.new_name(command, args.name)
    checks = verify.require(remote, args.skip)
    merge = None
    if args.adapter:
        local = sync.find_adapter(args.adapter)
        there, told = sync.adapter(remote, str(local))
        print(told, file=sys.stderr)
        merge = job.merge_of(local, there, args.base, args.format)
    about = {"verified": [check.told for check in checks if check.ok], "skipped": [c.told for c in checks if c.skipped]}
    folder = job.start(remote, name, command, merge, about)
    if args.json:
        print(json.dumps({"job": name, "folder": folder, "merged": merge and merge.path(remote.host)}))
    else:
        print(f"job {name} runs in {folder}; log: rft spare status {args.host} {name}")
    return 0


def _status(remote, args: argparse.Namespace) -> int:
    from rft import runs
    from rft.disk.usage import size
    from rft.spare import job

    if args.job:
        print(job.tail(remote, args.job, args.lines), end="")
        return 0
    states, machine = job.states(remote), job.machine(remote)
    if args.json:
        print(json.dumps({"jobs": [asdict(state) for state in states], **machine}))
        return 0
    import time

    width = max((len(state.name) for state in states), default=0)
    for state in states:
        code = f" ({state.code})" if state.code else ""
        ago = runs.duration(time.time() - state.started)
        print(f"{state.name:<{width}}  {state.status}{code}  started {ago} ago  {state.line[:100]}".rstrip())
    if not states:
        print("no jobs")
    for line in machine["gpus"]:
        print(f"gpu {line}")
    for disk in machine["disks"]:
        print(f"{disk['mount']}: {size(disk['free_bytes'])} free of {size(disk['total_bytes'])}")
    return 0


def _fetch(remote, args: argparse.Namespace) -> int:
    from rft.spare import job

    if args.path and args.job:
        raise RftError("rft spare fetch: a job or --path, not both")
    if args.path:
        fetched = [{"path": str(job.fetch_path(remote, args.path, args.to))}]
    else:
        names = [args.job] if args.job else [one.name for one in job.states(remote) if one.status != "running"]
        if args.to and len(names) > 1:
            raise RftError("rft spare fetch --to: which job? name one")
        found = [job.fetch(remote, name, args.to) for name in names]
        fetched = [{"path": str(where), **asdict(state)} for where, state in found]
    if args.json:
        print(json.dumps(fetched))
    for one in () if args.json else fetched:
        print(f"{one['path']}" + (f"  {one['name']}: {one['status']}" if "name" in one else ""))
    return 0
