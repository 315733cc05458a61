"""The browser's screen: what is shown and what a key does. Knows no terminal: `press` takes a key, `lines` draws."""

import re

from rich.console import Console
from rich.text import Text

from rft.errors import RftError
from rft.monitor.text import clean
from rft.samples_browser import query, view
from rft.samples_browser.index import Samples, texts

LIST_HELP = "enter read  / search  f filter  s sort  c clear  q quit"
READ_HELP = "up/down scroll  n next  p previous  / search  q back"
ASKS = {
    "/": "search (text or /pattern/)",
    "f": "filter (e.g. reward<0.5 truncated=1)",
    "s": "sort by (-field: largest first)",
}
NAMES = {"/": "search", "f": "where", "s": "sort"}


class Browser:
    """mode: list, read, or ask (a line is typed). `done` once the user leaves."""

    def __init__(self, samples: Samples, where: str = "", search: str = "", sort: str = ""):
        self.samples = samples
        self.asked = {"where": where, "search": search, "sort": sort}
        self.rows = query.select(samples, **self.asked)
        self.mode, self.done = "list", False
        self.cursor = self.top = self.scroll = 0
        self.message = f"{samples.passed_over} torn or foreign lines passed over" if samples.passed_over else ""
        self._ask, self._typed, self._back = "/", "", "list"
        self._page = 10

    def press(self, key: str) -> None:
        self.message = ""
        if self.mode == "ask":
            self._type(key)
        elif self.mode == "read":
            self._read(key)
        else:
            self._list(key)

    def _list(self, key: str) -> None:
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -self._page, "pagedown": self._page, " ": self._page}
        if key in ("q", "escape"):
            self.done = True
        elif key in moves:
            self._move(moves[key])
        elif key in ("home", "g"):
            self.cursor = 0
        elif key in ("end", "G"):
            self.cursor = max(0, len(self.rows) - 1)
        elif key in ("enter", "right", "l") and self.rows:
            self.mode, self.scroll = "read", 0
        elif key == "c":
            self._apply({"where": "", "search": "", "sort": ""})
        elif key in ASKS:
            self._begin(key)

    def _read(self, key: str) -> None:
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -self._page, "pagedown": self._page, " ": self._page}
        if key in ("q", "escape", "left", "h"):
            self.mode = "list"
        elif key in moves:
            self.scroll = max(0, self.scroll + moves[key])
        elif key in ("home", "g"):
            self.scroll = 0
        elif key in ("n", "right", "p"):
            self._move(-1 if key == "p" else 1)
            self.scroll = 0
        elif key == "/":
            self._begin(key)

    def _move(self, by: int) -> None:
        self.cursor = max(0, min(len(self.rows) - 1, self.cursor + by))

    def _begin(self, key: str) -> None:
        self._ask, self._typed, self._back, self.mode = key, self.asked[NAMES[key]], self.mode, "ask"

    def _type(self, key: str) -> None:
        if key == "enter":
            self.mode = self._back
            self._apply({**self.asked, NAMES[self._ask]: self._typed.strip()})
        elif key == "escape":
            self.mode = self._back
        elif key == "backspace":
            self._typed = self._typed[:-1]
        elif len(key) == 1 and key.isprintable():
            self._typed += key

    def _apply(self, asked: dict[str, str]) -> None:
        """Select anew; a bad filter is said and changes nothing. The row under the cursor stays there, if it can."""
        try:
            rows = query.select(self.samples, **asked)
        except RftError as err:
            self.message = str(err)
            return
        at = self.rows[self.cursor] if self.rows else None
        self.asked, self.rows = asked, rows
        self.cursor = next((i for i, row in enumerate(rows) if row is at), 0)
        if not rows:
            self.mode = "list"

    def lines(self, width: int, height: int, console: Console) -> list[Text]:
        """The whole screen, `height` lines of at most `width` columns."""
        room = max(1, height - 2)
        self._page = max(1, room - 2)
        reading = self.mode == "read" or (self.mode == "ask" and self._back == "read")
        body = self._reading(width, room, console) if reading and self.rows else self._listing(width, room)
        if self.mode == "ask":
            foot = Text(f"{ASKS[self._ask]}: {self._typed}_", style="bold")
        else:
            help_line = READ_HELP if reading else LIST_HELP
            foot = Text(clean(self.message, 400) or help_line, style="bold yellow" if self.message else "dim")
        found = [self._title(), *body, *[Text("")] * (room - len(body)), foot]
        for one in found:
            one.truncate(width, overflow="crop")
        return found[-height:] if height < 3 else found

    def _title(self) -> Text:
        count = f"{len(self.rows)} of {len(self.samples.rows)} answers"
        place = f"{self.cursor + 1}/" if self.rows else ""
        said = [f"{name} {clean(value, 60)}" for name, value in self.asked.items() if value]
        return Text("  ".join([place + count, *said]), style="bold")

    def _listing(self, width: int, room: int) -> list[Text]:
        if not self.rows:
            return [Text("no answer matches; c clears filter and search")]
        visible = max(1, room - 1)
        self.top = max(min(self.top, self.cursor), self.cursor - visible + 1)
        self.top = max(0, min(self.top, len(self.rows) - visible))
        part = self.rows[self.top : self.top + visible]
        shown = view.columns(part)
        found = [Text(view.heading(shown), style="dim")] if room > 1 else []
        for place, row in enumerate(part, self.top):
            mark = ">" if place == self.cursor else " "
            body = view.line(place + 1, row, shown, texts(row), width - 1)
            found.append(Text(mark + body, style="reverse" if place == self.cursor else ""))
        return found

    def _reading(self, width: int, room: int, console: Console) -> list[Text]:
        row = self.rows[self.cursor]
        wanted: re.Pattern | None = query.pattern(self.asked["search"]) if self.asked["search"] else None
        wrapped = view.full(row, texts(row), wanted).wrap(console, width)
        self.scroll = min(self.scroll, max(0, len(wrapped) - room))
        return list(wrapped[self.scroll : self.scroll + room])
