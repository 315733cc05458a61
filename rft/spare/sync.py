"""Code, data and adapters to the other machine: code as a git bundle, the rest by rsync, adapters checked by digest.

What is sent is what is committed here; a changed checkout on either side is refused. Main thread.
"""

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from rft import runs
from rft.attempts.git import Git
from rft.disk import whole
from rft.errors import RftError
from rft.evals import of_run
from rft.provenance import sha256
from rft.spare.ssh import Remote

STATE = """
if [ ! -e "$1/.git" ]; then
  if [ -d "$1" ] && [ -n "$(ls -A "$1")" ]; then echo foreign; else echo none; fi
  exit 0
fi
git -C "$1" rev-parse --verify -q HEAD || echo none
git -C "$1" status --porcelain --untracked-files=no | head -3
"""
UNPACK = """
set -e
mkdir -p "$1" && cd "$1"
[ -e .git ] || git init -q
git bundle verify -q "$2" >&2
git fetch -q "$2" +HEAD:refs/rft/synced >&2
git checkout -q --detach "$3" >&2
rm -f "$2"
git rev-parse HEAD
"""
PLACE = """
set -e
cd "$1"
sha256sum --quiet --strict --check - >&2 || { echo "error: what arrived is not what was sent" >&2; exit 1; }
rm -rf "$2.old"
[ ! -e "$2" ] || mv "$2" "$2.old"
mv "$1" "$2"
rm -rf "$2.old"
"""
PRESENT = 'cd "$1" 2>/dev/null && sha256sum --quiet --strict --check - >/dev/null 2>&1 && echo yes; exit 0'


def code(remote: Remote, root: Path = runs.REPO) -> str:
    """Brings the repository there to the commit that is checked out here; says what was done.

    raises  RftError: changes on either side, a folder there that is no repository, no connection, disk full
    """
    git, host = Git(root), remote.host
    git.require_clean(f"{host.name} gets what is committed")
    commit = git.commit_of("HEAD")
    if commit is None:
        raise RftError(f"{root}: no commit yet; commit what {host.name} is to get")
    state = remote.say(STATE, host.repo).splitlines()
    there, changed = state[0], state[1:]
    if there == "foreign":
        raise RftError(f"{host.name}: {host.repo}: not empty and no git repository; name another repo in spare.toml")
    if changed:
        names = ", ".join(line[3:] for line in changed)
        raise RftError(
            f"{host.name}: {host.repo}: changed there: {names}; commit or discard that there, then call again"
        )
    if there == commit:
        return f"code: {commit[:12]} is there already"
    known = there != "none" and git.ask("merge-base", "--is-ancestor", there, commit).returncode == 0
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / f".{PurePosixPath(host.repo).name}-{commit[:12]}.bundle"
        git("bundle", "create", "--quiet", str(bundle), "HEAD", *([f"^{there}"] if known else []))
        above = str(PurePosixPath(host.repo).parent)
        remote.say('mkdir -p "$1"', above, remedy="make it writable there, then call again")
        remote.send("code", [str(bundle)], f"{above}/")
        size = bundle.stat().st_size
        got = remote.say(UNPACK, host.repo, f"{above}/{bundle.name}", commit).strip()
    if got != commit:
        raise RftError(f"{host.name}: wrong commit: {got[:12]} is checked out, {commit[:12]} was sent; call again")
    return f"code: {there[:12] if known else 'whole history'} to {commit[:12]}, {size / 1e6:.2f} MB"


def data(remote: Remote, root: Path = runs.REPO) -> str:
    """What spare.toml names as data; links that lead out of the repository are sent as files."""
    names = remote.host.data
    missing = next((name for name in names if not (root / name).exists()), None)
    if missing:
        raise RftError(f"{root / missing}: not there, and {remote.host.name}'s data names it; make it or take it out")
    if not names:
        return "data: none named"
    remote.say('mkdir -p "$1"', remote.host.repo)
    options = ("--relative", "--copy-unsafe-links", "--exclude=.gitignore")
    remote.send("data", list(names), f"{remote.host.repo}/", *options, cwd=root)
    return f"data: {', '.join(names)}"


def adapter(remote: Remote, reference: str) -> tuple[str, str]:
    """Sends one adapter or checkpoint folder; (its path there, what was done).

    It appears under its name when every file has arrived and has the digest that it has here.
    reference  a folder, or a run: then its newest whole checkpoint, else its final adapter
    raises     RftError: no adapter, damaged here or on the way, no connection, disk full
    """
    folder = find_adapter(reference)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = "".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files)
    run = of_run.find(folder)
    target = PurePosixPath(remote.host.adapters) / (runs.read_json(run / runs.RUN_FILE)["id"] if run else "adapters")
    target /= folder.resolve().name
    if "yes" in remote.say(PRESENT, str(target), text=sums):
        return str(target), f"adapter: {target} is there already"
    part = target.with_name(f".{target.name}.part")
    remote.say('mkdir -p "$1"', str(part), remedy="make it writable there, then call again")
    remote.send("adapter", [f"{folder}/"], f"{part}/", "--delete")
    remote.say(PLACE, str(part), str(target), text=sums, remedy="call again")
    return str(target), f"adapter: {target}, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"


def find_adapter(reference: str) -> Path:
    """raises  RftError: there is none, or it is damaged"""
    folder = Path(reference)
    if not folder.is_dir() or (folder / runs.RUN_FILE).is_file():
        places = of_run.folders(runs.find(reference))
        newest = whole.newest(places["ckpt"])
        folder = newest or places["save"]
        if not folder.is_dir():
            raise RftError(f"{reference}: no whole checkpoint and no final adapter; name a folder with an adapter")
    if not (folder / "adapter_config.json").is_file():
        raise RftError(f"{folder}: no adapter_config.json, so it is no adapter; name a run or a global_step*_hf folder")
    wrong = whole.verify(folder) if (folder / whole.DIGESTS).is_file() else None
    if wrong:
        raise RftError(f"{folder}: {wrong}; choose another checkpoint")
    return folder


def setup(remote: Remote, kind: str) -> str:
    """``setup.sh`` there: packages and patches; its output goes to the terminal.

    raises  RftError: it fails
    """
    host = remote.host
    code_ = remote.shown('cd "$1" && exec bash setup.sh "$2"', host.repo, kind)
    if code_ != 0:
        log = shlex.quote(f"{host.repo}/.venv-setup.log")
        raise RftError(f"{host.name}: setup.sh {kind} failed (exit status {code_}); see {log} there")
    return f"set-up: {kind}"


def all_of(remote: Remote, adapters: Sequence[str], kind: str | None, root: Path = runs.REPO):
    """Code, set-up where asked for, data, adapters, in this order; yields a line after each."""
    yield code(remote, root)
    if kind:
        yield setup(remote, kind)
    yield data(remote, root)
    for one in adapters:
        yield adapter(remote, one)[1]
