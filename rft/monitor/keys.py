"""Single keys from a terminal, without Enter.

`Keys` puts the terminal into cbreak mode for the length of a ``with`` block and gives it back as it was. Where standard
input is no terminal no key ever comes. Used in the main thread: SIGTERM becomes SystemExit meanwhile. A key is a
character, or a name: up, down, left, right, pageup, pagedown, home, end, enter, escape, backspace, tab.
"""

import contextlib
import os
import select
import signal
import sys
import time

try:
    import termios
    import tty
except ImportError:  # no such thing on this system: no keys
    termios = None

_ESCAPES = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "[H": "home",
    "[F": "end",
    "[1~": "home",
    "[4~": "end",
    "[5~": "pageup",
    "[6~": "pagedown",
    "OA": "up",
    "OB": "down",
    "OC": "right",
    "OD": "left",
    "OH": "home",
    "OF": "end",
}
_NAMES = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\t": "tab", "\x1b": "escape"}


def names(text: str) -> list[str]:
    """The keys that a terminal sent as `text`; an escape sequence that nobody knows is left out."""
    found, place = [], 0
    while place < len(text):
        ch = text[place]
        place += 1
        if ch == "\x1b" and text[place : place + 1] in ("[", "O") and place + 1 < len(text):
            end = place + 1
            while end < len(text) and not ("@" <= text[end] <= "~"):
                end += 1
            key = _ESCAPES.get(text[place : end + 1])
            found += [key] if key else []
            place = end + 1
        else:
            found.append(_NAMES.get(ch, ch))
    return found


class Keys:
    def __init__(self, stream=None):
        self._stream = stream or sys.stdin
        self._before = None
        self._bytes = b""
        self._signals: dict = {}

    def __enter__(self) -> "Keys":
        with contextlib.suppress(OSError, ValueError, *([termios.error] if termios else [])):  # closed: then no keys
            if termios and self._stream.isatty():
                self._handle = self._stream.fileno()
                self._before = termios.tcgetattr(self._handle)
                tty.setcbreak(self._handle)
        if self._before is not None:
            # a kill ends as any other exception does; after Ctrl-Z and fg the shell has set its own mode
            self._signals = {
                signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)),
                signal.SIGCONT: signal.signal(signal.SIGCONT, self._again),
            }
        return self

    def _again(self, *_) -> None:
        with contextlib.suppress(termios.error):
            tty.setcbreak(self._handle)

    def __exit__(self, *_) -> None:
        for number, handler in self._signals.items():
            signal.signal(number, handler)
        if self._before is not None:
            termios.tcsetattr(self._handle, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float | None) -> list[str]:
        """Keys pressed within `seconds` (None: for ever), as soon as one comes; ["eof"] once the terminal is gone."""
        if self._before is None:
            time.sleep(seconds if seconds is not None else 3600.0)
            return []
        ready, _, _ = select.select([self._handle], [], [], seconds)
        if not ready:
            return []
        try:
            data = os.read(self._handle, 1024)
        except OSError:  # hung up
            data = b""
        if not data:
            return ["eof"]
        self._bytes += data
        try:
            text, self._bytes = self._bytes.decode("utf-8"), b""
        except UnicodeDecodeError as err:
            if err.reason == "unexpected end of data":
                return []
            text, self._bytes = self._bytes.decode("utf-8", "replace"), b""
        return names(text)
