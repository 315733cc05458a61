"""A Harmony answer for the eye, while it is being generated: `View` turns text with markers into what is printed.

The final channel is printed as it is, other channels under their name in brackets, markers and headers not at all. Text
without any markup is printed as it is. Pure, one thread.
"""

from rft.rewards.harmony import CALL, CHANNEL, CONSTRAIN, END, ENDOFTEXT, MESSAGE, RETURN, START

_ENDS = (END, RETURN, CALL, ENDOFTEXT)
_LONGEST = max(map(len, (*_ENDS, MESSAGE, START)))


class View:
    """`feed` pieces of the completion that follows ``<|start|>assistant``; `finish` gives what is still held back."""

    def __init__(self):
        self._held, self._in_header, self._marked, self._printed = "", True, False, False

    def feed(self, text: str) -> str:
        self._held += text
        shown = ""
        while True:
            markers = (MESSAGE,) if self._in_header else _ENDS
            found = [(self._held.find(marker), marker) for marker in markers if marker in self._held]
            if not found:
                break
            at, marker = min(found)
            before, self._held = self._held[:at], self._held[at + len(marker) :]
            shown += self._title(before) if self._in_header else self._content(before)
            self._in_header = not self._in_header
            self._marked = True
        if not self._in_header or not (self._marked or self._may_be_header()):
            shown += self._content(self._take_safe())
        return shown

    def finish(self) -> str:
        """The rest; a header that never became a message is dropped where there were messages."""
        rest, self._held = self._held, ""
        return self._content(rest) if not self._in_header or not (self._marked or CHANNEL in rest) else ""

    def _may_be_header(self) -> bool:
        """Whether what came so far can still turn into the header of the first message."""
        text = self._held.lstrip()
        return not text or text.startswith(("<", CHANNEL)) or CHANNEL.startswith(text)

    def _take_safe(self) -> str:
        """What cannot be the beginning of a marker."""
        at = self._held.rfind("<|", max(0, len(self._held) - _LONGEST))
        at = at if at >= 0 else len(self._held) - self._held.endswith("<")
        safe, self._held = self._held[:at], self._held[at:]
        return safe

    def _title(self, header: str) -> str:
        channel = header.partition(CHANNEL)[2].partition(CONSTRAIN)[0].strip() or "final"
        line = "\n" if self._printed else ""
        return line if channel.startswith("final") else f"{line}[{channel}] "

    def _content(self, text: str) -> str:
        self._printed = self._printed or bool(text)
        return text
