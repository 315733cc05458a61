"""Append-only JSONL files of a run.

Called from the controller and the actor ranks, several processes at once: each line is one ``write`` on a file opened
for appending, so that lines of different writers never mix. NaN and infinity are no JSON: they become null.
"""

import json
import math
import os


def folder() -> str:
    """``$METRICS_LOG_DIR``, created if missing; ``./metrics`` where the variable is not set."""
    path = os.environ.get("METRICS_LOG_DIR") or "metrics"
    os.makedirs(path, exist_ok=True)
    return path


def samples_folder() -> str:
    """``$SAMPLES_LOG_DIR``, created if missing; ``./samples`` where the variable is not set."""
    path = os.environ.get("SAMPLES_LOG_DIR") or "samples"
    os.makedirs(path, exist_ok=True)
    return path


def finite(value):
    """`value` with every float that JSON cannot hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def line(record: dict) -> bytes:
    return (json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")


def append(path: str, record: dict) -> None:
    """Append one line to `path`, in one write."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        data = line(record)
        if os.write(handle, data) != len(data):
            raise OSError(f"{path}: line written in part; is the disk full?")
    finally:
        os.close(handle)


def write_all(path: str, records: list[dict]) -> None:
    """Write a whole file, or nothing: to a temporary name, then renamed."""
    part = f"{path}.part"
    with open(part, "wb") as file:
        file.writelines(map(line, records))
    os.replace(part, path)
