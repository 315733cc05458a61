"""The figures of a run that a research-log entry opens with, and its table by step."""

import csv
import io
import math
import statistics

from rft import runs
from rft.diagnosis import trends
from rft.report.run_data import RunData
from rft.report.svg import number

KEY_COLUMNS = (
    ("reward_mean", "reward"),
    ("correctness", "correct"),
    ("has_boxed", "boxed"),
    ("truncated", "truncated"),
    ("response_length_mean", "length"),
    ("zero_std_groups", "dead groups"),
    ("policy_loss", "loss"),
    ("grad_norm", "grad norm"),
    ("ppo_clip_ratio", "clipped"),
    ("kl", "KL"),
    ("entropy_mean", "entropy"),
    ("dlogp_abs_mean", "mismatch"),
    ("actor_lr", "LR"),
    ("step_s", "s"),
)
MOST_ROWS = 100  # of the table in Markdown; steps.csv has all


def headline(data: RunData) -> list[tuple[str, str]]:
    """(name, value) in words; what a run did not log is left out."""
    history, record = data.history, data.record
    total = f" of {history.total_steps}" if history.total_steps else ""
    start, end = record.get("start"), record.get("end")
    found = [("status", str(record.get("status", "unknown"))), ("steps", f"{len(history)}{total}")]
    if start and end:
        found.append(("wall time", runs.duration(end - start)))
    for figure, name in (("reward_mean", "reward"), ("correctness", "correctness"), ("response_length_mean", "length")):
        _, values = history.series(figure)
        if len(values):
            found.append((f"{name}, first to last", f"{trends.head(values):.4g} → {trends.tail(values):.4g}"))
    for curve in data.curves:
        name = f"{curve.mode}, {curve.dataset} (n = {curve.problems})"
        best = max(curve.points, key=lambda p: p.accuracy)
        path = (
            f"{interval(curve.points[0])} → {interval(curve.points[-1])}; best {best.accuracy:.3f} at step {best.step}"
        )
        found.append((name, path))
        found.append((f"{curve.mode}, verdict", curve.verdict))
    for figure, name in (
        ("grad_norm_max", "largest gradient norm"),
        ("dlogp_abs_mean", "worst step's mismatch, nat/tok"),
    ):
        steps, values = history.series(figure)
        if len(values):
            found.append((name, f"{values.max():.4g} at step {steps[values.argmax()]}"))
    found.append(("gradient spikes logged", str(len({s.get("optimizer_step") for s in history.spikes}))))
    for figure, name, unit in (
        ("sync_s", "sync, median", "s"),
        ("step_s", "step, median", "s"),
        ("generate_tok_s", "generated, median", "tok/s"),
        ("train_tok_s", "trained, median", "tok/s"),
    ):
        _, values = history.series(figure)
        if len(values):
            found.append((name, f"{number(statistics.median(values.tolist()))} {unit}"))
    peak = data.resources.get("peak_rss_bytes")
    if isinstance(peak, int | float):
        found.append(("peak memory of all processes", f"{peak / 2**30:.1f} GiB"))
    found.append(("syncs certified", certified(history.syncs)))
    for key in ("commit", "series_id", "seed", "pretrain"):
        if record.get(key) is not None:
            found.append(
                (key, str(record[key]) + (" (with changes)" if key == "commit" and record.get("dirty") else ""))
            )
    return found


def interval(point) -> str:
    """``0.732 [0.668, 0.784]``."""
    bounds = "" if point.low is None else f" [{point.low:.3f}, {point.high:.3f}]"
    return f"{point.accuracy:.3f}{bounds}"


def certified(syncs: list[dict]) -> str:
    """How many syncs every engine rank answered with the digest of what was sent."""
    if not syncs:
        return "none logged"
    agree = [sync_agrees(sync) for sync in syncs]
    told = f"{agree.count(True)} of {len(syncs)}"
    if unknown := agree.count(None):
        told += f", {unknown} without digests to compare (an older log)"
    return told + (", DISAGREEMENT" if False in agree else "")


def sync_agrees(sync: dict) -> bool | None:
    """Every rank of every engine holds the version, and the digest of its own tensor-parallel share, that was sent.

    returns  None where the line does not say what each rank's share comes to: logs from before there were such digests
    """
    digests, engines = sync.get("digests"), sync.get("engines")
    if not digests or not engines:
        return None
    try:
        return all(
            rank["digest"] == digests[rank["rank"]] and rank["version"] == sync["version"]
            for engine in engines
            for rank in engine["ranks"]
        )
    except (KeyError, IndexError, TypeError):
        return False


def steps_csv(data: RunData) -> str:
    """Every figure of every step; an empty cell is no value."""
    history = data.history
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = list(history.columns)
    writer.writerow(["step", *names])
    for row, step in enumerate(history.steps.tolist()):
        values = (history.columns[name][row] for name in names)
        writer.writerow([step, *("" if v != v else repr(float(v)) for v in values)])
    return file.getvalue()


def step_rows(data: RunData, most: int = MOST_ROWS) -> tuple[list[str], list[list[str]], int]:
    """(head, rows, every how many steps) of the key columns that the run has; the last step is always there."""
    history = data.history
    known = [(name, title) for name, title in KEY_COLUMNS if history.has(name)]
    every = max(1, -(-len(history) // most))
    kept = sorted({*range(0, len(history), every), *([len(history) - 1] if len(history) else [])})
    rows = []
    for row in kept:
        cells = [str(history.steps[row])]
        for name, _ in known:
            value = float(history.columns[name][row]) if name in history.columns else math.nan
            cells.append("-" if value != value else number(value))
        rows.append(cells)
    return ["step", *(title for _, title in known)], rows, every
