"""The bundle of one examination: a dated folder, and the same as one file to send to somebody.

Written into the run's own folder (``<run>/doctor/<UTC date>/``): it is evidence about that run, and nothing that was
there is touched. Secrets: environments of processes are not kept. Whole or not there.
"""

import datetime
import json
import os
import shutil
import tarfile
from pathlib import Path

from rft.doctor import evidence, family
from rft.doctor.evidence import Evidence
from rft.errors import RftError

RAY_LOG_BYTES = 200_000


def write(found: Evidence, verdict: str, parent: Path) -> Path:
    """The folder; raises RftError if it cannot be written."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    folder = parent / stamp
    number = 1
    while folder.exists():
        number += 1
        folder = parent / f"{stamp}-{number}"
    part = parent / f".{folder.name}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _fill(found, verdict, part)
        archive = parent / f".{folder.name}.tar.gz.part"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(part, arcname=f"{found.id}-{folder.name}")
        os.replace(part, folder)
        os.replace(archive, parent / f"{folder.name}.tar.gz")
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        (parent / f".{folder.name}.tar.gz.part").unlink(missing_ok=True)
        raise RftError(f"{parent}: the bundle cannot be written ({error}); name another place with --out") from error
    return folder


def _fill(found: Evidence, verdict: str, folder: Path) -> None:
    (folder / "verdict.txt").write_text(verdict + "\n", encoding="utf-8")
    (folder / "evidence.json").write_text(evidence.as_json(found) + "\n", encoding="utf-8")
    (folder / "log_tail.txt").write_text(found.log_tail, encoding="utf-8")
    metrics = "".join(json.dumps(line) + "\n" for line in found.metrics)
    (folder / "metrics_tail.jsonl").write_text(metrics, encoding="utf-8")
    (folder / "gpus.txt").write_text(found.gpus or found.problems.get("GPUs", "") + "\n", encoding="utf-8")
    named = {one["pid"]: one for one in found.processes}
    if found.stacks:
        (folder / "stacks").mkdir()
    for pid, stacks in found.stacks.items():
        role = (named[pid]["role"] or "helper").replace(" ", "-").replace("'", "")
        head = f"{family.name(named[pid])}, state {named[pid]['state']}\n{named[pid]['title']}\n\n"
        (folder / "stacks" / f"{role}-{pid}.txt").write_text(head + stacks.text(), encoding="utf-8")
    ray_logs = found.log.parent / "ray"
    if ray_logs.is_dir():
        (folder / "ray").mkdir()
        for path in ray_logs.iterdir():
            if path.is_file() and path.stat().st_size:
                (folder / "ray" / path.name).write_bytes(path.read_bytes()[-RAY_LOG_BYTES:])
