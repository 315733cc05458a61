"""A program on a pseudo-terminal, for the tests of what is looked at live."""

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time


class Terminal:
    """A program on a terminal of its own; `seen` is what it has printed since the last `forget`."""

    def __init__(self, command: list[str], rows: int = 50, columns: int = 80, **env: str):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            self._size(0, rows, columns)
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm-256color", "PYTHON": sys.executable, **env})
        self.seen, self.status = "", None

    @staticmethod
    def _size(fd: int, rows: int, columns: int) -> None:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        self._size(self.fd, rows, columns)

    def wait_for(self, pattern: str, within_s: float = 60.0) -> str:
        """Until the pattern has been printed since the last `forget`; returns all of that."""
        end = time.monotonic() + within_s
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, f"{pattern!r} did not come; seen: {self.seen[-3000:]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
                except OSError:
                    raise AssertionError(f"the program has ended; seen: {self.seen[-3000:]!r}") from None
        return self.seen

    def forget(self) -> None:
        self.seen = ""

    def press(self, text: str) -> None:
        self.forget()
        os.write(self.fd, text.encode())

    def end(self) -> int:
        """The exit status, after everything printed was read."""
        with contextlib.suppress(OSError):
            while data := os.read(self.fd, 65536):
                self.seen += data.decode("utf-8", "replace")
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return self.status
