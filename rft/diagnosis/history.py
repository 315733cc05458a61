"""What a run has left so far, as columns: the one thing that rules are asked about.

`read` takes a run folder, an id, a metrics folder or a training_metrics.jsonl; `from_records` takes lines that someone
else has read (the monitor, a guard in the controller). Torn and foreign lines are counted and passed over; a step that
comes again (a resumed run) replaces what stood from it on; a figure that a line lacks is NaN. Reads as a stream: of a
file of a gigabyte only the numbers are kept. Never writes.
"""

import json
import math
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rft import metrics, runs
from rft.diagnosis.names import names_of
from rft.errors import RftError

BAR_BYTES = 64 << 20
SMALL_FILES = 100_000  # lines kept of spike_log.jsonl and sync_log.jsonl


@dataclass
class Evaluation:
    """One line of event `eval`; accuracy in [0, 1], a mean over n_problems of n answers each."""

    step: int
    accuracy: float
    problems: int
    n: int
    correct: list[float] | None = None  # by problem, where the samples are at hand


@dataclass
class History:
    """steps (N,) ascending and unique; columns name -> (N,) float64, NaN where a line lacks the figure.

    null    name -> steps whose line has the figure as null: it was not finite
    evals   (mode, data set, problems, n) -> evaluations, steps ascending
    config  the run's flags as strings, those without a value True; {} where unknown
    """

    steps: np.ndarray
    columns: dict[str, np.ndarray]
    null: dict[str, list[int]] = field(default_factory=dict)
    evals: dict[tuple, list[Evaluation]] = field(default_factory=dict)
    spikes: list[dict] = field(default_factory=list)
    syncs: list[dict] = field(default_factory=list)
    config: dict = field(default_factory=dict)
    total_steps: int | None = None
    status: str | None = None
    torn: int = 0
    name: str = "run"
    samples: Path | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def series(self, figure: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) where the figure is a number; empty where no line has it."""
        for name in names_of(figure):
            values = self.columns.get(name)
            if values is not None and (there := np.isfinite(values)).any():
                return self.steps[there], values[there]
        return self.steps[:0], np.empty(0)

    def has(self, figure: str) -> bool:
        return len(self.series(figure)[1]) > 0

    def until(self, step: int) -> "History":
        """The beginning: steps up to `step`, without evaluations and side files."""
        keep = self.steps <= step
        columns = {name: values[keep] for name, values in self.columns.items()}
        null = {name: [s for s in steps if s <= step] for name, steps in self.null.items()}
        return History(self.steps[keep], columns, null, config=self.config, total_steps=self.total_steps)

    def number(self, flag: str) -> float | None:
        """A flag's value as a number."""
        try:
            return float(self.config[flag])
        except (KeyError, TypeError, ValueError):
            return None


class Columns:
    """Grows a History line by line."""

    def __init__(self):
        self.steps = array("q")
        self.columns: dict[str, array] = {}
        self.null: dict[str, list[int]] = {}
        self.evals: dict[tuple, list[Evaluation]] = {}
        self.total_steps: int | None = None

    def add(self, record: dict) -> None:
        step = record.get("step")
        if isinstance(step, bool) or not isinstance(step, int | float) or not abs(step) < 2**53:  # NaN too
            return
        if record.get("event") == "eval":
            self._add_eval(int(step), record)
        elif record.get("event", "train") == "train":
            self._add_step(int(step), record)

    def _add_step(self, step: int, record: dict) -> None:
        row = len(self.steps)
        self.steps.append(step)
        for name, value in metrics.canonical(record).items():
            if value is None:
                self.null.setdefault(name, []).append(step)
            if isinstance(value, bool) or not isinstance(value, int | float) or name in ("step", "total_steps"):
                continue
            column = self.columns.get(name)
            if column is None:
                column = self.columns[name] = array("d")
            column.extend([math.nan] * (row - len(column)))
            column.append(_float(value))
        total = record.get("total_steps")
        self.total_steps = total if isinstance(total, int) and total > 0 else self.total_steps

    def _add_eval(self, step: int, record: dict) -> None:
        accuracy, problems, n = (record.get(key) for key in ("accuracy", "n_problems", "n"))
        if isinstance(accuracy, int | float) and math.isfinite(accuracy):
            problems, n = (value if isinstance(value, int) and value > 0 else 0 for value in (problems, n))
            key = (str(record.get("mode", "accuracy")), str(record.get("dataset", "")), problems, n)
            self.evals.setdefault(key, []).append(Evaluation(step, float(accuracy), problems, max(1, n)))

    def history(self) -> History:
        steps = np.array(self.steps, dtype=np.int64)
        later = np.minimum.accumulate(steps[::-1])[::-1] if len(steps) else steps  # smallest step from here on
        keep = np.ones(len(steps), dtype=bool)
        keep[:-1] = steps[:-1] < later[1:]  # run again later: that line counts
        columns = {}
        for name, values in self.columns.items():
            column = np.full(len(steps), math.nan)
            column[: len(values)] = values
            columns[name] = column[keep]
        if "zero_std_groups" not in columns and {"groups_all_right", "groups_all_wrong"} <= columns.keys():
            columns["zero_std_groups"] = columns["groups_all_right"] + columns["groups_all_wrong"]
        steps = steps[keep]
        evals = {key: _last_of_each_step(lines) for key, lines in self.evals.items()}
        return History(steps, columns, self.null, evals, total_steps=self.total_steps)


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _last_of_each_step(lines: list[Evaluation]) -> list[Evaluation]:
    return [line for _, line in sorted({line.step: line for line in lines}.items())]


def from_records(records: Iterable[dict], config: dict | None = None) -> History:
    """Lines of training_metrics.jsonl, of both events, in the file's order."""
    columns = Columns()
    for record in records:
        columns.add(record)
    history = columns.history()
    history.config = config or {}
    return history


def read(reference: str | Path) -> History:
    """A run by folder, id, beginning of an id or `last`; or a metrics folder; or one JSONL file.

    raises  RftError if there is no such run or file
    """
    path = Path(reference)
    if path.is_file():
        return _read_files(path, path.parent, None, path.parent.name)
    if path.is_dir() and not (path / runs.RUN_FILE).is_file():
        for metrics in (path / runs.METRICS_FILE, path / "metrics" / runs.METRICS_FILE):
            if metrics.is_file():
                return _read_files(metrics, metrics.parent, path / "samples", path.name)
        raise RftError(f"{path} holds neither {runs.RUN_FILE} nor {runs.METRICS_FILE}: give a run, see: rft runs")
    folder = runs.find(str(reference))
    record = runs.read_json(folder / runs.RUN_FILE)
    metrics, samples = where(folder, record, "metrics"), where(folder, record, "samples")
    history = _read_files(metrics / runs.METRICS_FILE, metrics, samples, str(record.get("id", folder.name)))
    history.config = flags(record.get("flags") or record.get("argv") or [])
    history.status = record.get("status")
    return history


def where(folder: Path, record: dict, part: str) -> Path:
    """A part of a run (metrics, samples, …): where run.json says, or in the folder itself if that was copied here."""
    named = Path(str((record.get("paths") or {}).get(part) or folder / part))
    return named if named.is_dir() or not (folder / part).is_dir() else folder / part


def _read_files(metrics: Path, folder: Path, samples: Path | None, name: str) -> History:
    columns, torn = Columns(), [0]
    for record in objects(metrics, torn):
        columns.add(record)
    history = columns.history()
    history.name, history.torn = name, torn[0]
    history.spikes = tail_objects(folder / "spike_log.jsonl", torn)
    history.syncs = tail_objects(folder / "sync_log.jsonl", torn)
    history.samples = samples if samples is not None and samples.is_dir() else None
    return history


def tail_objects(path: Path, torn: list[int]) -> list[dict]:
    """The last `SMALL_FILES` objects of a JSONL file; [] without one."""
    from collections import deque

    return list(deque(objects(path, torn), maxlen=SMALL_FILES)) if path.is_file() else []


def objects(path: Path, torn: list[int]) -> Iterator[dict]:
    """JSON objects of a file, line by line; what is none is counted in torn[0].

    raises  RftError if the file cannot be read; a missing one is empty
    """
    try:
        with _open(path) as file:
            for line in file:
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                if isinstance(value, dict):
                    yield value
                elif line.strip():
                    torn[0] += 1
    except FileNotFoundError:
        return
    except OSError as err:
        raise RftError(f"{path} cannot be read ({err.strerror}): check its permissions and the disk") from err


def _open(path: Path):
    """The file, with a progress bar on a terminal where reading it takes a while."""
    if path.stat().st_size < BAR_BYTES or not sys.stderr.isatty():
        return open(path, "rb")
    from rich.console import Console
    from rich.progress import open as open_with_bar

    return open_with_bar(path, "rb", description=path.name, console=Console(stderr=True), transient=True)


def flags(argv: list) -> dict:
    """``--flag value …`` as a dict; the last one wins, as in argparse; several values are joined by spaces."""
    found: dict = {}
    key = None
    for token in map(str, argv):
        if token.startswith("--") and len(token) > 2:
            key, equals, value = token[2:].partition("=")
            found[key] = value if equals else True
        elif key is not None:
            found[key] = token if found[key] is True else f"{found[key]} {token}"
    return found
