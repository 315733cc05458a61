"""What an installed openrlhf is: where it stands, and whether it is pristine, patched, or neither.

Every file is judged by its sha256: pristine (patches/base.sha256, or the wheel's RECORD for files no patch touches),
patched (the state kept by rft/patch_swap.py), or unknown, which is called drifted. Called by rft/patches.py; only the
standard library; never imports openrlhf. Raises RftError where the package is missing, of another version, or drifted.
"""

import base64
import csv
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rft import patch_swap
from rft.errors import RftError
from rft.patch_series import UPSTREAM_VERSION, Patch, read_base_digests, series_digest, sha256

EMPTY_SERIES = series_digest([])


@dataclass
class Tree:
    """What an installed package is: one status word, what is applied to it, and the lines that explain it."""

    status: str  # pristine | applied | stale | drifted
    state: dict | None
    details: list[str] = field(default_factory=list)

    @property
    def series_id(self) -> str | None:
        """The id of the series that is applied; the empty series' when pristine, None when drifted."""
        if self.status == "drifted":
            return None
        return self.state["series_id"] if self.state else EMPTY_SERIES


def find_site(site_packages: Path | str | None = None) -> Path:
    """The folder that holds the installed openrlhf, which must be the version that the patches are for."""
    if site_packages is None:
        spec = importlib.util.find_spec("openrlhf")
        if spec is None or not spec.submodule_search_locations:
            raise RftError(f"openrlhf: not installed for {sys.executable}; run: bash setup.sh")
        site = Path(next(iter(spec.submodule_search_locations))).parent
    else:
        site = Path(site_packages).absolute()
    if not (site / "openrlhf").is_dir():
        raise RftError(f"{site}: no openrlhf in it; name the site-packages folder that holds it, or run: bash setup.sh")
    versions = sorted(_metadata_version(path) for path in site.glob("openrlhf-*.dist-info/METADATA"))
    if versions != [UPSTREAM_VERSION]:
        found = " and ".join(versions) or "a copy without dist-info"
        raise RftError(
            f"{site}: openrlhf is {found}, the patches are for {UPSTREAM_VERSION}; {patch_swap.reinstall(site)}"
        )
    return site


def _metadata_version(path: Path) -> str:
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
        if not line:
            break
    return "of no stated version"


def inspect(site: Path, patches: list[Patch], pinned: dict[str, str]) -> Tree:
    """Compares every file of the package with its digests. The caller holds the lock."""
    state = patch_swap.read_state(site)
    files = state["files"] if state else {}
    pristine = record_digests(site) | pinned | {p: entry["base"] for p, entry in files.items() if entry["base"]}
    details, patched = [], 0
    for path in sorted(pristine.keys() | files.keys()):
        found, base = patch_swap.digest_of(site / path), pristine.get(path)
        if path in files and found == files[path]["patched"]:
            patched += 1
            if base and patch_swap.digest_of(site / patch_swap.WORK / "base" / path) != base:
                details.append(f"{site / patch_swap.WORK / 'base' / path}: the kept pristine file is lost or changed")
        elif found != base:
            expected = files[path]["patched"] if path in files else base
            details.append(f"{site / path}: expected sha256 {expected}, found {found or 'no such file'}")
    if details:
        return Tree("drifted", state, details)
    if patched < len(files):
        if not patched:  # reinstalled since: the state tells of files that are gone
            return Tree("applied" if not patches else "pristine", None)
        return Tree("stale", state, [f"{len(files) - patched} of {len(files)} patched files are pristine again"])
    tree = Tree("applied", state)
    wanted = series_digest(patches)
    if tree.series_id != wanted:
        tree.status = "stale" if state else "pristine"
        tree.details = _differences(state, patches) if state else []
    return tree


def record_digests(site: Path) -> dict[str, str]:
    """{path: sha256} of the package's files as the wheel's RECORD lists them; empty without a RECORD."""
    digests = {}
    for record in site.glob(f"openrlhf-{UPSTREAM_VERSION}.dist-info/RECORD"):
        for path, digest, _ in csv.reader(record.read_text().splitlines()):
            if path.startswith("openrlhf/") and digest.startswith("sha256="):
                digests[path] = base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "==").hex()
    return digests


def _differences(state: dict, patches: list[Patch]) -> list[str]:
    before, after = dict(state["patches"]), {patch.name: patch.digest for patch in patches}
    lines = [f"to add: {name}" for name in after if name not in before]
    lines += [f"to drop: {name}" for name in before if name not in after]
    lines += [f"changed: {name}" for name in after if before.get(name, after[name]) != after[name]]
    return lines or ["the order of the patches changed"]


def refuse_drift(tree: Tree, site: Path) -> None:
    if tree.status == "drifted":
        more = f" (and {len(tree.details) - 1} more)" if len(tree.details) > 1 else ""
        raise RftError(f"{tree.details[0]}{more}; {patch_swap.reinstall(site)}")


def pristine_bytes(site: Path, tree: Tree, paths: list[str], patches_dir: Path) -> dict[str, bytes]:
    """The pristine bytes of upstream files, installed or kept aside, checked against patches/base.sha256."""
    pinned, base = read_base_digests(patches_dir), {}
    patched = tree.state["files"] if tree.state else {}
    for path in paths:
        if path not in pinned:
            raise RftError(f"{patches_dir / 'base.sha256'}: {path} is not pinned; run: bash apply_patches.sh regen")
        base[path] = one_pristine(site, path, patched)
        if sha256(base[path]) != pinned[path]:
            found = sha256(base[path])
            raise RftError(
                f"{site / path}: expected sha256 {pinned[path]}, found {found}; {patch_swap.reinstall(site)}"
            )
    return base


def one_pristine(site: Path, path: str, patched: dict) -> bytes:
    entry = patched.get(path)
    if entry and entry["base"] and patch_swap.digest_of(site / path) == entry["patched"]:
        return patch_swap.base_bytes(site, path)
    try:
        return (site / path).read_bytes()
    except FileNotFoundError:
        raise RftError(f"{site / path}: a patch changes it, but openrlhf {UPSTREAM_VERSION} has no such file") from None
