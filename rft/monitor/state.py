"""A run as the monitor shows it: follows the files, holds what was read, answers in figures.

`Follow.poll` reads what is new and says whether anything was; the rest answers from memory. Times are unix seconds.
"""

import time
from dataclasses import dataclass

from rft import metrics, runs
from rft.lora_certificate import check
from rft.monitor import tail
from rft.monitor.evaluations import Evaluation, latest
from rft.monitor.history import History, number, step_of
from rft.monitor.source import Source, status

SAMPLED = 200  # places of a long file that the sparklines of its older part are drawn from
EVALS_SOUGHT = 4  # evaluations looked for in the older part where the newer one has none
SMALL_TAIL_BYTES = 300_000  # of the sync and spike logs
QUIET_FACTOR, QUIET_S = 5.0, 120.0  # a run is quiet after 5 usual steps without a line, and not before two minutes


@dataclass
class Spikes:
    """Of spike_log.jsonl: `steps` distinct ones; `more`: the file is long, its older part was not counted."""

    steps: int
    more: bool
    last: dict


@dataclass
class Certificate:
    """Of the last sync: `fault` is None where every rank of every engine holds what the trainer sent."""

    line: dict
    fault: str | None
    ranks: int
    engines: int


class Follow:
    def __init__(self, source: Source):
        self.source = source
        self.history = History()
        self.train = tail.Tail(source.metrics / runs.METRICS_FILE)
        self.sync = tail.Tail(source.metrics / "sync_log.jsonl", SMALL_TAIL_BYTES)
        self.spike = tail.Tail(source.metrics / "spike_log.jsonl", SMALL_TAIL_BYTES)
        self.last_sync: dict = {}
        self._spike_steps: set[tuple[str, str]] = set()
        self._last_spike: dict = {}
        self._seeded: tuple | None = None
        self._evaluated: dict = {}
        self.evaluations: list[Evaluation] = []

    def poll(self) -> bool:
        """Read what is new; True if there was something."""
        records = self.train.poll()
        if self.train.entered_at and self._seeded != self.train.entry:
            self._seeded = self.train.entry
            records = self._older(records) + records
        if records:
            self.history.add(map(metrics.canonical, records))
            last = {kind: lines[-1] for kind, lines in self.history.evals.items()}
            if last != self._evaluated:
                self._evaluated, self.evaluations = last, latest(self.history, self.source.samples)
        synced, spiked = self.sync.poll(), self.spike.poll()
        self.last_sync = synced[-1] if synced else self.last_sync
        self._spike_steps.update(map(spike_step, spiked))
        self._last_spike = spiked[-1] if spiked else self._last_spike
        return bool(records or synced or spiked)

    def _older(self, newer: list[dict]) -> list[dict]:
        """A sample of what lies before the place where a long file was entered, and its last evaluations."""
        path, end = self.train.path, self.train.entered_at
        older = tail.samples(path, end, SAMPLED)
        if not any(record.get("event") == "eval" for record in newer):
            older += tail.last_with(path, b'"eval"', end, EVALS_SOUGHT)
        first = next((step_of(record) for record in newer if step_of(record) is not None), None)
        known = [r for r in older if step_of(r) is not None and (first is None or step_of(r) < first)]
        return sorted(known, key=step_of)

    @property
    def step(self) -> int | None:
        return step_of(self.history.last)

    @property
    def total_steps(self) -> int | None:
        total = number(self.history.last.get("total_steps"))
        return int(total) if total else None

    def status(self) -> str:
        return status(self.source)

    def last_line_age_s(self) -> float | None:
        """Seconds since the last line of metrics, by the line's own clock; None where there is none."""
        lines = [self.history.last, *(lines[-1] for lines in self.history.evals.values())]
        times = [at for line in lines if (at := number(line.get("time"))) is not None]
        return max(0.0, time.time() - max(times)) if times else None

    def quiet(self) -> bool:
        """The run should have written a line by now."""
        age, pace = self.last_line_age_s(), self.history.seconds_per_step()
        return age is not None and age > max(QUIET_S, QUIET_FACTOR * (pace or 0.0))

    def certificate(self) -> Certificate | None:
        """The last sync's certificates, checked again with the trainer's own rule."""
        line = self.last_sync
        if not line:
            return None
        engines, ranks = [], 0
        try:
            engines = list(line["engines"])
            ranks = sum(len(engine["ranks"]) for engine in engines)
            check(engines, line["version"], line["digests"])
            fault = None if engines else "no engine answered"
        except RuntimeError as err:
            fault = str(err)
        except (KeyError, TypeError, ValueError, AttributeError):
            fault = "the line in sync_log.jsonl is incomplete"
        return Certificate(line, fault, ranks, len(engines))

    def spikes(self) -> Spikes | None:
        if not self._spike_steps:
            return None
        return Spikes(len(self._spike_steps), self.spike.entered_at > 0, self._last_spike)

    def troubles(self) -> list[str]:
        """What kept files from being read, and lines that were passed over."""
        tails = (self.train, self.sync, self.spike)
        lines = [follower.error for follower in tails if follower.error]
        for follower in tails:
            if follower.passed_over:
                count = follower.passed_over
                lines.append(f"{follower.path.name}: {count} torn or foreign line{'s'[: count > 1]} passed over")
        return lines


def spike_step(line: dict) -> tuple[str, str]:
    """What tells one spike from another: ranks each write a line of the same."""
    return str(line.get("step")), str(line.get("optimizer_step"))
