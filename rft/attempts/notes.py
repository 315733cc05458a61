"""The notes file of an attempt: ``## `` sections, two of which must be filled in before the run.

Lines of a section that are HTML comments say what belongs there and do not count as filled in.
"""

import re
from pathlib import Path

from rft.errors import RftError

TEMPLATE = "notes/template.md"
BEFORE = ("Question", "Expectation", "The one change")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
SECTION = re.compile(r"^## +(.+?)\s*$", re.MULTILINE)


def make(template: Path, title: str, given: dict[str, str]) -> str:
    """The template with its title and the sections that are known already.

    given   section name -> text
    raises  RftError: the template is not there, or lacks a section
    """
    try:
        text = template.read_text(encoding="utf-8")
    except OSError as err:
        raise RftError(f"{template}: {err.strerror}; restore it: git checkout -- {TEMPLATE}") from err
    missing = [name for name in BEFORE if name not in sections(text)]
    if missing:
        raise RftError(f"{template}: no section '## {missing[0]}'; restore it: git checkout -- {TEMPLATE}")
    text = text.replace("{title}", title)
    for name, value in given.items():
        text = re.sub(rf"(?m)^(## {re.escape(name)}[ ]*\n)", lambda m, v=value: f"{m[1]}\n{v.strip()}\n", text, count=1)
    return text


def sections(text: str) -> dict[str, str]:
    """Section name -> its text without comments, stripped."""
    parts = SECTION.split(text)
    return {name: COMMENT.sub("", body).strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def require_filled(text: str, path: str) -> dict[str, str]:
    """The sections.

    raises  RftError: one that must stand before the run is empty
    """
    found = sections(text)
    for name in BEFORE:
        if not found.get(name):
            raise RftError(f"{path}: '## {name}' is empty: write it down before the run, then commit the file")
    return found
