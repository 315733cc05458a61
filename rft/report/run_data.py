"""Everything a report says about one run, read once: metrics, evaluations with intervals, spikes, syncs, samples.

Nothing here fails for a file that is missing, torn or of an older version: the part is then empty and `remarks` says
so; only a run that is not there raises RftError. Figures as in `rft.metrics`.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from rft import runs
from rft.diagnosis import history as histories
from rft.diagnosis.engine import Diagnosis, diagnose
from rft.errors import RftError

EVAL_FILE = re.compile(r"eval_step(\d+)_(greedy|sampled)\.jsonl")
SAMPLE_FILE = re.compile(r"samples_step(\d+)\.jsonl")


@dataclass(frozen=True)
class Point:
    """One evaluation: accuracy in [0, 1] with a 95 % interval over problems, or None where only the mean is known."""

    step: int
    accuracy: float
    low: float | None
    high: float | None
    method: str


@dataclass(frozen=True)
class Curve:
    """Evaluations of one mode and set, steps ascending; verdict: last against first, in words, or why there is none."""

    mode: str
    dataset: str
    problems: int
    n: int
    points: list[Point]
    verdict: str


@dataclass
class RunData:
    folder: Path
    record: dict
    history: histories.History
    diagnosis: Diagnosis
    curves: list[Curve] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)  # lines of the newest samples_stepN.jsonl
    resources: dict = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.history.name


def load(reference: str) -> RunData:
    """A run by folder, id, beginning of one or `last`; or a folder or file of metrics alone.

    raises  RftError: no such run
    """
    history = histories.read(reference)
    folder = Path(reference) if Path(reference).exists() else runs.find(reference)
    record = runs.read_json(folder / runs.RUN_FILE) if (folder / runs.RUN_FILE).is_file() else {}
    data = RunData(folder, record, history, diagnose(history))
    if not len(history):
        data.remarks.append("training_metrics.jsonl has no step")
    if history.torn:
        data.remarks.append(f"{history.torn} torn or foreign lines were passed over")
    data.curves = curves(history, data.remarks)
    data.samples = newest_samples(history.samples)
    try:
        data.resources = json.loads((folder / "resources.json").read_text()) if folder.is_dir() else {}
    except (OSError, ValueError):
        data.resources = {}
    return data


def curves(history: histories.History, remarks: list[str]) -> list[Curve]:
    """Every mode and set that was evaluated; intervals from the answers by problem where they lie there."""
    by_problem = {}
    if history.samples is not None:
        for path in sorted(history.samples.glob("eval_step*.jsonl")):
            if match := EVAL_FILE.fullmatch(path.name):
                by_problem[int(match[1]), match[2]] = path
    found = []
    for (mode, dataset, problems, n), lines in history.evals.items():
        kind = "greedy" if mode.startswith(("greedy", "nondet")) else "sampled"
        answers = {line.step: _correct(by_problem.get((line.step, kind)), problems, remarks) for line in lines}
        points = [_point(line, answers[line.step]) for line in lines]
        verdict = _verdict(mode, lines, answers)
        found.append(Curve(mode, Path(dataset).name or dataset, problems, n, points, verdict))
    return found


def _correct(path: Path | None, problems: int, remarks: list[str]) -> dict[str, list[float]] | None:
    """Problem -> right or wrong of its answers, from an eval_stepN file; None if it is not whole."""
    if path is None:
        return None
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = {
            f"{row['index']} {row['label']}": [float(v) for v in row.get("correct") or row["rewards"]] for row in rows
        }
        if len(found) != problems or len({len(v) for v in found.values()}) != 1:
            raise ValueError(f"{len(found)} problems, {problems} expected")
        if not all(0 <= v <= 1 for values in found.values() for v in values):
            raise ValueError("a value is outside [0, 1]")
        return found
    except (OSError, ValueError, KeyError, TypeError) as err:
        remarks.append(f"{path.name} is not whole ({err}): its interval is worked out from the mean alone")
        return None


def _point(line: histories.Evaluation, answers: dict[str, list[float]] | None) -> Point:
    from rft.stats import intervals

    if answers:
        rates = [sum(v) / len(v) for v in answers.values()]
        whole = set(rates) <= {0.0, 1.0} and line.n == 1
        interval = intervals.wilson(sum(rates), len(rates)) if whole else intervals.mean_interval(rates)
    elif line.problems and line.n == 1 and 0 <= line.accuracy <= 1:
        interval = intervals.wilson(line.accuracy * line.problems, line.problems)
    else:  # how answers to one problem hang together is not known
        return Point(line.step, line.accuracy, None, None, "no answers at hand")
    return Point(line.step, line.accuracy, interval.low, interval.high, interval.method)


def _verdict(mode: str, lines: list[histories.Evaluation], answers: dict) -> str:
    """The last evaluation against the first, paired over problems."""
    from rft.stats.compare import compare
    from rft.stats.results import EvalResult

    steps = [line.step for line in lines if answers[line.step]]
    if len(steps) < 2:
        return "one evaluation" if len(lines) < 2 else "not tested: the answers by problem are not there"
    first, last = answers[steps[0]], answers[steps[-1]]
    if first.keys() != last.keys():
        return f"not tested: steps {steps[0]} and {steps[-1]} are over other problems"
    results = [
        EvalResult(f"step {s}", mode, list(answers[s]), list(answers[s].values())) for s in (steps[0], steps[-1])
    ]
    try:
        return compare(*results).verdict
    except RftError as err:
        return f"not tested: {err}"


def newest_samples(folder: Path | None) -> list[dict]:
    """Lines of the samples file of the highest step; [] without one."""
    if folder is None:
        return []
    files = {int(m[1]): path for path in folder.iterdir() if (m := SAMPLE_FILE.fullmatch(path.name))}
    return list(histories.objects(files[max(files)], [0])) if files else []


def choose_samples(samples: list[dict], most: int = 16) -> list[tuple[str, dict]]:
    """(why, sample): one or several of each kind, as `kinds` names them; of an older file, which has none, the best,
    the worst, the median, truncated ones and those whose reward and correctness disagree."""
    chosen: dict[int, str] = {}
    kinds: dict[str, list[int]] = {}
    for place, sample in enumerate(samples):
        for kind in sample.get("kinds") or []:
            kinds.setdefault(str(kind), []).append(place)
    if not kinds:
        kinds = _kinds(samples)
    for turn in range(most):
        for kind, places in kinds.items():
            if turn < len(places) and len(chosen) < most:
                chosen.setdefault(places[turn], kind)
    return [(kind, samples[place]) for place, kind in chosen.items()]


def _kinds(samples: list[dict]) -> dict[str, list[int]]:
    def value(place: int, key: str) -> float:
        found = samples[place].get(key)
        return float(found) if isinstance(found, int | float) else 0.0

    order = sorted(range(len(samples)), key=lambda place: value(place, "reward"))
    middle = len(order) // 2
    return {
        "best": order[::-1],
        "worst": order,
        "median": order[middle:] + order[:middle],
        "truncated": [p for p in order if value(p, "truncated") > 0],
        "disagreeing": [
            p for p in order if "correctness" in samples[p] and value(p, "reward") > 0.5 > value(p, "correctness")
        ],
    }
