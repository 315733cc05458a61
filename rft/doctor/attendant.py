"""The watchdog at work in the launcher: a late step is examined in a process of its own, and ends the run if asked to.

`poll` is called at every look of the launcher's main thread and never blocks: the examination (stacks, Ray, machine)
is ``rft doctor`` on this very run, whose bundle lies in ``<run>/doctor/``.
"""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rft import runs, upstream_cli
from rft.doctor import watchdog
from rft.errors import RftError

EXAMINE_S = 120.0  # an examination that hangs itself is given up


class Attendant:
    """metrics_file, command, env: of the run; say: prints a line for the user."""

    def __init__(self, metrics_file: Path, command: Sequence[str], env: dict[str, str], say: Callable[[str], None]):
        self._env, self._say = env, say
        self._folder = env.get("RFT_RUN_DIR")
        self.watchdog = watchdog.Watchdog(metrics_file, watchdog.rules(env, *_every(command)))
        self._doctor: subprocess.Popen | None = None
        self._late: watchdog.Late | None = None
        self._since = 0.0

    def poll(self) -> None:
        """raises  RftError: the verdict on a hang, under RFT_ON_HANG=stop"""
        if self._doctor is not None:
            if self._doctor.poll() is None and time.monotonic() - self._since < EXAMINE_S:
                return
            self._finish()
        late = self.watchdog.poll()
        if late is None:
            return
        self._say(f"watchdog: {late}; examining it …")
        self._late, self._since = late, time.monotonic()
        if self._folder:
            words = [sys.executable, "-m", "rft.cli", "doctor", self._folder, "--late", str(late), "--json"]
            env = {**self._env, "PYTHONPATH": f"{runs.REPO}:{self._env.get('PYTHONPATH', '')}"}
            self._doctor = subprocess.Popen(
                words, cwd=runs.REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        else:
            self._judge(f"{late}; no run folder to examine it in")

    def _finish(self) -> None:
        doctor, self._doctor = self._doctor, None
        doctor.kill()
        verdict, bundle = f"{self._late}; its examination did not come to an end", None
        with contextlib.suppress(ValueError):
            said = json.loads(doctor.stdout.read())
            verdict, bundle = said["verdict"], said["bundle"]
        doctor.wait()
        self._judge(verdict + (f" ({bundle})" if bundle else ""))

    def _judge(self, verdict: str) -> None:
        self._say(f"watchdog: {verdict}")
        if self.watchdog.rules.on_hang == watchdog.STOP:
            raise RftError(f"hang: {verdict}")


def _every(command: Sequence[str]) -> tuple[float, float]:
    """(save_steps, eval_steps) of a training command; (0, 0) where its flags are not OpenRLHF's."""
    flags = list(command[command.index("-m") + 2 :]) if "-m" in command else []
    try:
        args = upstream_cli.parse(flags)
    except RftError:
        return 0, 0
    return args.save_steps, args.eval_steps if args.eval_dataset else 0
