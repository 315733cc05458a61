"""Jobs on the other machine: each a tmux session, a folder with its script, log, exit status and results.

    <jobs>/<name>/job.sh, job.json, log.txt, exit (its exit status, once it ended), evals/ ($RFT_EVALS_DIR)

The sessions live on a tmux server of their own (``tmux -L rft``), so that no one else's is listed or ended. Main
thread.
"""

import datetime
import json
import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rft import runs
from rft.errors import RftError
from rft.evals import adapters
from rft.spare.config import Host
from rft.spare.ssh import Remote

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")
START = """
set -e
command -v tmux >/dev/null || { echo "tmux is not installed there; install it" >&2; exit 1; }
mkdir -p "$1"
folder=$1/$2
if [ -e "$folder" ]; then echo "job $2 exists already; choose another --name" >&2; exit 1; fi
mkdir "$folder"
trap 'code=$?; [ $code = 0 ] || rm -rf "${folder:?}"; exit $code' EXIT
cat > "$folder/job.sh"
printf '%s\\n' "$3" > "$folder/job.json"
tmux -L rft new-session -d -s "$2" "exec bash $(printf %q "$folder/job.sh")" >&2
"""
STATUS = """
cd "$1" 2>/dev/null || exit 0
for folder in */; do
  name=${folder%/}
  [ -f "$name/job.sh" ] || continue
  code=-
  if [ -f "$name/exit" ]; then code=$(cat "$name/exit"); fi
  live=no
  tmux -L rft has-session -t "=$name" 2>/dev/null && live=yes
  printf '%s\\t%s\\t%s\\t%s\\t%s\\n' "$name" "$code" "$live" "$(stat -c %Y "$name/job.sh")" \
    "$(tail -c 400 "$name/log.txt" 2>/dev/null | tr '\\r' '\\n' | grep -v '^[[:space:]]*$' | tail -n 1 | tr '\\t' ' ')"
done
"""
MACHINE = """
nvidia-smi --query-gpu=index,utilization.gpu,memory.used,memory.total --format=csv,noheader 2>/dev/null |
  sed 's/^/gpu /'
for path in "$@"; do
  while [ ! -e "$path" ]; do path=$(dirname "$path"); done
  df -PB1 "$path" | awk 'NR == 2 { print "disk " $6 " " $4 " " $2 }'
done | sort -u
"""
TAIL = '[ -f "$1/job.sh" ] || { echo "no such job" >&2; exit 1; }; tail -n "$2" "$1/log.txt" 2>/dev/null; exit 0'


@dataclass(frozen=True)
class Merge:
    """A merged model that the job needs: made there by ``rft export`` unless it stands in the cache already.

    adapter  path there; base: folder or hub id there, None: what the adapter names; key: name in the cache
    """

    adapter: str
    base: str | None
    form: str
    key: str

    def path(self, host: Host) -> str:
        return str(PurePosixPath(host.merged) / self.key)


def merge_of(local: Path, there: str, base: str | None, form: str) -> Merge:
    """The merge of an adapter that was sent; equal adapter, base and format share one place in the cache."""
    read = adapters.read(local)
    source = base or read.base or "base"
    tail = re.sub(r"[^A-Za-z0-9_.-]", "_", PurePosixPath(source).name)
    return Merge(there, base, form, f"{tail}-{read.digest[:16]}-{form}")


def new_name(command: Sequence[str], given: str | None) -> str:
    """raises  RftError: a name that cannot be a session's and a folder's"""
    words = [word for word in command if not word.startswith("-")]
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", PurePosixPath(words[-1] if len(words) < 2 else words[1]).stem) or "job"
    stamp = datetime.datetime.now(datetime.UTC).strftime("%m%d-%H%M%S")
    name = given or f"{stem[:30]}-{stamp}-{secrets.token_hex(2)}".lstrip("-_")
    if not NAME.fullmatch(name):
        raise RftError(f"--name {name!r}: use letters, digits, dash, underscore, at most 61")
    return name


def script(host: Host, name: str, command: Sequence[str], merge: Merge | None) -> str:
    """job.sh: works in the repository there, Python's folder first in PATH; output and exit status go to files.

    ``{merged}`` and ``{adapter}`` in the command stand for those paths there.
    """
    folder = PurePosixPath(host.jobs) / name
    if merge is None and any("{merged}" in word or "{adapter}" in word for word in command):
        raise RftError("{merged} or {adapter} in the command: say which with --adapter")
    build = merge and any("{merged}" in word for word in command)
    if merge:
        paths = {"{merged}": merge.path(host), "{adapter}": merge.adapter}
        command = [re.sub(r"\{merged\}|\{adapter\}", lambda m: paths[m[0]], word) for word in command]
    env = {"RFT_EVALS_DIR": str(folder / "evals"), "RFT_MERGED_DIR": host.merged, "PYTHONUNBUFFERED": "1", **host.env}
    lines = ["#!/usr/bin/env bash", f"cd {shlex.quote(str(folder))} || exit 1"]
    lines += [f"export {key}={shlex.quote(value)}" for key, value in env.items()]
    lines += [f'export PATH={shlex.quote(str(PurePosixPath(host.interpreter).parent))}:"$PATH"']
    lines += [f'export PYTHONPATH={shlex.quote(host.repo)}"${{PYTHONPATH:+:$PYTHONPATH}}"']
    lines += ["job() {", f"  cd {shlex.quote(host.repo)} || return 1"]
    if build:
        lines += [f"  {line}" for line in _merge_lines(host, merge)]
    lines += [f"  {shlex.join(command)}", "}"]
    lines += ["job >log.txt 2>&1 </dev/null", f"echo $? > {shlex.quote(str(folder / 'exit.part'))}"]
    lines += [f"mv {shlex.quote(str(folder / 'exit.part'))} {shlex.quote(str(folder / 'exit'))}"]
    return "\n".join(lines) + "\n"


def _merge_lines(host: Host, merge: Merge) -> list[str]:
    """One at a time, so that two jobs do not make the same model; an export is there whole or not at all."""
    path = shlex.quote(merge.path(host))
    words = [host.interpreter, "-m", "rft.cli", "export", "--adapter", merge.adapter, "--out", merge.path(host)]
    words += ["--format", merge.form, "--quiet", *(["--base", merge.base] if merge.base else [])]
    return [
        f"mkdir -p {shlex.quote(host.merged)}",
        f"exec 9>{path}.lock && flock 9",
        f"if [ -e {path} ]; then echo merged model: {path} is there already; else",
        f"  {shlex.join(words)} || return 1",
        "fi",
        f"touch {path}",  # rft disk --prune --rule merged goes by the last use
        "exec 9>&-",
    ]


def start(remote: Remote, name: str, command: Sequence[str], merge: Merge | None, about: dict) -> str:
    """Starts the job; its folder there.

    about   goes into job.json: commit, what was verified and what was skipped
    raises  RftError: the name is taken, tmux is missing, no connection, disk full
    """
    host = remote.host
    text = script(host, name, command, merge)
    record = json.dumps({"name": name, "command": list(command), "merged": merge and merge.path(host), **about})
    remote.say(START, host.jobs, name, record, text=text)
    return str(PurePosixPath(host.jobs) / name)


@dataclass(frozen=True)
class State:
    """status: running | finished | failed | died; code: exit status or None; started: unix seconds."""

    name: str
    status: str
    code: int | None
    started: float
    line: str


def states(remote: Remote) -> list[State]:
    """All jobs of the machine, oldest first."""
    found = []
    for row in remote.say(STATUS, remote.host.jobs).splitlines():
        name, code, live, started, line = (row.split("\t") + [""] * 5)[:5]
        ended = code.lstrip("-").isdigit()
        status = ("finished" if code == "0" else "failed") if ended else "running" if live == "yes" else "died"
        found.append(State(name, status, int(code) if ended else None, float(started), line))
    return sorted(found, key=lambda state: (state.started, state.name))


def machine(remote: Remote) -> dict:
    """{"gpus": [line], "disks": [{"mount", "free_bytes", "total_bytes"}]} of the machine."""
    host = remote.host
    lines = remote.say(MACHINE, host.repo, host.adapters, host.merged, host.jobs).splitlines()
    disks = [line.split(maxsplit=1)[1].rsplit(maxsplit=2) for line in lines if line.startswith("disk ")]
    gpus = [line.removeprefix("gpu ") for line in lines if line.startswith("gpu ")]
    return {"gpus": gpus, "disks": [{"mount": m, "free_bytes": int(f), "total_bytes": int(t)} for m, f, t in disks]}


def tail(remote: Remote, name: str, lines: int) -> str:
    """The end of a job's log.

    raises  RftError: no such job
    """
    remedy = f"see rft spare status {remote.host.name}"
    return remote.say(TAIL, str(PurePosixPath(remote.host.jobs) / _named(name)), str(lines), remedy=remedy)


def fetch(remote: Remote, name: str, to: Path | None) -> tuple[Path, State]:
    """The job's folder to ``spare/<machine>/<name>`` among the runs; (where it is, the job's state).

    raises  RftError: no such job, interrupted, disk full here
    """
    host, source = remote.host, PurePosixPath(remote.host.jobs) / _named(name)
    state = next((one for one in states(remote) if one.name == name), None)
    if state is None:
        raise RftError(f"{host.name}: no job {name!r} in {host.jobs}; see rft spare status {host.name}")
    return into(remote, f"job {name}", str(source), to or runs.runs_dir() / "spare" / host.name / name), state


def fetch_path(remote: Remote, path: str, to: Path | None) -> Path:
    """Any file or folder there (relative: to the repository there), to ``spare/<machine>/`` among the runs."""
    source = PurePosixPath(remote.host.repo) / path
    kind = remote.say(
        'if [ -d "$1" ]; then echo folder; else [ -e "$1" ] && echo file; fi; exit 0', str(source)
    ).strip()
    if not kind:
        raise RftError(f"{remote.host.name}: {source}: not there; name a path there")
    target = to or runs.runs_dir() / "spare" / remote.host.name / source.name
    return into(remote, source.name, str(source), target, folder=kind == "folder")


def into(remote: Remote, what: str, source: str, target: Path, folder: bool = True) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            target.mkdir(exist_ok=True)
    except OSError as err:
        raise RftError(f"{target}: {err.strerror}; name another place with --to") from err
    remote.fetch(what, f"{source}/" if folder else source, Path(f"{target}/") if folder else target)
    return target


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        raise RftError(f"job {name!r}: no name of a job; see rft spare status")
    return name
