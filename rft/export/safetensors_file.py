"""A safetensors file read and written piece by piece: its header as a table, its data as byte ranges.

The library's reader maps whole tensors and its writer wants all of them in memory; an export copies most bytes as they
are and makes the rest a few megabytes at a time, so that memory stays far below one shard. Standard library only; one
thread, but for the digest of `Writer`, which is computed in a thread of its own while the disk is being written.
Format: 8 bytes little-endian length of the header, a JSON header, the tensors without gaps, rows first.
Source: https://github.com/huggingface/safetensors (README, "Format").
"""

import hashlib
import json
import math
import os
import queue
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError

CHUNK = 16 << 20  # bytes copied at a time
PIECE = 1 << 20  # bytes digested at a time
AHEAD = 4  # chunks that the digest may lag behind the writing
ITEM_BYTES = {"U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
ITEM_BYTES |= {"F32": 4, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file. dtype: as the header names it (BF16, U8, …); start: bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int

    @property
    def nbytes(self) -> int:
        return nbytes(self.dtype, self.shape)


def nbytes(dtype: str, shape: Iterable[int]) -> int:
    return ITEM_BYTES[dtype] * math.prod(shape)


def read_header(path: Path) -> list[Entry]:
    """The tensors of a file in the order in which they lie there.

    raises  RftError: no safetensors file, or one that is shorter or longer than its header says
    """
    size = path.stat().st_size
    again = "fetch it again"
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        spans = [(tuple(item["data_offsets"]), name, item) for name, item in header.items()]
        end = 0
        found = []
        for (start, stop), name, item in sorted(spans, key=lambda span: span[0]):
            entry = Entry(name, item["dtype"], tuple(item["shape"]), path, 8 + length + start)
            if start != end or stop - start != entry.nbytes:
                raise ValueError(f"{name}: bytes {start} to {stop} for {entry.dtype} {entry.shape}")
            found.append(entry)
            end = stop
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise RftError(f"{path}: no readable safetensors file ({str(err)[:160]}); {again}") from err
    if 8 + length + end != size:
        raise RftError(f"{path}: {size} bytes, its header says {8 + length + end}; {again}")
    return found


def read(entry: Entry, start: int = 0, length: int | None = None) -> bytearray:
    """`length` bytes of a tensor from its byte `start` on (default: to its end), in a buffer of its own."""
    length = entry.nbytes - start if length is None else length
    data = bytearray(length)
    with open(entry.path, "rb", buffering=0) as file:
        file.seek(entry.start + start)
        view, done = memoryview(data), 0
        while done < length:
            got = file.readinto(view[done:])
            if not got:
                raise RftError(f"{entry.path}: it ended while {entry.name} was read; fetch it again")
            done += got
    return data


def encode_header(tensors: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """The first bytes of a file that holds `tensors` (name, dtype, shape) in this order."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape in tensors:
        start, end = end, end + nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8, as the library has it
    return len(text).to_bytes(8, "little") + text


def update(digest, entry: Entry, start: int = 0, length: int | None = None, buffer: bytearray | None = None) -> None:
    """Feed a tensor's bytes to a digest through one small buffer, which stays in the processor's cache."""
    left = entry.nbytes - start if length is None else length
    buffer = bytearray(PIECE) if buffer is None else buffer
    view, at = memoryview(buffer), entry.start + start
    with open(entry.path, "rb", buffering=0) as file:
        while left:
            got = os.preadv(file.fileno(), [view[: min(left, len(view))]], at)
            if not got:
                raise RftError(f"{entry.path}: it ended while {entry.name} was read; fetch it again")
            digest.update(view[:got])  # releases the GIL
            at, left = at + got, left - got


class Writer:
    """A new file, written front to back while a thread computes its sha256."""

    def __init__(self, path: Path):
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by close or abandon
        self._digest = hashlib.sha256()
        self._queue: queue.Queue = queue.Queue(AHEAD)
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._hash, daemon=True, name=f"sha256 of {path.name}")
        self._thread.start()
        self.written = 0

    def _hash(self) -> None:
        buffer = bytearray(PIECE)
        while (item := self._queue.get()) is not None:
            try:
                if isinstance(item, memoryview):
                    self._digest.update(item)
                elif self._failed is None:
                    update(self._digest, *item, buffer)
            except (OSError, RftError) as err:
                self._failed = err  # and go on taking, or the writer would wait for ever

    def write(self, data) -> None:
        """Append bytes; `data` must not be changed afterwards."""
        view = memoryview(data).cast("B")
        self._queue.put(view)
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])
        self.written += len(view)

    def copy(self, entry: Entry, start: int, length: int) -> None:
        """Append `length` bytes of a tensor of another file from its byte `start` on, without bringing them here."""
        self._queue.put((entry, start, length))
        done = 0
        with open(entry.path, "rb", buffering=0) as file:
            while done < length:
                got = os.sendfile(self._file.fileno(), file.fileno(), entry.start + start + done, length - done)
                if not got:
                    raise RftError(f"{entry.path}: it ended while {entry.name} was copied; fetch it again")
                done += got
        self.written += length

    def close(self) -> str:
        """Forces the file to the disk; returns its sha256, hex."""
        try:
            os.fsync(self._file.fileno())
        finally:
            self._finish()
        if self._failed is not None:
            raise self._failed
        return self._digest.hexdigest()

    def abandon(self) -> None:
        self._finish()

    def _finish(self) -> None:
        self._file.close()
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
