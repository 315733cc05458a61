"""A run's measured peaks and phases against what the plan says of that very run, and what follows for another plan.

Reads run.json, metrics/training_metrics.jsonl (`gpu_peak_bytes`, `host_rss_bytes`, the phases' seconds) and
resources.json; writes nothing. A run's rows are as long as its answers were, so it is planned with those lengths: the
limit where an answer was cut off, else the 99 % quantile of the longest step. Memory: what a pool measured beyond the
plan is carried as a term of its own, negative where the plan said too much. Seconds: the ratio of each phase.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rft import runs, upstream_cli
from rft.errors import RftError
from rft.plan import node, seconds, setting
from rft.plan.geometry import find
from rft.plan.node import Plan
from rft.plan.terms import Term


@dataclass(frozen=True)
class Measured:
    """One figure of the run: predicted and measured, bytes or seconds."""

    name: str
    predicted: float
    measured: float
    unit: str = "bytes"

    @property
    def error(self) -> float:
        """predicted / measured - 1"""
        return self.predicted / self.measured - 1


@dataclass
class Calibration:
    """rows: what was compared; gpu_bytes, host_bytes: measured - predicted; ratios: measured / predicted, by phase."""

    run: str
    rows: list[Measured]
    gpu_bytes: int = 0
    host_bytes: int = 0
    ratios: dict[str, float] = field(default_factory=dict)

    def apply(self, plan: Plan) -> Plan:
        """The plan with the run's differences as terms of their own."""
        for pool in plan.pools:
            extra = self.host_bytes if pool.name == "host" else 0
            extra = self.gpu_bytes if pool.name.startswith(("actor GPU", "shared GPU")) else extra
            pool.add(Term(f"measured beyond the plan ({self.run})", extra, basis="measured"))
        return plan

    def text(self) -> str:
        """One line a figure."""
        from rft.plan.render import gib

        lines = [f"calibrated by {self.run}:"]
        for row in self.rows:
            show = gib if row.unit == "bytes" else "{:.1f} s".format
            lines.append(f"  {row.name}: {show(row.predicted)} planned, {show(row.measured)} measured")
        return "\n".join(lines)

    def phases(self, found: dict[str, float]) -> dict[str, float]:
        return {name: value * self.ratios.get(name, 1.0) for name, value in found.items()}


def read(reference: str, gpu_bytes: int) -> Calibration:
    """The calibration that a run gives. reference: id, `last` or folder; gpu_bytes: of one of its GPUs.

    raises  RftError where the run has no training line, or its model cannot be found
    """
    folder = runs.find(reference)
    record = runs.read_json(folder / runs.RUN_FILE)
    paths = runs.Paths(**record["paths"])
    lines = [line for line in runs.metrics_lines(Path(paths.metrics_file)) if line.get("event") == "train"]
    if not lines:
        raise RftError(f"--calibrate {reference}: {paths.metrics_file} has no training line; name a run that trained")
    args = upstream_cli.parse(_flags(record["command"]))
    env = record.get("environment", {})
    cpu = env.get("DS_ACCELERATOR") == "cpu"
    s = setting.of_args(args, find(args.pretrain, runs.REPO), gpu_bytes, cpu=cpu)
    s = s.changed(answer_tok=_longest(lines, s))
    rows = list(_memory(node.plan(s), lines, folder)) + list(_seconds(s, lines))
    found = Calibration(folder.name, rows)
    for row in rows:
        if row.unit == "s" and row.predicted > 0:
            found.ratios[row.name] = row.measured / row.predicted
        elif row.name == "gpu_peak_bytes":
            found.gpu_bytes = int(row.measured - row.predicted)
        elif row.name == "peak_pss_bytes":
            found.host_bytes = int(row.measured - row.predicted)
    return found


def _flags(command: list[str]) -> list[str]:
    at = command.index(upstream_cli.MODULE) if upstream_cli.MODULE in command else -1
    return command[at + 1 :]


def _longest(lines: list[dict], s: setting.Setting) -> int:
    """Tokens of the longest answers that the run trained on."""
    if any((line.get("truncated") or 0) > 0 for line in lines):
        return s.answer_tok
    lengths = [line.get("response_length_p99") or 0 for line in lines]
    return min(s.answer_tok, int(max(lengths))) or s.answer_tok


def _memory(plan: Plan, lines: list[dict], folder: Path) -> Iterator[Measured]:
    first = plan.pools[0]
    peaks = [line["gpu_peak_bytes"] for line in lines if line.get("gpu_peak_bytes")]
    if peaks and not plan.setting.cpu:
        context = sum(term.bytes for term in first.static if term.name.startswith("CUDA context"))
        work = dict(first.moments)
        first.moments = {name: terms for name, terms in work.items() if name != "deepspeed.initialize"}
        yield Measured("gpu_peak_bytes", first.peak - context, max(peaks))  # torch's counter knows tensors only
    resources = folder / "resources.json"
    if resources.is_file():
        measured = runs.read_json(resources).get("peak_pss_bytes")
        if measured:
            yield Measured("peak_pss_bytes", plan.pools[-1].peak, measured)


def _seconds(s: setting.Setting, lines: list[dict]) -> Iterator[Measured]:
    for phase, predicted in seconds.phases(s).items():
        took = [line[f"{phase}_s"] for line in lines[1:] or lines if line.get(f"{phase}_s") is not None]
        if took and median(took) > 0:
            yield Measured(phase, predicted, median(took), "s")
