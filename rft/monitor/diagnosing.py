"""The diagnosis line, asked for beside the monitor's own thread: rft.diagnosis loads scipy, which takes a second.

It is judged on what the monitor keeps: the first and the recent steps, a sample of those between. Asked again when
there are new steps, so seldom that it takes at most half a percent of a core.
"""

import threading
import time

from rft.monitor.history import step_of
from rft.monitor.source import Source
from rft.monitor.state import Follow

EVERY_S = 30.0
SHARE = 0.005  # of a core


def lines_of(follow: Follow) -> list[dict]:
    """What is kept of the run, training steps and evaluations, as they would stand in the file."""
    evals = [line for lines in follow.history.evals.values() for line in lines]
    return sorted([*follow.history.train, *evals], key=lambda line: (step_of(line), line.get("event") == "eval"))


def ask(source: Source, lines: list[dict]) -> list[str]:
    """The line, and the first finding's action; [] without a module rft.diagnosis and without steps."""
    try:
        from rft.diagnosis.history import flags
        from rft.diagnosis.line import of_records
    except ModuleNotFoundError as err:
        if (err.name or "").startswith("rft.diagnosis"):
            return []
        return [f"not available: {err.name} is not installed"]
    if not lines:
        return []
    argv = source.record().get("argv")
    found = of_records(lines, flags(argv if isinstance(argv, list) else []))
    sampled = len(lines) > 1 and found.last_step - found.steps > found.steps
    note = " (a sample of all steps)" if sampled else ""
    return [found.line() + note, *(f"-> {finding.rule.action}" for finding in found.findings[:1])]


class Diagnosing:
    """The last answer. A fault of the diagnosis becomes a line, never the monitor's end."""

    def __init__(self):
        self.lines: list[str] = []
        self._next = 0.0
        self._judged: dict | None = None
        self._thread: threading.Thread | None = None

    def poll(self, follow: Follow, wait: bool = False) -> None:
        """Ask again if there is something new and it is time; wait: until the answer is there.

        Not at the very first call, unless `wait`: the screen comes first.
        """
        if self._judged is None and not wait:
            self._judged = {}
            return
        new = follow.history.last is not self._judged
        if new and time.monotonic() >= self._next and not (self._thread and self._thread.is_alive()):
            self._judged = follow.history.last
            self._thread = threading.Thread(
                target=self._ask, args=(follow.source, lines_of(follow)), name="diagnosis", daemon=True
            )
            self._thread.start()
        if wait and self._thread:
            self._thread.join()

    def _ask(self, source: Source, lines: list[dict]) -> None:
        began = time.thread_time()
        try:
            self.lines = ask(source, lines)
        except Exception as err:  # whatever it is, the monitor goes on and says so
            self.lines = [f"failed: {type(err).__name__}: {err}"]
        self._next = time.monotonic() + max(EVERY_S, (time.thread_time() - began) / SHARE)
