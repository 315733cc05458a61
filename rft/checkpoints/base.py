"""Is a checkpoint's adapter of the base that it is about to be loaded onto? Told by contents, not by the base's name.

``base.json`` (rft/export/base.py) holds the fingerprint of the model that the adapter was trained on; a folder whose
contents were exchanged under the same name is found out. Called on one rank, before anything is loaded.
"""

import json
from pathlib import Path

from rft.export.base import IDENTITY, fingerprint_at_hand


def problem_of(folder: Path, pretrain: str) -> str | None:
    """None if they fit, or if that cannot be told: no record (an older checkpoint), or the base is not at hand.

    pretrain  folder or hub id of the model that the run loads
    """
    path = folder / IDENTITY
    if not path.is_file():
        return None
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        name, wanted = recorded["name"], recorded["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{IDENTITY} is not readable ({error!r}); continue from another checkpoint"
    found = fingerprint_at_hand(pretrain) if wanted else None
    if found is None or found == wanted:
        return None
    return (
        f"its adapter was trained on {name} with fingerprint {wanted[:12]}, --pretrain {pretrain} has {found[:12]}: "
        "other weights; give the model that it was trained on"
    )
