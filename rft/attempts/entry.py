"""The entry of an attempt in the research log: what its runs and evaluations came to, verdict in the title.

Figures are rft/report's, verdicts rft/stats'; question, expectation and change are those of the tagged commit, before
the run. Reads only; numpy and torch are imported when it is called. Main thread.
"""

import datetime
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rft import runs
from rft.attempts import found
from rft.attempts.found import AttemptRun
from rft.attempts.names import Attempt
from rft.errors import RftError

ROWS = 25  # of the table by step; the report of the run has all
LEFT_OUT = ("status", "commit", "series_id", "seed", "pretrain")  # the entry's line "Run" says these


@dataclass(frozen=True)
class Given:
    """What only a person can say; None: worked out, or left out. results: files of the evaluation programs."""

    verdict: str | None = None
    anomalies: str | None = None
    next: str | None = None
    results: tuple[Path, ...] = ()
    force: bool = False


def write(attempt: Attempt, before: dict[str, str], launches: list[dict], chosen: Sequence[AttemptRun], given: Given):
    """(title, Markdown of the entry).

    before   the notes' sections at the tagged commit
    chosen   the runs, one an arm
    raises   RftError: a run or a result is not readable, or arms cannot be compared
    """
    from rft.report import run_data

    data = [run_data.load(str(run.folder)) for run in chosen]
    compared, told = _comparison(attempt, chosen, given.force)
    verdicts = _results(given) if given.results else None
    title = given.verdict or (verdicts[1] if verdicts else None) or told or _title(data[0])
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    labels = {run.id: f"{attempt.number}{run.arm or ''}" for run in chosen}
    parts = [f"## {attempt.number} — {one_line(title)} ({day})", ""]
    parts += [f"{name}: {one_line(before[name])}\n" for name in ("Question", "Expectation", "The one change")]
    for run, one in zip(chosen, data, strict=True):
        parts += [_run(attempt.number, labels[run.id], run, one, launches), ""]
    parts += ["Result:", ""]
    if verdicts:
        parts += [verdicts[0], ""]
    if compared:
        parts += [compared, ""]
    for run, one in zip(chosen, data, strict=True):
        parts += [*_figures(labels[run.id] if len(data) > 1 else None, one), ""]
    parts += [f"Anomalies: {given.anomalies or '; '.join(_anomalies(labels, chosen, data))}", ""]
    parts += [f"Next: {given.next or before.get('Next') or '-'}"]
    return one_line(title), "\n".join(parts).rstrip() + "\n"


def one_line(text: str) -> str:
    return " ".join(text.split())


def _comparison(attempt: Attempt, chosen: Sequence[AttemptRun], force: bool) -> tuple[str | None, str | None]:
    """(tables, title) of two arms; (None, None) for another number of them."""
    if len(chosen) != 2:
        return None, None
    from rft.evals import compare_cli, compare_runs

    first, second = (run.folder for run in chosen)
    both = tuple(f"{attempt.number}{run.arm or ''}" for run in chosen)
    both = both if len(set(both)) == 2 else tuple(run.id for run in chosen)
    whole = compare_runs.compare(first, second, force)
    whole = replace(whole, names=both, evaluated=compare_runs.evaluated(first, second, both, force))
    said = [_short(one.comparison.verdict, one.comparison.mode) for one in whole.evaluated if one.last]
    return compare_cli.markdown(whole, force), said[0] if said else None


def _short(verdict: str, mode: str) -> str:
    """A verdict's claim without its figures of chance, which stand in the result."""
    return f"{mode}: {verdict.split(', ')[0]}"


def _title(data) -> str:
    """Of one run: its first curve's verdict; without an evaluation, or a failure, what happened."""
    record, history = data.record, data.history
    if record.get("status") in ("failed", "interrupted"):
        last = int(history.steps[-1]) if len(history) else 0
        return f"{record['status']} after step {last}: {record.get('error')}"
    for curve in sorted(data.curves, key=lambda curve: not curve.mode.startswith("greedy")):
        if len(curve.points) > 1:
            return _short(curve.verdict, curve.mode)
    return f"not evaluated: {len(history)} steps of training"


def _run(number: int, label: str, run: AttemptRun, data, launches: list[dict]) -> str:
    """The line that says how to do it again."""
    record = data.record
    launch = next((one for one in reversed(launches) if one["arm"] == run.arm), None) if run.own(number) else None
    command = f", `{shlex.join(launch['command'])}`" if launch else "" if run.own(number) else ", not launched for this"
    gpus = record.get("machine", {}).get("gpus") or []
    place = record.get("machine", {}).get("host", "?") + (f" ({len(gpus)} x {gpus[0]})" if gpus else "")
    dirty = " (with changes)" if record.get("dirty") else ""
    took = runs.duration(run.state["duration_s"])
    return (
        f"Run {label}: `{run.id}`, {run.state['status']} after {run.state['steps']} steps in {took}, commit "
        f"{str(record.get('commit'))[:12]}{dirty}, series {record.get('series_id')}, seed {record.get('seed')}, "
        f"{place}{command}"
    )


def _figures(label: str | None, data) -> list[str]:
    """Headline figures, evaluations by step, the table by step."""
    from rft.report import headline, run_report

    lines = [f"### {label}", ""] if label else []
    lines += [f"- {name}: {value}" for name, value in headline.headline(data) if name not in LEFT_OUT]
    lines += [f"- note: {remark}" for remark in data.remarks]
    if data.curves:
        lines += ["", "| evaluation | set | problems x answers | step | accuracy, 95 % |", "|---|---|---|---|---|"]
        lines += [
            f"| {c.mode} | {run_report.cell(c.dataset)} | {c.problems} x {c.n} | {p.step} | {headline.interval(p)} |"
            for c in data.curves
            for p in c.points
        ]
    head, rows, every = headline.step_rows(data, ROWS)
    lines += ["", *([f"One step in {every}:", ""] if every > 1 else [])]
    return [*lines, *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))]


def _anomalies(labels: dict[str, str], chosen: Sequence[AttemptRun], data) -> list[str]:
    """What the diagnosis finds in each run, and its last whole checkpoint."""
    from rft.disk.whole import newest
    from rft.evals import of_run

    lines = []
    for run, one in zip(chosen, data, strict=True):
        whole = newest(of_run.folders(run.folder)["ckpt"])
        what = one.diagnosis.line() if len(one.history) else "no step"
        prefix = f"{labels[run.id]}: " if len(data) > 1 else ""
        lines.append(f"{prefix}{what}; last whole checkpoint: {whole.name if whole else 'none'}")
    return lines


def _results(given: Given) -> tuple[str, str | None]:
    """(tables, title) of results of the evaluation programs, the others against the first of each set and mode."""
    from rft.evals import compared, results, table

    loaded = [results.load(path) for path in given.results]
    for path, result in zip(given.results, loaded, strict=True):
        if sum(other["name"] == result["name"] for other in loaded) > len(compared.groups(loaded)):
            result["name"] = path.stem
    said = [
        _short(one.verdict, one.mode)
        for group in compared.groups(loaded)
        for one in compared.against_first(group, given.force)[0]
    ]
    return table.markdown(loaded, given.force).rstrip(), said[0] if said else None


def choose(attempt: Attempt, named: Sequence[str]) -> list[AttemptRun]:
    """One run an arm: those named, else the attempt's own.

    raises  RftError: there is none, or one is still under way
    """
    chosen = [found.named(name) for name in named] or list(found.by_arm(found.of(attempt)).values())
    if not chosen:
        where = f"no run of it in {runs.runs_dir()}"
        raise RftError(f"attempt {attempt.number}: {where}; start it, or name a run with --run")
    for run in chosen:
        if run.state["status"] in found.UNDER_WAY:
            raise RftError(f"attempt {attempt.number}: {run.id} is still running; wait for its end, or stop it")
    return chosen


def as_json(title: str, chosen: Sequence[AttemptRun]) -> str:
    return json.dumps({"verdict": title, "runs": [run.state for run in chosen]}, ensure_ascii=False)
