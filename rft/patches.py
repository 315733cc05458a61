"""Install integrity: applies the repo's patch series to the installed OpenRLHF, and says whether it is applied.

Called by apply_patches.sh, by ``rft patches``, by setup.sh and by every launcher (``verify``). It finds the installed
``openrlhf`` without importing it and uses the standard library alone. The series is read by rft/patch_series.py, the
package judged by rft/patch_tree.py and changed by rft/patch_swap.py. Exit status: 0 done, 1 ``verify`` says
no, 2 error.
"""

import argparse
import errno
import json
import os
import sys
from pathlib import Path

from rft import patch_swap
from rft.errors import RftError
from rft.patch_series import (
    PATCHES_DIR,
    UPSTREAM_VERSION,
    build,
    header_problems,
    read_base_digests,
    read_series,
    series_digest,
    upstream_files,
)
from rft.patch_tree import Tree, find_site, inspect, one_pristine, pristine_bytes, record_digests, refuse_drift

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
REMEDY = "run: bash apply_patches.sh apply"


def series_id(patches_dir: Path = PATCHES_DIR) -> str:
    """12 hex digits over the names and bytes of the repo's series; comments in patches/series do not change it."""
    return series_digest(read_series(patches_dir))


def applied_series_id(site_packages: Path | None = None) -> str | None:
    """The series id of what is applied to the installed package (the empty series' when pristine), None if drifted."""
    site = find_site(site_packages)
    with patch_swap.settled(site):
        return inspect(site, [], {}).series_id


def _check_writable(site: Path, paths: list[str]) -> None:
    for path in paths:
        folder = (site / path).parent
        while not folder.exists():
            folder = folder.parent
        if not os.access(folder, os.W_OK):
            raise RftError(
                f"{folder}: not writable, so the patches cannot be changed there; use an environment of your own"
            )


def apply(site: Path, patches_dir: Path) -> str:
    """Brings the installed package to base + series, from whatever known state it is in; says what was done."""
    patches = read_series(patches_dir)
    pinned = read_base_digests(patches_dir)
    label = f"{len(patches)} patches, series {series_digest(patches)}"
    with patch_swap.settled(site):  # needs no write where there is nothing to do
        if inspect(site, patches, pinned).status == "applied":
            return f"already applied: {label}"
    with patch_swap.changing(site):
        tree = inspect(site, patches, pinned)
        refuse_drift(tree, site)
        if tree.status == "applied":  # by another call, meanwhile
            return f"already applied: {label}"
        touched = upstream_files(patches)
        base = pristine_bytes(site, tree, touched, patches_dir)
        result = build(patches, base)
        before = tree.state["files"] if tree.state else {}
        target: dict[str, bytes | None] = dict(result)
        for path, entry in before.items():
            if entry["base"]:
                base.setdefault(path, one_pristine(site, path, before))
            target.setdefault(path, base.get(path))
        for path in result.keys() - base.keys() - before.keys():
            if (site / path).exists():
                raise RftError(f"{site / path}: exists, but a patch creates it; {patch_swap.reinstall(site)}")
        _check_writable(site, list(target))
        digests = {path: patch_swap.sha256(data) for path, data in base.items()}
        state = {
            "openrlhf": UPSTREAM_VERSION,
            "series_id": series_digest(patches),
            "patches": [[patch.name, patch.digest] for patch in patches],
            "files": {p: {"base": digests.get(p), "patched": patch_swap.sha256(d)} for p, d in sorted(result.items())},
        }
        patch_swap.swap(site, target, base, state if patches else None)
        return f"applied: {label}, {len(result)} files"


def reverse(site: Path) -> str:
    """Restores the pristine bytes of every patched file and removes the files that patches created."""
    with patch_swap.changing(site):
        tree = inspect(site, [], {})
        refuse_drift(tree, site)
        if not tree.state:
            return "already pristine"
        files = tree.state["files"]
        base = {path: one_pristine(site, path, files) for path, entry in files.items() if entry["base"]}
        _check_writable(site, list(files))
        patch_swap.swap(site, {path: base.get(path) for path in files}, base, None)
        return f"pristine again: {len(files)} files restored"


def check(site: Path, patches_dir: Path) -> str:
    """Would the series apply, strictly, to the pristine files? Changes nothing."""
    patches = read_series(patches_dir)
    problems = [problem for patch in patches for problem in header_problems(patch)]
    if problems:
        raise RftError(f"{patches_dir}: {'; '.join(problems)}")
    with patch_swap.settled(site):
        tree = inspect(site, patches, {})
        refuse_drift(tree, site)
        result = build(patches, pristine_bytes(site, tree, upstream_files(patches), patches_dir))
    return f"ok: {len(patches)} patches, series {series_digest(patches)}, change {len(result)} files"


def status(site: Path, patches_dir: Path) -> tuple[Tree, dict]:
    """The state of the installed package against the repo's series, as an object and for --json."""
    patches = read_series(patches_dir)
    with patch_swap.settled(site):
        tree = inspect(site, patches, read_base_digests(patches_dir))
    return tree, {
        "status": tree.status,
        "openrlhf": UPSTREAM_VERSION,
        "site_packages": str(site),
        "series_id": series_digest(patches),
        "applied_series_id": tree.series_id,
        "patches": [patch.name for patch in patches],
        "details": tree.details,
    }


def verify(site: Path, patches_dir: Path) -> str:
    """Empty when exactly the repo's series is applied, else one line that says what is and what to do."""
    tree, report = status(site, patches_dir)
    if tree.status == "applied":
        return ""
    why = f" ({tree.details[0]})" if tree.details else ""
    remedy = patch_swap.reinstall(site) if tree.status == "drifted" else REMEDY
    return f"openrlhf in {site} is {tree.status}, series {report['series_id']} is wanted{why}; {remedy}"


def regen(site: Path, patches_dir: Path) -> str:
    """Writes patches/base.sha256 anew from pristine files, which must be as the wheel's RECORD lists them."""
    patches = read_series(patches_dir)
    record = record_digests(site)
    lines = []
    with patch_swap.settled(site):
        state = patch_swap.read_state(site)
        for path in upstream_files(patches):
            digest = patch_swap.sha256(one_pristine(site, path, state["files"] if state else {}))
            if digest != record.get(path):
                raise RftError(
                    f"{site / path}: expected sha256 {record.get(path)}, found {digest}; {patch_swap.reinstall(site)}"
                )
            lines.append(f"{digest}  {path}\n")
    (patches_dir / "base.sha256").write_text("".join(lines))
    return f"{patches_dir / 'base.sha256'}: {len(lines)} files pinned"


def table(patches_dir: Path = PATCHES_DIR) -> str:
    """The patch table of the README, made from the headers."""
    rows = ["| patch | upstream files | reason | what it does |", "|---|---|---|---|"]
    for patch in read_series(patches_dir):
        files = ", ".join(dict.fromkeys(touch.path.removeprefix("openrlhf/") for touch in patch.touches))
        reason = " ".join(patch.header.get("Reason", []))
        rows.append(f"| {patch.name.removesuffix('.patch')} | {files} | {reason} | {patch.summary} |")
    return "\n".join(rows)


VERBS = {
    "apply": "bring the installed openrlhf to the repo's series (no-op when it is there)",
    "check": "would the series apply to the pristine files? changes nothing",
    "verify": "silent when the repo's series is applied, else one line and exit 1",
    "status": "pristine | applied | stale | drifted, then details",
    "reverse": "restore the pristine files",
    "regen": "pin the pristine files anew in patches/base.sha256",
    "table": "the README's patch table, from the headers",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="rft patches", description="Patches of the installed OpenRLHF 0.9.3.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join(VERBS))
    for verb, text in VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text)
        sub.add_argument(
            "--site-packages", type=Path, help="folder of the openrlhf to work on (default: this Python's)"
        )
        sub.add_argument("--patches", type=Path, default=PATCHES_DIR, help="folder of the series (default: the repo's)")
        if verb == "status":
            sub.add_argument("--json", action="store_true", help="one JSON object")
        if verb in ("apply", "reverse"):
            sub.add_argument("-q", "--quiet", action="store_true", help="say nothing unless something changed")
    args = parser.parse_args(argv)
    try:
        return _run(args)
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        remedy = (
            "use an environment that you may write" if error.errno in READ_ONLY else "remove the cause and call again"
        )
        print(
            f"error: {name}{error.strerror or error}; the installed files are as they were; {remedy}", file=sys.stderr
        )
    return 2


def _run(args: argparse.Namespace) -> int:
    if args.verb == "table":
        print(table(args.patches))
        return 0
    site = find_site(args.site_packages)
    if args.verb == "verify":
        line = verify(site, args.patches)
        if line:
            print(f"error: {line}", file=sys.stderr)
        return 1 if line else 0
    if args.verb == "status":
        tree, report = status(site, args.patches)
        if args.json:
            print(json.dumps(report))
        else:
            print(f"{tree.status}  openrlhf {UPSTREAM_VERSION} in {site}")
            print(f"  repo     series {report['series_id']}, {len(report['patches'])} patches")
            print(f"  applied  series {report['applied_series_id']}")
            print("".join(f"  {line}\n" for line in tree.details), end="")
        return 0
    if args.verb == "reverse":
        said = reverse(site)
    else:
        said = {"apply": apply, "check": check, "regen": regen}[args.verb](site, args.patches)
    if not (getattr(args, "quiet", False) and said.startswith("already")):
        print(f"patches: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
