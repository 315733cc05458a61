"""The safetensors shards of a checkpoint, read by byte range, with every length checked before the first is read.

`Checkpoint` reads headers only: name, dtype, shape and place of each tensor, checked against the files' sizes, so that
a truncated or patched-up shard is an error within a second and not a wrong weight an hour later. `Entry.read_into`
reads any byte range of a tensor into memory that the caller owns: no mapping, nothing that counts as resident
afterwards. Reading is thread-safe. Called by the streamed loader in every rank; needs no torch.
Source: the safetensors format (8 bytes little-endian header length, JSON header, data).
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

from rft.dequantise import INDEX_NAME, list_shards
from rft.errors import RftError

DTYPE_BYTES = {"U8": 1, "I8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "BF16": 2, "F16": 2, "I16": 2}
DTYPE_BYTES |= {"F32": 4, "I32": 4, "F64": 8, "I64": 8}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
READ_BYTES = 64 << 20  # of one system call, so that an interrupt is seen


@dataclass(frozen=True)
class Entry:
    """One tensor of a shard. offset: of its first byte in the file."""

    shard: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def read_into(self, buffer, start: int = 0) -> None:
        """Fill `buffer` (writable bytes, or an array of them) with the tensor's bytes from `start` on.

        raises  RftError if the file ends or fails before the buffer is full
        """
        view = memoryview(buffer).cast("B")
        if start < 0 or start + len(view) > self.nbytes:
            raise ValueError(f"{self.name}: bytes {start} to {start + len(view)} of {self.nbytes}")
        done = 0
        try:
            descriptor = os.open(self.shard, os.O_RDONLY)
            try:
                while done < len(view):
                    part = view[done : done + READ_BYTES]
                    count = os.preadv(descriptor, [part], self.offset + start + done)
                    if count == 0:
                        raise RftError(
                            f"{self.shard}: ends within {self.name}, {len(view) - done:,} bytes early, though it was "
                            "whole when it was opened; something writes to it: fetch it again"
                        )
                    done += count
            finally:
                os.close(descriptor)
        except OSError as error:
            raise RftError(f"{self.shard}: cannot read {self.name} ({error.strerror}); fetch it again") from error


class Checkpoint:
    """The tensors of a checkpoint's folder by name. raises RftError at the first shard that is not whole."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.shards = list_shards(self.folder)
        self.entries: dict[str, Entry] = {}
        for shard in self.shards:
            for entry in read_header(shard):
                other = self.entries.setdefault(entry.name, entry)
                if other is not entry:
                    raise RftError(
                        f"{shard}: {entry.name} is in {other.shard.name} too; remove the stray shard or fetch anew"
                    )
        self._check_index()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.nbytes for entry in self.entries.values())

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Entry:
        if name not in self.entries:
            raise RftError(f"{self.folder}: no shard holds {name}; the checkpoint is of another model, or incomplete")
        return self.entries[name]

    def _check_index(self) -> None:
        index = self.folder / INDEX_NAME
        if not index.exists():
            return
        for name, shard in sorted(json.loads(index.read_text())["weight_map"].items()):
            if name not in self.entries or self.entries[name].shard.name != shard:
                found = f"in {self.entries[name].shard.name}" if name in self.entries else "nowhere"
                raise RftError(
                    f"{index}: says that {name} is in {shard}, but it is {found}; fetch the checkpoint again"
                )


def read_header(shard: Path) -> list[Entry]:
    """The tensors of one shard in file order.

    raises  RftError naming the shard and, where one is concerned, the tensor with the bytes expected and found
    """
    try:
        size = shard.stat().st_size
        with open(shard, "rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > MAX_HEADER_BYTES:
                raise RftError(f"{shard}: {size:,} bytes that do not begin as safetensors do; fetch it again")
            if 8 + length > size:
                raise RftError(
                    f"{shard}: truncated within its header: {8 + length:,} bytes expected, {size:,} found; fetch again"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise RftError(f"{shard}: cannot be read ({error.strerror}); fetch it again") from error
    except ValueError as error:
        raise RftError(f"{shard}: its header is no valid JSON ({error}); fetch it again") from error
    header.pop("__metadata__", None)
    try:
        entries = [_entry(shard, name, 8 + length, value) for name, value in header.items()]
    except (KeyError, TypeError, ValueError) as error:
        raise RftError(
            f"{shard}: its header lacks a tensor's dtype, shape or place ({error!r}); fetch again"
        ) from error
    entries.sort(key=lambda entry: (entry.offset, entry.nbytes))
    _check_lengths(shard, entries, 8 + length, size)
    return entries


def _entry(shard: Path, name: str, data: int, value: dict) -> Entry:
    begin, end = value["data_offsets"]
    return Entry(shard, name, value["dtype"], tuple(value["shape"]), data + begin, end - begin)


def _check_lengths(shard: Path, entries: list[Entry], data: int, size: int) -> None:
    """Every tensor has its shape's bytes, they lie end to end, and the file ends with the last."""
    at = data
    for entry in entries:
        if entry.dtype not in DTYPE_BYTES:
            known = ", ".join(DTYPE_BYTES)
            raise RftError(f"{shard}: {entry.name} has dtype {entry.dtype}; known are {known}; convert the checkpoint")
        expected = math.prod(entry.shape) * DTYPE_BYTES[entry.dtype]
        if entry.nbytes != expected or entry.offset != at:
            raise RftError(
                f"{shard}: {entry.name}, {entry.dtype} {list(entry.shape)}, takes {expected:,} bytes from {at:,}, but "
                f"the header gives it {entry.nbytes:,} from {entry.offset:,}; fetch it again"
            )
        at += expected
        if at > size:
            raise RftError(
                f"{shard}: truncated within {entry.name}, {entry.dtype} {list(entry.shape)}: {expected:,} bytes "
                f"expected, {max(0, size - entry.offset):,} found; fetch it again"
            )
    if at != size:
        raise RftError(f"{shard}: {size - at:,} bytes more than the {at:,} its header accounts for; fetch it again")
