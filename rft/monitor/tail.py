"""Follows one growing JSONL file: whole lines only, bounded memory, whatever happens to the file.

A file that is longer than `TAIL_BYTES` is entered near its end. Rotation (another file under the name) is noticed by
device and inode, after the old one was read to its end; truncation, also when the file has grown past the old place
since, by the bytes before it. A line is taken once its newline is there. Nothing is written and
no file that was deleted is held open. Errors of the file system become `Tail.error`, one line.
"""

import json
import os
import stat
from pathlib import Path

TAIL_BYTES = 2_000_000  # about 700 steps of metrics; what is older is sampled (`samples`)
FIRST_BYTES = 100_000  # of such a file's beginning, read whole: some 30 steps
LINE_BYTES = 4_000_000  # a line longer than this is passed over
_MARK_BYTES = 64
_CHUNK_BYTES = 4_000_000


def parse(line: bytes) -> dict | None:
    """A line's JSON object; None if it is none (torn, foreign, nested beyond reason)."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Tail:
    """New lines of the file at `path`, which need not be there yet."""

    def __init__(self, path: Path, tail_bytes: int = TAIL_BYTES):
        self.path, self.tail_bytes = Path(path), tail_bytes
        self.error: str | None = None
        self.passed_over = 0  # lines that were no JSON object
        self.entered_at = 0  # offset at which the present file was entered: 0 = read from its beginning
        self._handle = -1
        self._identity: tuple[int, int] | None = None
        self._forget()

    def _forget(self) -> None:
        self._offset, self._rest, self._mark, self._changed, self._skipping = 0, b"", b"", -1, False

    def poll(self) -> list[dict]:
        """Objects of the lines that are new since the last call, in order."""
        lines: list[bytes] = []
        try:
            if self._handle >= 0:
                lines += self._read()
            lines += self._follow_name()
            self.error = None
        except OSError as err:
            self._close()
            self.error = f"{self.path} cannot be read: {err.strerror}"
        records = [parse(line) for line in lines if line.strip()]
        self.passed_over += sum(record is None for record in records)
        return [record for record in records if record is not None]

    @property
    def entry(self) -> tuple:
        """Tells one entering of a file from another."""
        return self._identity, self.entered_at

    def _follow_name(self) -> list[bytes]:
        """Open the file that now has the name, if it is not the one that is open."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._close()
            return []
        if self._handle >= 0 and self._identity == (found.st_dev, found.st_ino):
            return []
        self._close()
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "not a plain file")
        self._handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        opened = os.fstat(self._handle)
        self._identity = (opened.st_dev, opened.st_ino)
        self._forget()
        return self._enter(opened.st_size)

    def _enter(self, size: int) -> list[bytes]:
        """Begin anew, at the last `tail_bytes` of a long file; its first, cut line is left out."""
        self._forget()
        self.entered_at = self._offset = max(0, size - self.tail_bytes)
        self._skipping = self._offset > 0
        return self._read()

    def _read(self) -> list[bytes]:
        found = os.fstat(self._handle)
        if found.st_mtime_ns == self._changed and found.st_size == self._offset:
            return []
        if not self._same_before() or found.st_size - self._offset > self.tail_bytes:
            return self._enter(found.st_size)
        data = os.pread(self._handle, found.st_size - self._offset, self._offset)
        self._offset += len(data)
        self._mark = (self._mark + data)[-_MARK_BYTES:]
        self._changed = found.st_mtime_ns
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:  # what comes first is the end of a line whose beginning was not read
            lines, self._skipping = lines[1:], False
        if len(self._rest) > LINE_BYTES:
            self._rest, self._skipping = b"", True
            self.passed_over += 1
        return lines

    def _same_before(self) -> bool:
        """The bytes before the place are those that were read: else the file was cut, and may have grown since."""
        return os.pread(self._handle, len(self._mark), self._offset - len(self._mark)) == self._mark

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle, self._identity = -1, None
        self._forget()

    close = _close


def samples(path: Path, end: int, count: int, first: int = FIRST_BYTES, span: int = 16_384) -> list[dict]:
    """The objects of the file's first `first` bytes, then one near each of `count` places spread evenly up to `end`.

    In the file's order, none twice. span: bytes read at a place; a line that does not end within is left out
    """
    found: dict[int, dict] = {}
    try:
        with open(path, "rb", buffering=0) as file:
            place = 0
            for line in os.pread(file.fileno(), min(first, end), 0).splitlines(keepends=True):
                record = parse(line) if line.endswith(b"\n") else None
                found |= {place: record} if record is not None else {}
                place += len(line)
            for place in range(1, count):
                offset = end * place // count
                data = os.pread(file.fileno(), span, offset)
                start = data.find(b"\n") + 1
                stop = data.find(b"\n", start)
                record = parse(data[start:stop]) if start and stop >= 0 else None
                if record is not None and offset + start < end:
                    found[offset + start] = record
    except OSError:
        return []
    return [found[offset] for offset in sorted(found)]


def last_with(path: Path, word: bytes, end: int, count: int, limit_bytes: int = 64_000_000) -> list[dict]:
    """The last `count` objects of the file's first `end` bytes whose line holds `word`, in order.

    limit_bytes  how far back is looked: 64 MB take 0.1 s
    """
    found: list[dict] = []
    stop, carry = end, b""
    try:
        with open(path, "rb", buffering=0) as file:
            while stop > max(0, end - limit_bytes) and len(found) < count:
                start = max(0, stop - _CHUNK_BYTES)
                data = os.pread(file.fileno(), stop - start, start) + carry
                head = data.find(b"\n") + 1 if start else 0
                place = len(data)
                while len(found) < count and (place := data.rfind(word, head, place)) >= 0:
                    first = data.rfind(b"\n", 0, place) + 1
                    record = parse(data[first:].partition(b"\n")[0])
                    found += [record] if record is not None else []
                    place = first
                stop, carry = start, data[:head][:LINE_BYTES]
    except OSError:
        return []
    return found[::-1]
