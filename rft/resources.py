"""Peak memory of a run: a thread that adds up all its processes once a second and writes ``resources.json``.

peak_rss_bytes  highest sum of resident sets seen; shared pages (torch's libraries) count once a process, so it is high
peak_pss_bytes  highest sum of proportional sets, what is really taken; reading it is costly, so every tenth sample
Bytes throughout; the launcher itself is counted.
"""

import contextlib
import threading
import time
from pathlib import Path

from rft.processes import Family
from rft.runs import write_json

INTERVAL_S = 1.0
PSS_EVERY = 10
WRITE_EVERY = 30


class Sampler(threading.Thread):
    """Started with the run's first process, stopped before the teardown's last."""

    def __init__(self, family: Family, path: Path):
        super().__init__(name="memory-sampler", daemon=True)
        self._family, self._path = family, Path(path)
        self._done = threading.Event()
        self._start = time.time()
        self.peaks = dict.fromkeys(("peak_rss_bytes", "peak_pss_bytes", "peak_processes", "samples"), 0)

    def run(self) -> None:
        while not self._done.wait(INTERVAL_S):
            self.sample()

    def sample(self) -> None:
        count = self.peaks["samples"]
        rss, processes = self._family.memory()
        if rss > self.peaks["peak_rss_bytes"]:
            self.peaks |= {"peak_rss_bytes": rss, "peak_rss_after_s": round(time.time() - self._start, 1)}
        self.peaks["peak_processes"] = max(self.peaks["peak_processes"], processes)
        if count % PSS_EVERY == 0:
            self.peaks["peak_pss_bytes"] = max(self.peaks["peak_pss_bytes"], self._family.memory(pss=True)[0])
        self.peaks["samples"] = count + 1
        if count % WRITE_EVERY == 0:
            self.write()

    def write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is the training's to report, not the sampler's
            write_json(self._path, {**self.peaks, "interval_s": INTERVAL_S})

    def stop(self) -> None:
        self._done.set()
        self.join(timeout=10)
        self.write()
