"""Every answer in a run's samples folder: its figures in memory, its texts where they are, in the file.

A line of samples_stepN.jsonl is one answer, a line of eval_stepN_<kind>.jsonl one problem with several: lists as long
as `responses` are dealt out, one element an answer, under their singular name. Fields that every row has: `set` (train,
or eval-<kind>), `step`, `length_chars`. Torn and foreign lines are counted and passed over.
"""

import functools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rft.errors import RftError
from rft.monitor.tail import parse

_NAME = re.compile(r"(samples|eval)_step(\d+)(?:_(\w+))?\.jsonl")
_SINGULAR = {"responses": "response", "rewards": "reward"}
TEXTS = ("prompt", "label", "answer", "response")
SHORT = 64  # characters: strings up to here are kept as fields
LINE_BYTES = 64_000_000  # a line longer than this is passed over


@dataclass
class Row:
    """One answer. fields: numbers and short strings; the texts lie in `path` at `offset`."""

    path: Path
    offset: int
    length: int
    part: int  # which of the line's answers
    fields: dict[str, float | int | str | None] = field(default_factory=dict)


@dataclass
class Samples:
    """rows: in the order of step, set and line; passed_over: lines that held no answer."""

    rows: list[Row]
    passed_over: int = 0

    def names(self) -> list[str]:
        """Every field that some row has."""
        return sorted({name for row in self.rows for name in row.fields})


def files(folder: Path, steps: set[int] | None = None, sets: str = "all") -> list[tuple[int, str, Path]]:
    """(step, set, path) of the sample files, steps ascending. sets: all, train or eval; steps: only these; {} = newest

    raises  RftError if the folder has none of them
    """
    found = []
    try:
        names = sorted(os.listdir(folder))
    except OSError as err:
        raise RftError(
            f"{folder} cannot be read ({err.strerror}): samples come with the first save or evaluation"
        ) from err
    for name in names:
        match = _NAME.fullmatch(name)
        if match:
            kind = "train" if match[1] == "samples" else f"eval-{match[3]}" if match[3] else "eval"
            if sets == "all" or kind.startswith(sets):
                found.append((int(match[2]), kind, folder / name))
    if not found:
        what = "" if sets == "all" else f" of {sets}"
        raise RftError(f"{folder} holds no samples{what}: they come with the first save or evaluation (--save_steps)")
    newest = max(step for step, _, _ in found)
    wanted = {newest} if steps == set() else steps
    kept = sorted(entry for entry in found if wanted is None or entry[0] in wanted)
    if not kept:
        there = ", ".join(map(str, sorted({step for step, _, _ in found})))
        raise RftError(f"--step {', '.join(map(str, sorted(wanted)))}: {folder} has samples of the steps {there}")
    return kept


def read(entries: list[tuple[int, str, Path]], advance: Callable[[int], None] = lambda _: None) -> Samples:
    """All rows of the files; advance: is told the bytes of every line."""
    samples = Samples([])
    for step, kind, path in entries:
        for offset, line in _lines(path):
            advance(len(line))
            rows = list(_rows(path, offset, line, {"set": kind, "step": step}))
            samples.rows += rows
            samples.passed_over += not rows and bool(line.strip())
    return samples


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with open(path, "rb") as file:
            offset = 0
            while line := file.readline(LINE_BYTES):
                yield offset, line
                offset += len(line)
    except OSError as err:
        raise RftError(f"{path} cannot be read ({err.strerror}): check its permissions and the disk") from err


def _rows(path: Path, offset: int, line: bytes, about: dict) -> Iterator[Row]:
    record = parse(line)
    for part, one in enumerate(answers(record) if record else []):
        fields = {**about, **{name: kept for name, value in one.items() if (kept := _field(name, value)) is not None}}
        fields["length_chars"] = len(str(one.get("response", "")))
        yield Row(path, offset, len(line), part, fields)


def answers(record: dict) -> list[dict]:
    """The answers of a line, each with the fields of its own; [] if the line holds none."""
    responses = record.get("responses")
    if isinstance(responses, list):
        dealt = {name for name, value in record.items() if isinstance(value, list) and len(value) == len(responses)}
        shared = {name: value for name, value in record.items() if name not in dealt}
        own = [{_SINGULAR.get(name, name): record[name][part] for name in dealt} for part in range(len(responses))]
        found = [{**shared, **one, "part": part} for part, one in enumerate(own)]
    else:
        found = [record] if "response" in record else []
    return [_flat(one) for one in found]


def _flat(record: dict) -> dict:
    """Tables become fields ``name/part``; lists of strings one string. `correct` is also `correctness`."""
    flat: dict = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": item for key, item in value.items()}
        elif isinstance(value, list):
            flat[name] = " ".join(map(str, value))
        else:
            flat[name] = value
    if "correct" in flat:
        flat.setdefault("correctness", flat["correct"])
    return flat


def _field(name: str, value) -> float | int | str | None:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int | float):
        return value if value == value else None
    return value if isinstance(value, str) and len(value) <= SHORT and name not in ("prompt", "response") else None


@functools.lru_cache(maxsize=256)
def _answers_at(path: Path, offset: int, length: int) -> list[dict]:
    with open(path, "rb") as file:
        file.seek(offset)
        record = parse(file.read(length))
    return answers(record) if record else []


def texts(row: Row) -> dict:
    """All of the row's answer, read from its file anew; {} if the file has changed since."""
    try:
        found = _answers_at(row.path, row.offset, row.length)
    except OSError:
        return {}
    return found[row.part] if row.part < len(found) else {}
