"""The slow groups of checks, each a process of its own, all at once.

`Worker` is the launcher's side. ``python -m rft.preflight.workers GROUP`` is such a process: it reads a `Subject` and
the names to leave out and of failed checks on its standard input, and answers each check with one JSON line. Its
environment is the run's, but for GPUs, which it must not touch. A process that dies or is late fails the checks that
it has not answered.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Collection
from contextlib import suppress
from dataclasses import astuple

from rft.preflight.result import FAIL, Result, Subject
from rft.preflight.table import in_group, run_group
from rft.runs import REPO

TIME_LIMIT_S = 600.0  # 10 on idle cores; a machine that is starved of them is not at fault


class Worker:
    """One group under way. Use as a context: what is left of the process ends with it."""

    def __init__(self, group: str, subject: Subject, skip: Collection[str], failed: Collection[str] = ()):
        self.group, self._names = group, [check.name for check in in_group(group) if check.name not in skip]
        self._deadline = time.monotonic() + TIME_LIMIT_S
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by end
        folders = [str(REPO), subject.env.get("PYTHONPATH", "")]
        own = {"PYTHONPATH": os.pathsep.join(filter(None, folders)), "CUDA_VISIBLE_DEVICES": ""}
        own |= {"TOKENIZERS_PARALLELISM": "true", "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rft.preflight.workers", group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=subject.repo,
            env={**subject.env, **own},
            start_new_session=True,  # a reward may leave children behind
        )
        with suppress(BrokenPipeError):  # it has ended already: results says so
            self._process.stdin.write(pickle.dumps((subject, list(skip), list(failed))))
            self._process.stdin.close()
        self._process.stdin = None  # else communicate() would flush it
        self._ended = False

    def results(self) -> dict[str, Result]:
        """Waits for the process; a result for every check of the group that is not skipped."""
        try:
            answered = _drain(self._process, self._deadline)
        finally:
            self.end()
        found = {}
        for line in answered.splitlines():
            with suppress(ValueError):  # torn by the process's end: its check is among the missing
                name, *fields = json.loads(line)
                found[name] = Result(*fields)
        missing = [name for name in self._names if name not in found]
        return found | {name: self._lost(name) for name in missing}

    def _lost(self, name: str) -> Result:
        late = time.monotonic() > self._deadline
        why = f"no answer within {TIME_LIMIT_S:.0f} s" if late else f"its process ended early ({self._last_words})"
        remedy = f"look into it, or --skip {name}"
        return Result(FAIL, f"check {name}: {why}", remedy, f"check {name}: {why}; {remedy}")

    def end(self) -> None:
        """Ends the process and what it started; keeps the last line that it said. Again: does nothing."""
        if self._ended:
            return
        self._ended = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._process.stdout.close()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        self._last_words = said[-1][:200] if said else f"exit status {status}"
        self._errors.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc_info) -> None:
        self.end()


def _drain(process: subprocess.Popen, deadline: float) -> str:
    """What the process says until it ends or time is up, whichever is first."""
    try:
        out, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired as late:
        out = late.stdout or b""
    return out.decode(errors="replace")


def main(argv: list[str]) -> int:
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a reward or a library prints is no answer
    subject, skip, failed = pickle.loads(sys.stdin.buffer.read())
    for name, result in run_group(argv[0], subject, skip, failed):
        answers.write(json.dumps([name, *astuple(result)]) + "\n")
        answers.flush()
    answers.close()
    sys.stderr.flush()
    os._exit(0)  # threads of a reward that hangs are not waited for


if __name__ == "__main__":
    main(sys.argv[1:])
