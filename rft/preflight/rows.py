"""The prompt rows of a launch, as the checks of the slow groups read them: files only, data sets of the hub are not."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from rft.data import chat_rows
from rft.data_files import records
from rft.preflight.result import Subject

FLAGS = ("prompt_data", "eval_dataset")


def files(subject: Subject, flags: tuple[str, ...] = FLAGS) -> list[tuple[str, Path]]:
    """(flag, path) of every .jsonl file that the launch names and that is there."""
    named = [(flag, name) for flag in flags for name in (getattr(subject.args, flag, None) or "").split(",") if name]
    paths = [(f"--{flag}", subject.repo / Path(name).expanduser()) for flag, name in named]
    return [(flag, path) for flag, path in paths if path.suffix == ".jsonl" and path.is_file()]


def rows(flag: str, path: Path, args: Namespace) -> Iterator[tuple[int, dict, chat_rows.Row]]:
    """(line from 1, the record, the row) of one file."""
    for number, record in records(flag, path.name, path):
        yield number, record, chat_rows.parse(record, args.input_key, args.label_key)
