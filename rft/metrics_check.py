"""Whether a ``training_metrics.jsonl`` says what `rft.metrics` promises. Called by ``rft metrics --check`` and tests.

Every problem is one line with the file's line number and the value; an unknown name is none, since rewards may log any.
"""

import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

from rft.errors import RftError
from rft.metrics import METRICS, PHASES, canonical, get

PHASE_SLACK = 0.02  # of a step's wall time
ROUNDING = 1e-5  # of means in float32
MOST = 50  # problems of one file
#: each tuple never decreases
ORDERED = (
    ("reward_min", "reward_mean", "reward_max"),
    ("reward_p90", "reward_max"),
    ("advantage_min", "advantage_mean", "advantage_max"),
    ("response_length_p50", "response_length_p90", "response_length_p99"),
    ("entropy_p10", "entropy_p90"),
    ("log_ratio_min", "log_ratio_max"),
    ("grad_norm", "grad_norm_max"),
    ("grad_norm_clipped", "grad_norm"),
    ("effective_batch", "samples"),
    ("gpu_allocated_bytes", "gpu_peak_bytes"),
)


def check_file(path: Path) -> list[str]:
    """Problems of a whole file, at most `MOST`; [] if it has none.

    raises  RftError if it cannot be read or has no train line
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return _check(path, file)
    except OSError as err:
        raise RftError(f"{path}: {err.strerror}; give a run's folder or its training_metrics.jsonl") from err


def _check(path: Path, lines: Iterable[str]) -> list[str]:
    problems: list[str] = []
    before: dict | None = None
    for number, text in enumerate(lines, 1):
        if len(problems) >= MOST:
            return [*problems[:MOST], f"{path}: more problems may follow; these are the first {MOST}"]
        try:
            record = json.loads(text.rstrip("\n"), parse_constant=_no_json)
        except ValueError as err:
            problems.append(f"{path}:{number}: {err}")
            continue
        if not isinstance(record, dict):
            problems.append(f"{path}:{number}: a {type(record).__name__}, not an object")
        elif record.get("event") == "train":
            found = check_line(record) + (_follows(before, record) if before is not None else [])
            problems += [f"{path}:{number}: {problem}" for problem in found]
            before = record
    if before is None and not problems:
        raise RftError(f"{path}: no train line; the run has not finished its first step")
    return problems


def _no_json(name: str):
    raise ValueError(f"{name} is no JSON")


def check_line(record: dict) -> list[str]:
    """Problems of one train line."""
    line = canonical(record)
    problems = [f"{m.name} is missing" for m in METRICS.values() if m.always and not m.family and m.name not in line]
    for name, value in line.items():
        metric = get(name)
        if name == "event" or metric is None:
            continue
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            problems.append(f"{name} is {value!r}, neither a number nor null")
        elif metric.unit == "share" and value is not None and not -ROUNDING <= value <= 1 + ROUNDING:
            problems.append(f"{name} is {value:g}, a share is in [0, 1]")
        elif metric.unit in ("s", "tok", "bytes", "samples", "steps") and value is not None and value < 0:
            problems.append(f"{name} is {value:g}, it cannot be negative")
    nulls = sum(value is None for value in line.values())
    if _number(line.get("null_count")) and line["null_count"] != nulls:
        problems.append(f"null_count is {line['null_count']:g}, {nulls} figures are null")
    problems += _orders(line) + _sums(line)
    return problems


def _orders(line: dict) -> list[str]:
    problems = []
    for names in ORDERED:
        values = [line.get(name) for name in names]
        if all(map(_number, values)):
            slack = ROUNDING * max(1.0, *map(abs, values))
            if any(low > high + slack for low, high in itertools.pairwise(values)):
                problems.append(f"{' ≤ '.join(names)} does not hold: {', '.join(f'{v:g}' for v in values)}")
    return problems


def _sums(line: dict) -> list[str]:
    problems = []
    phases = [line.get(f"{phase}_s") for phase in PHASES]
    if all(map(_number, [*phases, line.get("step_s")])):
        total, wall = sum(phases), line["step_s"]
        if abs(total - wall) > PHASE_SLACK * wall + 1e-3:
            problems.append(f"the phases add up to {total:.3f} s, step_s is {wall:.3f} s")
    sides = [line.get(f"ppo_clip_ratio_{side}") for side in ("low", "high")]
    if all(map(_number, [*sides, line.get("ppo_clip_ratio")])) and not math.isclose(
        sum(sides), line["ppo_clip_ratio"], rel_tol=1e-4, abs_tol=ROUNDING
    ):
        problems.append(f"clip ratios {sides[0]:g} and {sides[1]:g} do not add up to {line['ppo_clip_ratio']:g}")
    return problems


def _follows(before: dict, record: dict) -> list[str]:
    """Problems of a line against the one before it."""
    problems = []
    step, last = record.get("step"), before.get("step")
    if isinstance(step, int) and isinstance(last, int) and step != last + 1:
        problems.append(f"step {step} follows step {last}")
    if not (_number(record.get("time")) and _number(before.get("time"))):
        return problems
    gap = record["time"] - before["time"]
    if gap < 0:
        problems.append(f"time goes back by {-gap:.3f} s")
    elif _number(record.get("step_s")) and record["step_s"] > (1 + PHASE_SLACK) * gap + 0.05:  # less: it was continued
        problems.append(f"step_s is {record['step_s']:.3f} s, the previous line is {gap:.3f} s old")
    return problems


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
