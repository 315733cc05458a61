"""Progress of generation: samples done, ETA, tokens/s, running accuracy of each result under way.

A live bar on a terminal, a line every half minute elsewhere. `seen` is called from the writer's thread, the rest from
the main one.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence

DRAW_S, LINE_S = 0.2, 30.0


class Bar:
    """jobs: (name, samples on disk already, of them right, samples in all)."""

    def __init__(self, jobs: Sequence[tuple[str, int, int, int]], quiet: bool = False):
        self.quiet = quiet
        self.names = [job[0] for job in jobs]
        self.done = [job[1] for job in jobs]
        self.right = [job[2] for job in jobs]
        self.totals = [job[3] for job in jobs]
        self.tokens, self.before = 0, sum(self.done)
        self.start: float | None = None
        self._drawn = 0.0
        self._progress = self._task = None

    def begin(self) -> None:
        """The engine stands, requests are about to go out: rates count from here."""
        if self.start is None:
            self.start = self._drawn = time.monotonic()

    def seen(self, job: int, record: dict) -> None:
        self.begin()
        now = time.monotonic()
        self.done[job] += 1
        self.right[job] += record["correct"]
        self.tokens += record["tokens"]
        if self.quiet or now - self._drawn < (DRAW_S if self._progress else LINE_S):
            return
        self._drawn = now
        if self._progress:
            self._progress.update(self._task, completed=sum(self.done), text=self.text(job))
        else:
            print(f"{sum(self.done):,} of {sum(self.totals):,} samples, {self.text(job)}", file=sys.stderr, flush=True)

    def text(self, job: int) -> str:
        """``8,200 tok/s · step40 ood greedy_pass@1 0.412 (85 of 202)``."""
        rate = self.tokens / max(1e-9, time.monotonic() - (self.start or time.monotonic()))
        accuracy = self.right[job] / max(1, self.done[job])
        return f"{rate:,.0f} tok/s · {self.names[job]} {accuracy:.3f} ({self.done[job]:,} of {self.totals[job]:,})"

    @contextlib.contextmanager
    def shown(self) -> Iterator["Bar"]:
        if self.quiet:
            yield self
            return
        from rich.console import Console

        console = Console(file=sys.stderr)
        if console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
            with Progress(*columns, TextColumn("{task.fields[text]}"), console=console) as progress:
                self._progress = progress
                self._task = progress.add_task("", total=sum(self.totals), completed=self.before, text="engine starts")
                yield self
                progress.update(self._task, completed=sum(self.done))
            self._progress = None
        else:
            yield self
        took = time.monotonic() - (self.start or time.monotonic())
        made = sum(self.done) - self.before
        rate = self.tokens / max(1e-9, took)
        print(
            f"{made:,} samples, {self.tokens:,} tokens in {took:.1f} s ({rate:,.0f} tok/s)", file=sys.stderr, flush=True
        )
