"""When a step counts as hanging: medians, evaluations and saves apart, one report a hang (rft/doctor/watchdog.py)."""

import json

import pytest

from rft.doctor.watchdog import Rules, Watchdog, rules
from rft.errors import RftError


class Run:
    """A metrics file, a clock that the test turns, and the watchdog over both."""

    def __init__(self, folder, earlier: int = 0, **given):
        self.file, self.now = folder / "training_metrics.jsonl", 1000.0
        self.lines: list[dict] = []
        for step in range(1, earlier + 1):
            self.lines.append(train(step, time=1.0))
        self._write()
        options = {"factor": 5.0, "floor_s": 20.0, "start_s": 600.0, **given}
        self.dog = Watchdog(self.file, Rules(**options), lambda: self.now)

    def add(self, **line) -> None:
        self.lines.append(line)
        self._write()
        self.dog.poll()

    def cut(self, steps: int) -> None:
        """As a continued run does: the file is written anew without the later steps."""
        self.lines = self.lines[:steps]
        self._write()

    def _write(self) -> None:
        self.file.unlink(missing_ok=True)
        self.file.write_text("".join(json.dumps(line) + "\n" for line in self.lines))

    def after(self, seconds: float):
        self.now += seconds
        return self.dog.poll()


def train(step: int, step_s: float = 10.0, **more) -> dict:
    return {"event": "train", "step": step, "step_s": step_s, "time": 9e9 + step, **more}


def evaluation(step: int, eval_s: float) -> dict:
    return {"event": "eval", "step": step, "mode": "greedy_pass@1", "eval_s": eval_s, "time": 9e9 + step}


def test_a_step_of_five_medians_is_reported_once(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.add(**train(step))
    assert run.dog.trained() and run.after(49) is None
    late = run.after(2)
    assert (late.step, late.limit_s, late.median_s) == (3, 50.0, 10.0)
    assert str(late) == "nothing for 51 s after the end of step 3, 5.1 x a step's median of 10.0 s (limit 50 s)"
    assert run.after(500) is None
    run.add(**train(4))
    assert run.after(51) is not None


def test_short_steps_have_the_floor(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.add(**train(step, 0.5))
    assert run.after(19) is None and run.after(2).limit_s == 20.0


def test_the_start_has_a_limit_of_its_own(tmp_path):
    run = Run(tmp_path)
    assert run.after(599) is None and not run.dog.trained()
    assert str(run.after(2)) == "nothing for 601 s after the start (limit 600 s)"
    run.add(**train(1))
    assert run.after(500) is None  # too few steps for a median


def test_saves_and_evaluations_are_added_where_they_are_due_and_nowhere_else(tmp_path):
    run = Run(tmp_path, save_steps=5, eval_steps=5)
    for step in (1, 2, 3, 4):
        run.add(**train(step))
    run.add(**train(5, 30.0, save_s=20.0))
    assert run.dog.limit() == (50.0 + 600.0, 10.0)  # the first evaluation: nobody knows how long
    run.add(**evaluation(5, 40.0))
    for step in (6, 7, 8):
        run.add(**train(step, 50.0 if step == 6 else 10.0, eval_s=40.0 if step == 6 else 0.0))
    assert run.dog.limit() == (50.0, 10.0)  # neither of the two has widened the median
    run.add(**train(9))
    assert run.dog.limit() == (50.0 + 5 * 20.0, 10.0)
    run.add(**train(10, 30.0, save_s=20.0))
    assert run.dog.limit() == (50.0 + 5 * 40.0, 10.0)


def test_a_continued_run_has_its_medians_from_before_and_its_start_anew(tmp_path):
    run = Run(tmp_path, earlier=8)
    assert run.after(599) is None and not run.dog.trained()
    run.cut(6)
    run.dog.poll()
    assert not run.dog.trained()
    run.add(**train(7))
    assert run.dog.trained() and run.dog.limit() == (50.0, 10.0)


def test_a_torn_line_is_no_progress(tmp_path):
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.add(**train(step))
    run.now += 45
    with open(run.file, "a") as file:
        file.write('{"event": "train", "step": 4')
    assert run.dog.poll() is None and run.after(6) is not None


def test_off_reports_nothing(tmp_path):
    assert Run(tmp_path, on_hang="off").after(1e6) is None


def test_rules_from_the_environment():
    found = rules({"RFT_ON_HANG": "stop", "RFT_HANG_FACTOR": "3", "RFT_HANG_FLOOR_S": "7"}, 10, float("inf"))
    assert found == Rules("stop", 3.0, 7.0, 3600.0, 10, 0)
    assert rules({}, -1, -1) == Rules()
    for bad, said in (({"RFT_ON_HANG": "x"}, "give log, stop or off"), ({"RFT_HANG_FACTOR": "0"}, "HANG_FACTOR=0")):
        with pytest.raises(RftError, match=said):
            rules(bad)
