"""Progress of a load by bytes in place: live on a terminal, a line every half minute in a log, one line at the end.

On stderr, of rank 0 alone; ranks load alike. Main thread.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_S = 30.0


@contextmanager
def loading_bar(what: str, total_bytes: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function to be told how many more of `total_bytes` are in place."""
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console

    console = Console(stderr=True)
    start = time.monotonic()
    if console.is_terminal:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(f"loading {what}", total=total_bytes)
            yield lambda count: progress.advance(task, count)
    else:
        yield _Lines(what, total_bytes, start)
    took = time.monotonic() - start
    rate = total_bytes / 1e9 / max(took, 1e-9)
    print(f"loaded {what}: {total_bytes / 1e9:,.2f} GB in {took:.1f} s ({rate:,.2f} GB/s)", file=sys.stderr, flush=True)


class _Lines:
    """A line of progress every LINE_S seconds, for logs."""

    def __init__(self, what: str, total_bytes: int, start: float):
        self.what, self.total, self.done, self.start, self.last = what, total_bytes, 0, start, start

    def __call__(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last >= LINE_S:
            self.last = now
            left = (self.total - self.done) * (now - self.start) / max(self.done, 1)
            text = f"{self.done / 1e9:,.1f} of {self.total / 1e9:,.1f} GB, {left:,.0f} s left"
            print(f"loading {self.what}: {text}", file=sys.stderr, flush=True)
