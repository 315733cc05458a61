"""rl_grpo_research.md: its entries by attempt, and a new one in its place (newest first). Main thread."""

import re
from pathlib import Path

from rft.errors import RftError
from rft.whole_file import WholeFile

FILE = "rl_grpo_research.md"
TITLE = re.compile(r"^## (\d+) — (.*?)(?: \((\d{4}-\d\d-\d\d)\))?[ \t]*$", re.MULTILINE)
ANY = re.compile(r"^## ", re.MULTILINE)


def read(root: Path) -> str:
    """raises  RftError: it is not there or not readable"""
    try:
        return (root / FILE).read_text(encoding="utf-8")
    except (OSError, ValueError) as err:
        raise RftError(f"{root / FILE}: not readable ({err}); restore it: git checkout -- {FILE}") from err


def verdicts(text: str) -> dict[int, str]:
    """Attempt -> verdict of its entry's title."""
    return {int(match[1]): match[2] for match in TITLE.finditer(text)}


def require_place(text: str, number: int, replace: bool) -> None:
    """raises  RftError: the attempt has an entry already and is not to be replaced"""
    old = verdicts(text).get(number)
    if old is not None and not replace:
        raise RftError(f"{FILE}: attempt {number} has an entry already ({old}); --replace writes it anew")


def with_entry(text: str, number: int, entry: str) -> str:
    """The log with the entry in front of all others, or where that of the same attempt stood."""
    old = next((match for match in TITLE.finditer(text) if int(match[1]) == number), None)
    if old:
        after = ANY.search(text, old.end())
        tail = text[after.start() :] if after else ""
        return text[: old.start()] + entry + ("\n" + tail if tail else "")
    first = TITLE.search(text)
    if first:
        return f"{text[: first.start()]}{entry}\n{text[first.start() :]}"
    return f"{text.rstrip()}\n\n{entry}"


def write(root: Path, text: str) -> None:
    """raises  RftError: the disk is full or the file cannot be written; the old one stands then"""
    try:
        file = WholeFile(root / FILE, "w", encoding="utf-8")
        try:
            file.file.write(text)
            file.commit()
        except BaseException:
            file.discard()
            raise
    except OSError as err:
        raise RftError(f"{root / FILE}: {err.strerror}; the old one stands; free space, then call again") from err
