"""What decides whether two machines compute the same: commit, patch series, packages, data. Run on both.

``python -m rft.spare.facts PATH…`` prints them as JSON; the paths are data, relative to the repository.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rft import provenance, runs
from rft.errors import RftError


def collect(data: Sequence[str], root: Path = runs.REPO) -> dict:
    """{"commit", "dirty", "series", "applied", "packages", "data": {path: sha256}, "machine"}; unknown is None."""
    from rft import patches

    found = {**provenance.commit(root), "packages": provenance.package_list().split(), "machine": provenance.machine()}
    for name, ask in (("series", patches.series_id), ("applied", patches.applied_series_id)):
        try:
            found[name] = ask()
        except (RftError, OSError):
            found[name] = None
    return {**found, "data": digests(data, root)}


def digests(data: Sequence[str], root: Path) -> dict[str, str]:
    """sha256 of every file below the paths; hidden files, which a transfer leaves, do not count."""
    found: dict[str, str] = {}
    for item in data:
        top = root / item
        files = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
        for path in files:
            if not any(part.startswith(".") for part in path.relative_to(root).parts):
                found[str(path.relative_to(root))] = provenance.sha256(path)
    return found


if __name__ == "__main__":
    print(json.dumps(collect(sys.argv[1:])))
