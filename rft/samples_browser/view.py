"""Draws rows as a table and one answer in full; nothing in a text can steer the terminal."""

import re

from rich.text import Text

from rft.monitor.text import clean, figure
from rft.samples_browser.index import TEXTS, Row

_MARKER = re.compile(r"<\|[a-z_]+\|>")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: field, heading, width; those that no row has are left out
COLUMNS = (
    ("step", "step", 6),
    ("set", "set", 12),
    ("reward", "reward", 7),
    ("correctness", "right", 6),
    ("response_length", "tokens", 7),
    ("truncated", "cut", 4),
    ("group_rank", "rank", 5),
    ("adapter_version", "adapter", 8),
)


def columns(rows: list[Row]) -> list[tuple[str, str, int]]:
    return [column for column in COLUMNS if any(column[0] in row.fields for row in rows)]


def heading(shown: list[tuple[str, str, int]]) -> str:
    return f"{'#':>6} " + "".join(_cell(title, width, name) for name, title, width in shown) + "answer"


def _cell(text: str, width: int, name: str) -> str:
    return f"{text[: width - 1]:<{width}}" if name == "set" else f"{text[: width - 1]:>{width - 1}} "


def line(number: int, row: Row, shown: list[tuple[str, str, int]], found: dict, width: int) -> str:
    """One row of the table; found: its texts. The end of the answer is what tells answers apart, so that is shown."""
    cells = [_cell(_value(row.fields.get(name)), size, name) for name, _, size in shown]
    left = f"{number:>6} " + "".join(cells)
    response = str(found.get("response", "(the file has changed)"))
    text = clean(_MARKER.sub(" ", response[-4 * width :]), 10_000)
    room = max(8, width - len(left))
    return left + (text if len(text) <= room else "…" + text[-(room - 1) :])


def _value(value) -> str:
    return "-" if value is None else clean(value) if isinstance(value, str) else figure(value)


def full(row: Row, found: dict, wanted: re.Pattern | None = None) -> Text:
    """Everything of one answer, unwrapped: figures, then prompt, label, extracted answer, response."""
    text = Text()
    fields = {**{name: value for name, value in found.items() if name not in TEXTS}, **row.fields}
    shown = [f"{clean(name, 60)} {_value(value)}" for name, value in fields.items() if name not in TEXTS]
    text.append("  ".join(shown) + "\n", style="cyan")
    for name in TEXTS:
        if found.get(name) is not None:
            text.append(f"\n── {name} ──\n", style="bold")
            text.append_text(_body(str(found[name]), wanted))
            text.append("\n")
    if not found:
        text.append("\nthe file has changed since it was read: leave and start again\n", style="bold red")
    return text


def _body(value: str, wanted: re.Pattern | None) -> Text:
    body = Text(_CONTROL.sub("?", value.replace("\r\n", "\n")).expandtabs(4))
    body.highlight_regex(_MARKER, "magenta")
    if wanted is not None:
        body.highlight_regex(wanted, "reverse")
    return body
