"""Where a wait of the controller stands while it lasts (rft/doctor/waits.py), for readers that must not import ray."""

import json
from pathlib import Path

FILE = "waiting.json"


def read(metrics_folder: str | Path) -> dict | None:
    """What the controller waits for just now; None where it waits for nothing, or never told."""
    try:
        return json.loads((Path(metrics_folder) / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
