"""Lint of the repo's own patch series."""

import hashlib
import re
from pathlib import Path

import pytest
from patch_kit import ROOT

from rft import patches
from rft.patch_series import (
    PATCHES_DIR,
    build,
    header_problems,
    read_base_digests,
    read_series,
    sha256,
    upstream_files,
)

MAX_DIFF_LINES = 130
SERIES = read_series()
each_patch = pytest.mark.parametrize("patch", SERIES, ids=lambda patch: patch.name)


def test_every_patch_is_listed_once() -> None:
    """A dropped patch is commented out, with reason and date, and its file removed or listed in that comment."""
    listed = {patch.name for patch in SERIES}  # read_series refuses a line twice and a line without a file
    comments = " ".join(line for line in (PATCHES_DIR / "series").read_text().splitlines() if line.startswith("#"))
    unlisted = sorted(path.name for path in PATCHES_DIR.glob("*.patch") if path.name not in listed)
    assert [name for name in unlisted if name not in comments] == []


@each_patch
def test_header_is_complete_and_valid(patch) -> None:
    assert header_problems(patch) == []


@each_patch
def test_named_test_exists(patch) -> None:
    file, name = patch.header["Test"][0].split("::")
    assert (ROOT / file).is_file(), f"{patch.name}: Test: names {file}, which does not exist"
    assert re.search(rf"^\s*def {name}\(", (ROOT / file).read_text(), re.MULTILINE), (
        f"{patch.name}: no {name} in {file}"
    )


@each_patch
def test_patch_is_short(patch) -> None:
    diff = patch.data.decode().split("\ndiff --git ", 1)[1]
    assert diff.count("\n") <= MAX_DIFF_LINES, f"{patch.name}: move logic into rft/"


@each_patch
def test_patch_carries_full_blob_ids(patch) -> None:
    for touch in patch.touches:
        assert re.match(r"index [0-9a-f]{40}\.\.[0-9a-f]{40}( 100644)?$", touch.index), f"{patch.name}: {touch.path}"


def test_first_touch_starts_from_the_pristine_blob(pristine_master: Path) -> None:
    seen = set()
    for patch in SERIES:
        for touch in patch.touches:
            if touch.path not in seen and not touch.creates:
                data = (pristine_master / touch.path).read_bytes()
                blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
                assert touch.index.startswith(f"index {blob}.."), (
                    f"{patch.name}: {touch.path}: not from the pristine file"
                )
            seen.add(touch.path)


def test_base_digests_pin_exactly_the_touched_upstream_files(pristine_master: Path) -> None:
    pristine = {path: sha256((pristine_master / path).read_bytes()) for path in upstream_files(SERIES)}
    assert read_base_digests() == pristine, "run: bash apply_patches.sh regen"


def test_series_applies_strictly_and_reverses(pristine_site: Path) -> None:
    patches.apply(pristine_site, PATCHES_DIR)
    assert patches.verify(pristine_site, PATCHES_DIR) == ""
    for path, data in build(SERIES, {path: _base(pristine_site, path) for path in upstream_files(SERIES)}).items():
        assert (pristine_site / path).read_bytes() == data
    patches.reverse(pristine_site)
    assert {path: sha256((pristine_site / path).read_bytes()) for path in read_base_digests()} == read_base_digests()


def _base(site: Path, path: str) -> bytes:
    return (site / ".openrlhf-rft" / "base" / path).read_bytes()


def test_readme_shows_the_patch_table() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text() if readme.exists() else ""
    if "<!-- patches -->" not in text:
        pytest.skip("README.md has no <!-- patches --> block")
    block = text.split("<!-- patches -->", 1)[1].split("<!-- /patches -->", 1)[0]
    assert block.strip() == patches.table().strip(), "put the output of `rft patches table` between the marks"
