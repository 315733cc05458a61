"""Every wait of the controller has a name and a limit: what it waits for is on the disk while it waits.

Called by the patched trainer and train_ppo_ray in place of ``ray.get`` and ``ray.wait``. A wait of more than `QUIET_S`
stands in ``$METRICS_LOG_DIR/waiting.json`` until it is over: `rft doctor` and the watchdog read there who keeps the run
waiting. An error of any awaited call is raised at once, as ``ray.get`` does. Limit: $RFT_WAIT_S seconds (3600), twice
that for what loads a model.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayError

from rft import metrics_file
from rft.doctor.waits_file import FILE
from rft.errors import RftError

LIMIT_S = 3600.0
LOADING = 2.0  # times the limit
QUIET_S = 5.0
LOOK_S = 2.0
ENGINE_S = 5.0  # for an engine's actor to say how many requests it has


def limit_s(loading: bool = False) -> float:
    return float(os.environ.get("RFT_WAIT_S") or LIMIT_S) * (LOADING if loading else 1.0)


class Wait:
    """One wait: its file and its limit.

    what  who is to do what: ``the policy ranks' update``
    """

    def __init__(self, what: str, limit: float):
        self.what, self.limit, self.since = what, limit, time.time()
        self._start = self._told = time.monotonic()
        self._path: Path | None = None

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self._start

    def tell(self, pending: list[int], of: int, **more) -> None:
        """Say on the disk what is outstanding, every `QUIET_S`. raises RftError past the limit."""
        if self.waited_s > self.limit:
            who = f"{len(pending)} of {of} (number {', '.join(map(str, pending[:8]))})"
            raise RftError(
                f"waited {self.limit:.0f} s for {self.what}: {who} did not answer; see what hangs with rft doctor, or "
                "allow more with RFT_WAIT_S"
            )
        if time.monotonic() - self._told < QUIET_S:
            return
        self._told = time.monotonic()
        record = {"what": self.what, "since": self.since, "time": time.time(), "pending": pending, "of": of}
        record |= {"pid": os.getpid(), "run": os.environ.get("RFT_RUN_ID"), **more}
        self._path = Path(metrics_file.folder()) / FILE
        part = self._path.with_name(f".{FILE}.part")
        try:
            part.write_text(json.dumps(record), encoding="utf-8")
            part.replace(self._path)
        except OSError:
            self._path = None  # a full disk has a guard of its own

    def over(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


def get(refs, what: str, loading: bool = False):
    """``ray.get(refs)``, named and bounded.

    refs    one reference or a list of them
    raises  RftError past the limit; what the call raised; Ray's errors where its process died
    """
    wait = Wait(what, limit_s(loading))
    listed = list(refs) if isinstance(refs, list | tuple) else [refs]
    try:
        while True:
            try:
                return ray.get(refs, timeout=LOOK_S)
            except GetTimeoutError as late:
                if type(late) is not GetTimeoutError:  # what an actor raised
                    raise
                pending = ray.wait(listed, num_returns=len(listed), timeout=0)[1]
                wait.tell([listed.index(ref) for ref in pending], len(listed))
    finally:
        wait.over()


class Answers:
    """The wait for the answers of one rollout.

    engines  the engines' Ray actors
    check    called every `LOOK_S` seconds without an answer; may raise (`rft.checkpoints.stop`)
    """

    def __init__(self, engines: Sequence, check: Callable[[], None] = lambda: None):
        self.engines, self.check = engines, check
        self._wait: Wait | None = None
        self._asked_at = 0.0
        self._unfinished: list = []

    def next(self, pending: list) -> tuple[list, list]:
        """``ray.wait(pending, num_returns=1)``: (ready, still pending); one at least is ready.

        raises  RftError when none has come for the limit, with what each engine says about its requests
        """
        self.check()
        wait = Wait("answers of the engines or their rewards", limit_s())
        try:
            while True:
                ready, rest = ray.wait(pending, num_returns=1, timeout=LOOK_S)
                if ready:
                    return ready, rest
                self.check()
                if wait.waited_s > QUIET_S:
                    self._ask()
                wait.tell(list(range(len(rest))), len(rest), engines=self._unfinished)
        finally:
            wait.over()

    def _ask(self) -> None:
        """How many requests each engine still samples; where it is 0, the answers' rewards are outstanding."""
        if time.monotonic() - self._asked_at < QUIET_S:
            return
        refs = [engine.get_num_unfinished_requests.remote() for engine in self.engines]
        self._unfinished = []
        for ref in refs:
            try:
                self._unfinished.append({"unfinished_requests": ray.get(ref, timeout=ENGINE_S)})
            except GetTimeoutError:
                self._unfinished.append({"error": f"its actor did not answer within {ENGINE_S:.0f} s"})
            except RayError as error:
                self._unfinished.append({"error": str(error).split("\n")[0][:300]})
        self._asked_at = time.monotonic()
