"""SIGTERM without loss: a request that the launcher leaves in a file, and that the trainer saves for and obeys.

`ask` runs in the launcher's main thread. `StopAsked` belongs to the patched ``PPOTrainer`` in the controller process:
it looks at the end of each step and, through `rft.doctor.waits`, every two seconds while answers are outstanding. A
request during the update ends the step first. One during a rollout or an evaluation throws that away, and what is saved
is the last step's state: nothing that was sampled since has changed it, and a resumed run samples it again.
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rft import metrics_file
from rft.disk.whole import verify
from rft.errors import RftError
from rft.whole_file import WholeFile

FILE = "stop_asked.json"


class Asked(Exception):
    """The run is to end now; raised where there is nothing worth finishing."""


def ask(metrics_folder: str | Path, run_id: str, reason: str) -> None:
    """Ask the trainer of a run to save and end; run_id: continued runs share the folder, and only this one is meant."""
    whole = WholeFile(Path(metrics_folder) / FILE, "w", encoding="utf-8")
    try:
        json.dump({"run": run_id, "reason": reason, "time": time.time()}, whole.file)
    except BaseException:
        whole.discard()
        raise
    whole.commit()


def withdraw(metrics_folder: str | Path) -> None:
    """After the end of the run; the next one has another id and would not obey, but need not see it."""
    with contextlib.suppress(OSError):
        (Path(metrics_folder) / FILE).unlink()


class StopAsked:
    """One a run.

    env  os.environ: RFT_RUN_ID, METRICS_LOG_DIR. Without a run's id (no launcher) nothing can be asked
    """

    def __init__(self, ckpt_path: str, env: dict[str, str]):
        self.ckpt, self.run_id = Path(ckpt_path), env.get("RFT_RUN_ID")
        self.file = Path(metrics_file.folder()) / FILE
        self.step: int | None = None  # the last finished one of this launch, and what continuing after it needs
        self.states: dict = {}

    def reason(self) -> str | None:
        """What asked for the end (``SIGTERM``); None where nothing did."""
        try:
            asked = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return asked.get("reason") if self.run_id and asked.get("run") == self.run_id else None

    def reached(self, step: int, states: dict) -> bool:
        """At the end of every step, before the decision to save: is it the last?"""
        self.step, self.states = step, states
        return self.reason() is not None

    def check(self) -> None:
        """raises  Asked, in the middle of a rollout or an evaluation"""
        if self.reason() is not None:
            raise Asked

    def stop(self, step: int) -> None:
        """Ends the run if that was asked for; called when the checkpoint and the metrics line of `step` are in place.

        raises  RftError
        """
        reason = self.reason()
        if reason is not None:
            again = f"--resume {self.run_id}"
            raise RftError(f"{reason}: stopped with a checkpoint of step {step}; continue with {again}")

    @contextlib.contextmanager
    def saving(self, save: Callable[[int, dict], None]) -> Iterator[None]:
        """Around the training loop: what `check` breaks off ends with a checkpoint of the last finished step.

        save    writes the checkpoint of (step, states)
        raises  RftError once it is in place
        """
        try:
            yield
        except Asked:
            if self.step is None:
                raise RftError(f"{self.reason()}: stopped before the first step; nothing was lost") from None
            if verify(self.ckpt / f"global_step{self.step}_hf") is not None:
                save(self.step, self.states)
            self.stop(self.step)
