"""Are the shards those that were published? Compared with sha256 sums where somebody wrote them down.

Known sums, the first found of: ``digests.json`` in the checkpoint's folder ({file name: sha256}), ``manifest.json``
beside the folder (the tiny model's), the names of the hub cache's blobs (which are their sha256). Without any there is
nothing to compare, and lengths alone are checked (`rft.loading.shards`). Each rank hashes its share of the shards;
hashing reads a shard once, which the load then finds in the page cache. No torch.
"""

import json
import re
from pathlib import Path

from rft.errors import RftError
from rft.provenance import sha256

_BLOB = re.compile(r"[0-9a-f]{64}")


def known(folder: Path, shards: list[Path]) -> dict[Path, str]:
    """sha256 of each shard that has a known one; {} if none has. RftError if a file of sums cannot be read."""
    for path, prefix in ((folder / "digests.json", ""), (folder.parent / "manifest.json", f"{folder.name}/")):
        sums = _sums(path)
        found = {shard: sums[prefix + shard.name] for shard in shards if prefix + shard.name in sums}
        if found:
            return found
    targets = {shard: shard.resolve() for shard in shards}
    return {
        shard: target.name
        for shard, target in targets.items()
        if target.parent.name == "blobs" and _BLOB.fullmatch(target.name)
    }


def check(folder: Path, shards: list[Path], rank: int = 0, ranks: int = 1) -> int:
    """Hash this rank's share of the shards with a known sum; their number.

    raises  RftError naming the shard, the sum expected and the sum found
    """
    sums = known(folder, shards)
    mine = sorted(sums)[rank::ranks]
    for shard in mine:
        found = sha256(shard)
        if found != sums[shard]:
            raise RftError(f"{shard}: sha256 {sums[shard]} expected, {found} found; it is damaged: fetch it again")
    return len(mine)


def _sums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RftError(f"{path}: no readable JSON ({error}); fetch or remove it") from error
    if path.name == "manifest.json":
        read = read.get("sha256", {}) if isinstance(read, dict) else {}
    return {name: value for name, value in read.items() if isinstance(value, str)} if isinstance(read, dict) else {}
