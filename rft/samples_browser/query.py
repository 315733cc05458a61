"""Filters and searches over rows: ``reward<0.5 truncated=1 kinds~worst``, a text, a ``/pattern/``."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from rft.errors import RftError
from rft.samples_browser.index import TEXTS, Row, Samples, texts

_TERM = re.compile(r"([A-Za-z_][\w/.\-]*?)\s*(<=|>=|!=|==|=|<|>|~)\s*(\"[^\"]*\"|'[^']*'|[^\s,]+)")
_OPERATORS: dict[str, Callable] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True)
class Term:
    name: str
    sign: str
    value: str

    def holds(self, row: Row) -> bool:
        """A row without the field never matches. Numbers are compared as numbers; ``~`` finds a pattern in the text."""
        found = row.fields.get(self.name)
        if found is None:
            return False
        if self.sign == "~":
            return re.search(self.value, str(found), re.IGNORECASE) is not None
        try:
            left, right = float(found), float(self.value)
        except (ValueError, OverflowError):
            if self.sign in ("<", "<=", ">", ">="):
                return False
            left, right = str(found), self.value
        return _OPERATORS[self.sign](left, right)


def parse_filter(text: str, names: list[str]) -> list[Term]:
    """All terms, which must all hold; separated by blanks, commas or ``and``.

    raises  RftError for what is no term, an unknown field or a bad pattern
    """
    terms, place = [], 0
    for match in _TERM.finditer(text):
        between = text[place : match.start()].replace(",", " ").split()
        if any(word.lower() not in ("and", "&", "&&") for word in between):
            raise RftError(
                f"filter {text!r}: {' '.join(between)!r} is no comparison; write e.g. reward<0.5 truncated=1"
            )
        terms.append(Term(match[1], match[2], match[3].strip("\"'")))
        place = match.end()
    rest = text[place:].replace(",", " ").split()
    if rest:
        raise RftError(f"filter {text!r}: {' '.join(rest)!r} is no comparison; write e.g. reward<0.5 truncated=1")
    for term in terms:
        if term.name not in names:
            raise RftError(f"filter {text!r}: no sample has the field {term.name!r}; there are: {', '.join(names)}")
        if term.sign == "~":
            _compile(term.value)
    return terms


def pattern(text: str) -> re.Pattern:
    """What a search looks for: ``/regular expression/``, or the text as it stands; both whatever the case."""
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        return _compile(text[1:-1])
    return re.compile(re.escape(text), re.IGNORECASE)


def _compile(text: str) -> re.Pattern:
    try:
        return re.compile(text, re.IGNORECASE)
    except re.error as err:
        raise RftError(f"pattern {text!r}: {err}; write it as for Python's re") from err


def select(samples: Samples, where: str = "", search: str = "", sort: str = "") -> list[Row]:
    """Rows that the filter lets through and whose texts hold the search, in the file's order or by a field.

    sort  a field, ``-field`` for the largest first; rows without it come last
    raises  RftError for a bad filter, pattern or field
    """
    names = samples.names()
    terms = parse_filter(where, names)
    rows = [row for row in samples.rows if all(term.holds(row) for term in terms)]
    if search:
        wanted = pattern(search)
        rows = [row for row in rows if matches(row, wanted)]
    if sort:
        rows = ordered(rows, sort, names)
    return rows


def matches(row: Row, wanted: re.Pattern) -> bool:
    found = texts(row)
    return any(wanted.search(str(found[name])) for name in TEXTS if found.get(name) is not None)


def ordered(rows: list[Row], sort: str, names: list[str]) -> list[Row]:
    name, down = sort.lstrip("-+"), sort.startswith("-")
    if name not in names:
        raise RftError(f"sort {sort!r}: no sample has the field {name!r}; there are: {', '.join(names)}")
    having = [row for row in rows if row.fields.get(name) is not None]
    rest = [row for row in rows if row.fields.get(name) is None]

    def key(row: Row) -> tuple:
        value = row.fields[name]
        return (1, 0, value) if isinstance(value, str) else (0, value, "")

    return sorted(having, key=key, reverse=down) + rest
