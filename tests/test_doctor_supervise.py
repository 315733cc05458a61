"""The launcher's loop with small children: deaths are named, SIGTERM saves first, a hang is examined and can end it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from doctor_kit import run_folder, wait_until

from rft.doctor import family

TESTS = Path(__file__).parent
# What every child below begins with: helpers under names that Ray and vLLM give, a metrics line now and then.
HEAD = """
import json, os, subprocess, sys, time
from pathlib import Path
metrics = Path(os.environ["METRICS_LOG_DIR"])
def helper(title, code="import time; time.sleep(600)"):
    return subprocess.Popen([title, "-c", code], executable=sys.executable)
def step(number, **more):
    line = {"event": "train", "step": number, "step_s": 0.2, "time": time.time(), **more}
    with open(metrics / "training_metrics.jsonl", "a") as file:
        file.write(json.dumps(line) + "\\n")
def announce(**pids):
    part = metrics / "pids.part"
    part.write_text(json.dumps({name: child.pid for name, child in pids.items()}))
    part.rename(metrics / "pids.json")
"""


class Driver:
    def __init__(self, parent: Path, code: str, **env: str):
        self.folder = run_folder(parent)
        command = [sys.executable, str(TESTS / "doctor_driver.py"), str(self.folder), HEAD + code]
        path = f"{TESTS.parent}:{TESTS}"
        pipes = {"stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, **env}, **pipes)
        self.seen: set[psutil.Process] = set()

    def pids(self) -> dict[str, int]:
        file = self.folder / "metrics" / "pids.json"
        wait_until(file.exists)
        self.seen = set(psutil.Process(self.process.pid).children(recursive=True))
        return json.loads(file.read_text())

    def watched(self) -> dict[str, int]:
        """`pids`, once the launcher holds a pidfd of each."""
        pids = self.pids()
        folder = Path(f"/proc/{self.process.pid}/fdinfo")

        def held() -> set[int]:
            lines = [line for path in folder.iterdir() for line in _text(path).splitlines()]
            return {int(line.split()[1]) for line in lines if line.startswith("Pid:")}

        wait_until(lambda: held() >= set(pids.values()))
        return pids

    def stepped(self) -> None:
        """Until the launcher has seen the step of this launch."""
        self.pids()
        self.said = self.process.stdout.readline()
        assert self.said.startswith("step ")

    def end(self, timeout_s: float = 180) -> str:
        out = self.process.communicate(timeout=timeout_s)[0]
        assert [p for p in self.seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
        return out


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


FAMILY = """
core = helper("VLLM::EngineCore")
actor = helper("ray::PolicyModelActor.fit")
raylet = helper("/ray/raylet")
announce(core=core, actor=actor, raylet=raylet)
step(4)
"""


@pytest.mark.parametrize(("who", "role"), [("core", "engine core"), ("actor", "policy actor"), ("raylet", "raylet")])
def test_whoever_is_killed_is_named_and_the_rest_is_ended(tmp_path, who, role):
    """The training process notices late and names something else."""
    code = FAMILY + f"{who}.wait(); time.sleep(0.5); raise ConnectionError('broken pipe')"
    driver = Driver(tmp_path, code)
    pids = driver.watched()
    os.kill(pids[who], signal.SIGKILL)
    out = driver.end()
    assert f"error: {role} (pid {pids[who]}) died, killed from outside" in out
    assert "ConnectionError: broken pipe" in out


def test_of_two_that_died_at_once_the_one_that_others_hang_on_is_named(tmp_path):
    driver = Driver(tmp_path, FAMILY + "raylet.wait(); sys.exit(1)")
    pids = driver.watched()
    driver.process.send_signal(signal.SIGSTOP)  # the launcher notices both in one look
    wait_until(lambda: family.state(driver.process.pid) == "T")
    os.kill(pids["core"], signal.SIGKILL)
    os.kill(pids["raylet"], signal.SIGKILL)
    wait_until(lambda: all(family.state(pids[name]) in ("Z", "?") for name in ("core", "raylet")))
    driver.process.send_signal(signal.SIGCONT)
    wanted = f"error: raylet (pid {pids['raylet']}) died (at once with it: engine core (pid {pids['core']})), killed"
    assert wanted in driver.end()


def test_an_error_that_came_first_stays_the_cause(tmp_path):
    """Its actors are taken down after it: they did not die of themselves."""
    code = FAMILY + "print('Traceback (most recent call last):'); print('KeyError: 1')\n"
    code += "while not (metrics / 'go').exists(): time.sleep(0.05)\n"
    driver = Driver(tmp_path, code + "core.kill(); core.wait(); time.sleep(1); sys.exit(1)")
    driver.watched()
    (driver.folder / "metrics" / "go").touch()
    assert "returned 1" in driver.end()


def test_an_error_of_the_death_itself_is_no_earlier_cause(tmp_path):
    """A launcher that is slow to look finds the death and its traceback together."""
    code = FAMILY + "core.wait(); print('Traceback (most recent call last):')\n"
    driver = Driver(
        tmp_path, code + "print('ray.exceptions.ActorDiedError: gone'); (metrics / 'told').touch(); sys.exit(1)"
    )
    pids = driver.watched()
    driver.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: family.state(driver.process.pid) == "T")
    os.kill(pids["core"], signal.SIGKILL)
    wait_until((driver.folder / "metrics" / "told").exists)
    driver.process.send_signal(signal.SIGCONT)
    wanted = f"engine core (pid {pids['core']}) died, killed from outside (SIGKILL, out of memory?) or crashed; ray.exc"
    assert wanted in driver.end()


def test_a_run_that_hangs_on_a_death_is_ended(tmp_path):
    driver = Driver(tmp_path, FAMILY + "time.sleep(600)", LINGER_S="2")
    pids = driver.watched()
    os.kill(pids["core"], signal.SIGKILL)
    out = driver.end()
    assert f"error: engine core (pid {pids['core']}) died" in out and "the rest of the run hung without it" in out


OBEDIENT = """
step(4)
from rft.checkpoints.stop import StopAsked
asked = StopAsked("ckpt", dict(os.environ))
announce()
while not asked.reached(5, {}):
    time.sleep(0.05)
(metrics / "saved").write_text("5")
asked.stop(5)
"""


def test_sigterm_lets_the_trainer_save_and_leaves_no_request_behind(tmp_path):
    driver = Driver(tmp_path, OBEDIENT)
    driver.stepped()
    driver.process.send_signal(signal.SIGTERM)
    out = driver.end()
    assert "the trainer saves and ends" in out and "interrupted SIGTERM" in out
    assert (driver.folder / "metrics" / "saved").exists()
    assert not (driver.folder / "metrics" / "stop_asked.json").exists()
    assert "stopped with a checkpoint of step 5" in (driver.folder / "log.txt").read_text()


def test_a_second_sigterm_ends_at_once(tmp_path):
    driver = Driver(tmp_path, "step(4); announce(); time.sleep(600)")
    driver.stepped()
    driver.process.send_signal(signal.SIGTERM)
    wait_until((driver.folder / "metrics" / "stop_asked.json").exists)
    assert driver.process.poll() is None
    driver.process.send_signal(signal.SIGTERM)
    assert "interrupted SIGTERM" in driver.end()
    assert not (driver.folder / "metrics" / "stop_asked.json").exists()


def test_sigterm_before_the_first_step_ends_at_once(tmp_path):
    driver = Driver(tmp_path, "announce(); time.sleep(600)")
    driver.pids()
    driver.process.send_signal(signal.SIGTERM)
    out = driver.end()
    assert "interrupted SIGTERM" in out and "saves" not in out


def test_a_trainer_that_does_not_obey_is_ended(tmp_path):
    driver = Driver(tmp_path, "step(4); announce(); time.sleep(600)", RFT_STOP_S="1")
    driver.stepped()
    driver.process.send_signal(signal.SIGTERM)
    out = driver.end()
    assert "no checkpoint within 1 s (RFT_STOP_S)" in out and "interrupted SIGTERM" in out


HANG = """
frozen = "import threading\\ndef frozen_here():\\n    threading.Event().wait()\\nfrozen_here()"
core = helper("VLLM::EngineCore", frozen)
time.sleep(0.5)
core.send_signal(19)
for number in (4, 5, 6):
    step(number)
    time.sleep(0.3)
announce(core=core)
"""
SOON = {"RFT_HANG_FLOOR_S": "2", "RFT_HANG_FACTOR": "3"}


def test_a_hang_is_examined_named_and_ends_the_run(tmp_path):
    driver = Driver(tmp_path, HANG + "time.sleep(600)", RFT_ON_HANG="stop", **SOON)
    pids = driver.pids()
    out = driver.end()
    assert "watchdog: nothing for " in out and "examining it" in out
    assert f"Engine core (pid {pids['core']}) was stopped (SIGSTOP)" in out and "frozen_here" in out
    assert out.splitlines()[-1].startswith("error: hang: r-1, step 6 finished: nothing for ")
    (archive,) = (driver.folder / "doctor").glob("*.tar.gz")
    assert archive.stat().st_size > 500


def test_a_hang_that_is_only_logged_lets_the_run_go_on(tmp_path):
    code = HANG + "while not list(Path(os.environ['RFT_RUN_DIR']).glob('doctor/*.tar.gz')): time.sleep(0.1)\n"
    code += "time.sleep(1); core.send_signal(18); step(7); core.kill(); core.wait()"
    out = Driver(tmp_path, code, **SOON).end()
    assert "was stopped (SIGSTOP)" in out and "returned 0" in out
