"""The patch series of the repo: its order, headers, digests, and the files it makes of pristine upstream files.

``patches/series`` is the only authority on order (``#`` comments, blank lines); ``patches/base.sha256`` pins every
pristine upstream file that a patch changes. A patch is a header in the manner of DEP-3
(https://dep-team.pages.debian.net/deps/dep3/) and a ``git diff --full-index`` with ``a/openrlhf/… b/openrlhf/…`` paths.
Called by rft/patches.py and by the lint of the series in tests/test_patch_series.py; only the standard library, so that
a launcher's ``verify`` answers at once. Raises RftError with one line that names the patch, the file and the hunk.
"""

import hashlib
import os
import re
import subprocess
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from rft.errors import RftError

UPSTREAM_VERSION = "0.9.3"
PATCHES_DIR = Path(__file__).resolve().parent.parent / "patches"
FIELDS = ("Description", "Reason", "Origin", "Forwarded", "Upstream-Version", "Test", "Last-Update")
REASONS = ("bug", "compat", "divergence")
_VALID = {
    "Reason": re.compile("|".join(REASONS)),
    "Origin": re.compile(r"vendor|(upstream|backport), https?://\S+"),
    "Forwarded": re.compile(r"no|not-needed|https?://\S+"),
    "Upstream-Version": re.compile(re.escape(UPSTREAM_VERSION)),
    "Test": re.compile(r"tests/[\w/]+\.py::test_\w+"),
    "Last-Update": re.compile(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"),
}
_DIFF = re.compile(r"^diff --git a/(\S+) b/(\S+)$")


@dataclass(frozen=True)
class Touch:
    """One file of one patch: its path from site-packages, whether the patch creates it, and its ``index`` line."""

    path: str
    creates: bool
    index: str


@dataclass(frozen=True)
class Patch:
    """One ``*.patch``: its name, bytes, header fields (a field given twice keeps both values) and touched files."""

    name: str
    data: bytes
    header: dict[str, list[str]] = field(compare=False)
    touches: tuple[Touch, ...] = field(compare=False)

    @property
    def digest(self) -> str:
        return sha256(self.data)

    @property
    def summary(self) -> str:
        """The first line of the Description."""
        return self.header.get("Description", [""])[0].split("\n")[0]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_series(patches_dir: Path = PATCHES_DIR) -> list[Patch]:
    """The patches in the order of ``patches/series``; a missing or a doubly listed file is an error."""
    series = patches_dir / "series"
    try:
        lines = series.read_text().splitlines()
    except FileNotFoundError:
        raise RftError(f"{series}: no such file; the repo is incomplete, clone it again") from None
    names = [line.split("#", 1)[0].strip() for line in lines]
    names = [name for name in names if name]
    for name in names:
        if names.count(name) > 1:
            raise RftError(f"{series}: {name} is listed {names.count(name)} times; list it once")
        if not (patches_dir / name).is_file():
            raise RftError(f"{series}: {name} is listed but {patches_dir / name} does not exist")
    return [parse_patch(name, (patches_dir / name).read_bytes()) for name in names]


def parse_patch(name: str, data: bytes) -> Patch:
    """Splits a patch into header and touched files; refuses paths outside openrlhf/, deletions, renames, binaries."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise RftError(f"patch {name}: not UTF-8 ({error}); save it as UTF-8") from None
    starts = [i for i, line in enumerate(lines) if line.startswith("diff ")]
    if not starts or not all(_DIFF.match(lines[start]) for start in starts):
        found = next((lines[start] for start in starts if not _DIFF.match(lines[start])), "no diff")
        raise RftError(
            f"patch {name}: {found!r}, wanted 'diff --git a/openrlhf/… b/openrlhf/…'; use git diff --full-index"
        )
    touches = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        old, new = _DIFF.match(lines[start]).groups()
        if old != new or not new.startswith("openrlhf/") or ".." in new.split("/"):
            raise RftError(
                f"patch {name}: 'a/{old} b/{new}' is not one file under openrlhf/; renames are not supported"
            )
        body = lines[start + 1 : end]
        head = body[: next((i for i, line in enumerate(body) if line.startswith("@@")), len(body))]
        if any(
            line.startswith(("deleted file", "rename ", "copy ", "old mode", "GIT binary", "Binary")) for line in head
        ):
            raise RftError(f"patch {name}: {new}: only changed and new text files are supported")
        creates = any(line.startswith("new file mode") for line in head)
        index = next((line for line in head if line.startswith("index ")), "")
        touches.append(Touch(new, creates, index))
    return Patch(name, data, _parse_header(lines[: starts[0]]), tuple(touches))


def _parse_header(lines: list[str]) -> dict[str, list[str]]:
    header: dict[str, list[str]] = {}
    last = None
    for line in lines:
        match = re.match(r"([A-Z][A-Za-z-]+): (.*)$", line)
        if match:
            last = match[1]
            header.setdefault(last, []).append(match[2].strip())
        elif line.startswith(" ") and last:
            header[last][-1] += "\n" + line[1:]
    return header


def header_problems(patch: Patch) -> list[str]:
    """What is wrong with a patch's header, one line a problem; empty when it is complete and valid."""
    problems = []
    for name in FIELDS:
        values = patch.header.get(name, [])
        if len(values) != 1 or not values[0]:
            problems.append(f"{patch.name}: {len(values)} '{name}:' lines, 1 with a value wanted")
        elif name in _VALID and not _VALID[name].fullmatch(values[0]):
            problems.append(f"{patch.name}: {name}: {values[0]!r} is not of the form {_VALID[name].pattern}")
    problems += [f"{patch.name}: unknown field '{name}:'" for name in patch.header if name not in FIELDS]
    return problems


def series_digest(patches: list[Patch]) -> str:
    """12 hex digits over the names and the bytes of the patches, in order."""
    total = hashlib.sha256()
    for patch in patches:
        total.update(f"{patch.name}\0{len(patch.data)}\0".encode() + patch.data)
    return total.hexdigest()[:12]


def upstream_files(patches: list[Patch]) -> list[str]:
    """The upstream files that the series changes, sorted; a file that a patch creates is not upstream's."""
    created: set[str] = set()
    changed: set[str] = set()
    for patch in patches:
        for touch in patch.touches:
            if touch.creates:
                created.add(touch.path)
            elif touch.path not in created:
                changed.add(touch.path)
    return sorted(changed)


def read_base_digests(patches_dir: Path = PATCHES_DIR) -> dict[str, str]:
    """``patches/base.sha256`` as {path: sha256 of the pristine file}."""
    path = patches_dir / "base.sha256"
    digests = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        match = re.fullmatch(r"([0-9a-f]{64}) {2}(openrlhf/\S+)", line)
        if not match:
            raise RftError(f"{path}:{number}: {line!r} is not '<sha256>  openrlhf/…'; run: bash apply_patches.sh regen")
        digests[match[2]] = match[1]
    return digests


def build(patches: list[Patch], base: dict[str, bytes]) -> dict[str, bytes]:
    """The bytes of every file that the series touches: pristine bytes in, patched and compiled bytes out.

    base     {path: pristine bytes} of at least upstream_files(patches)
    returns  {path: bytes} of every touched or created file
    raises   RftError if a hunk does not apply exactly where git finds its context, or a result does not compile
    """
    if not patches:
        return {}
    with tempfile.TemporaryDirectory(prefix="rft-patch-") as scratch:
        root = Path(scratch).resolve() / "tree"
        root.mkdir()
        for path in upstream_files(patches):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(base[path])
        for patch in patches:
            _git_apply(patch, root)
        wanted = {touch.path for patch in patches for touch in patch.touches}
        found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        if found != wanted:
            raise RftError(
                f"the patches make {sorted(found ^ wanted)[0]} without a 'diff --git' line of its own; add it"
            )
        result = {path: (root / path).read_bytes() for path in sorted(wanted)}
    for path, data in result.items():
        if path.endswith(".py"):
            _compile(path, data, patches)
    return result


def _git_apply(patch: Patch, root: Path) -> None:
    # No repository, no configuration of the user's and no variable may change what git apply accepts.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    env |= {"GIT_CEILING_DIRECTORIES": str(root.parent), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    env |= {"LC_ALL": "C", "GIT_ATTR_NOSYSTEM": "1", "XDG_CONFIG_HOME": str(root.parent), "HOME": str(root.parent)}
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    try:
        done = subprocess.run(command, cwd=root, env=env, input=patch.data, capture_output=True)
    except FileNotFoundError:
        raise RftError("git: not found; the patches are applied with git apply, so install git") from None
    if done.returncode:
        raise RftError(_explain(patch, done.stderr.decode(errors="replace")))


def _explain(patch: Patch, stderr: str) -> str:
    """One line from git's words: patch, file and hunk."""
    match = re.search(r"error: patch failed: (\S+):(\d+)", stderr)
    if not match:
        return f"patch {patch.name}: {' '.join(stderr.replace('error: ', '').split()) or 'git apply failed'}"
    path, line, hunk, number = match[1], match[2], "", 0
    current = None
    for text in patch.data.decode().split("\n"):
        diff = _DIFF.match(text)
        if diff:
            current, number = diff[2], 0
        elif current == path and text.startswith("@@ "):
            number += 1
            if re.match(rf"@@ -{line}(,| )", text):
                hunk = f", hunk {number} ({' '.join(text.split(' ')[:4])})"
                break
    return f"patch {patch.name} does not apply to {path}{hunk}: the context differs; refresh the patch"


def _compile(path: str, data: bytes, patches: list[Patch]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        names = ", ".join(patch.name for patch in patches if any(touch.path == path for touch in patch.touches))
        where = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RftError(f"{path}{where} does not compile after {names}: {text}; correct the patch") from None
