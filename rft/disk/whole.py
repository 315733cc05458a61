"""Checkpoint folders and whether they are whole, without torch: for readers that must answer at once. Any thread."""

import json
import re
from pathlib import Path

from rft.provenance import sha256

TAG = re.compile(r"global_step(\d+)_hf")
DIGESTS = "digests.json"


def checkpoints(ckpt_path: str | Path) -> list[Path]:
    """Checkpoint folders under `ckpt_path`, oldest step first; temporary ones are left out."""
    folders = [p for p in Path(ckpt_path).glob("global_step*_hf") if p.is_dir() and TAG.fullmatch(p.name)]
    return sorted(folders, key=lambda p: int(TAG.fullmatch(p.name).group(1)))


def verify(folder: Path) -> str | None:
    """None if every file of a checkpoint is there and as it was written; else what is wrong with it."""
    try:
        digests = json.loads((folder / DIGESTS).read_text())
        for name, digest in digests.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256(folder / name) != digest:
                return f"{name} is not what was written (its digest differs)"
    except (OSError, ValueError, AttributeError) as error:
        return f"no readable {DIGESTS} or file of it ({error})"
    return None


def newest(ckpt_path: str | Path) -> Path | None:
    """The newest whole one; None where there is none."""
    return next((folder for folder in reversed(checkpoints(ckpt_path)) if verify(folder) is None), None)
