"""Samples of one result on disk: append-only JSON lines that survive a kill at any point.

The first line holds the settings, every other one sample; each ends in ``"check"``, the xxh3-64 of what precedes it. A
torn last line (the process died while writing it) is cut off. A line whose check fails (a bad disk, an editor) is
moved to ``<name>.damaged`` and its sample is generated again; nothing else is touched. One writer a file, by a lock.
`append` may be called from another thread than `open_samples`, but from one at a time.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from rft.errors import RftError

CHECK = ',"check":"'
Key = tuple[str, int]  # (problem id, number of the sample)


def encode(record: dict) -> bytes:
    """One line. raises ValueError for NaN or infinity, which are no JSON."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))[:-1]
    data = text.encode("utf-8", "backslashreplace")  # half a surrogate pair in a model's output
    return data + f'{CHECK}{xxhash.xxh3_64_hexdigest(data)}"}}\n'.encode()


def decode(line: bytes) -> dict | None:
    """The record of a whole line, without its check; None if it is not what `encode` wrote."""
    data, found, check = line.rpartition(CHECK.encode())
    if not found or check != f'{xxhash.xxh3_64_hexdigest(data)}"}}\n'.encode():
        return None
    return json.loads(data + b"}")


@dataclass
class Samples:
    """The open file of one result; have: the samples on disk by key."""

    path: Path
    settings: dict
    have: dict[Key, dict] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    _handle: int = -1

    def append(self, record: dict) -> None:
        """One sample, in one write.

        raises  RftError: disk full or gone; what was written stays, a part of a line is cut off by the next call
        """
        self._write(encode(record))
        self.have[record["problem"], record["sample"]] = record

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._handle, data)
            if written != len(data):
                raise OSError(28, "disk full: line written in part")
        except OSError as err:
            what = f"{err.strerror or err}; samples so far are kept"
            raise RftError(f"{self.path}: {what}: free space, then give the same command again") from err

    def sync(self) -> None:
        """Force everything to the disk."""
        try:
            os.fsync(self._handle)
        except OSError as err:
            raise RftError(f"{self.path}: {err.strerror}; free space, then give the same command again") from err


@contextlib.contextmanager
def open_samples(path: Path, settings: dict) -> Iterator[Samples]:
    """The samples of `settings`, repaired and locked for writing; made if there are none.

    raises  RftError: of other settings, written by another process now, or not writable
    """
    samples = Samples(path, settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        samples._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    except OSError as err:
        raise RftError(f"{path}: cannot be written ({err.strerror}); set RFT_EVALS_DIR to another folder") from err
    try:
        try:
            fcntl.flock(samples._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino != os.fstat(samples._handle).st_ino:  # its writer renamed a repaired file over it
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as err:
            raise RftError(f"{path}: another evaluation writes it now; wait for that one") from err
        try:
            _load(samples)
        except OSError as err:
            raise RftError(f"{path}: cannot be repaired ({err.strerror}); free space, then try again") from err
        yield samples
    finally:
        os.close(samples._handle)


def _load(samples: Samples) -> None:
    data = samples.path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.ftruncate(samples._handle, whole)
        samples.remarks.append(f"{samples.path}: a torn last line ({len(data) - whole} bytes) was cut off")
    lines = data[:whole].splitlines(keepends=True)
    good, bad = [], []
    for line in lines:
        (good if (record := decode(line)) is not None else bad).append((line, record))
    head = next((record["settings"] for _, record in good if "settings" in record), None)
    if head is not None and head != samples.settings:
        _require_same(samples, head)
    if bad or (head is None and good):
        _set_aside(samples, [line for line, _ in bad], [line for line, _ in good], head is None)
    elif head is None:
        samples._write(encode({"settings": samples.settings}))
    for _, record in good:
        if "problem" in record:
            samples.have[record["problem"], record["sample"]] = record


def _require_same(samples: Samples, head: dict) -> None:
    from rft.evals import settings

    if settings.digest(head) != settings.digest(samples.settings):
        raise RftError(f"{samples.path}: holds samples of other settings than its name says; move it away")


def _set_aside(samples: Samples, bad: list[bytes], good: list[bytes], headless: bool) -> None:
    """Damaged lines go to a file of their own; the rest is written anew beside it, locked, then renamed over it."""
    aside = samples.path.with_name(samples.path.name + ".damaged")
    with open(aside, "ab") as file:
        file.writelines(bad)
        file.flush()
        os.fsync(file.fileno())
    part = samples.path.with_name(f".{samples.path.name}.{os.getpid()}.tmp")
    try:
        with open(part, "wb") as file:
            file.writelines([encode({"settings": samples.settings})] if headless else [])
            file.writelines(good)
            file.flush()
            os.fsync(file.fileno())
        fresh = os.open(part, os.O_RDWR | os.O_APPEND)
        fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.replace(part, samples.path)
    finally:
        part.unlink(missing_ok=True)
    os.close(samples._handle)
    samples._handle = fresh
    samples.remarks.append(f"{samples.path}: {len(bad)} damaged lines set aside in {aside.name}; generated again")


def read_samples(path: Path) -> list[dict]:
    """The whole, undamaged samples of a file, for readers; the last of those that stand twice; [] without a file."""
    found: dict[Key, dict] = {}
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            record = decode(line)
            if record is not None and "problem" in record:
                found[record["problem"], record["sample"]] = record
    return list(found.values())
