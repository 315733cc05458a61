"""Append-only JSONL files (rft/metrics_file.py, rft/step_log.py)."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rft import metrics_file, step_log


def test_what_json_cannot_hold_becomes_null(tmp_path):
    path = str(tmp_path / "m.jsonl")
    metrics_file.append(path, {"a": math.nan, "b": [math.inf, 1.0], "c": {"d": -math.inf}, "e": "ü"})
    with open(path, encoding="utf-8") as file:
        assert json.loads(file.read()) == {"a": None, "b": [None, 1.0], "c": {"d": None}, "e": "ü"}


def test_lines_of_several_writers_never_mix(tmp_path):
    path = str(tmp_path / "m.jsonl")
    code = "import sys\nfrom rft.metrics_file import append\n"
    code += "for i in range(300): append(sys.argv[1], {'w': sys.argv[2], 'x': 'y' * 5000})"
    writers = [subprocess.Popen([sys.executable, "-c", code, path, str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with open(path) as file:
        assert len([json.loads(line) for line in file]) == 900


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = str(tmp_path / "all.jsonl")
    metrics_file.write_all(path, [{"a": 1}])
    with pytest.raises(TypeError):
        metrics_file.write_all(path, [{"a": 2}, {"a": object()}])
    with open(path) as file:
        assert file.read() == '{"a": 1}\n'


def test_phases_add_up_to_the_step(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    clock = iter([0.0, 3.0, 4.5, 10.0, 10.25, 11.0, 11.0])
    monkeypatch.setattr(step_log.time, "perf_counter", lambda: next(clock))
    log = step_log.StepLog(SimpleNamespace(rollout_batch_size=16, num_episodes=2), prompt_count=40)
    for phase in ("generate", "experience", "train", "sync", "save"):
        log.lap(phase)
    log.write(1, 0, {"reward_mean": math.nan, "text": "no number", "flag": True})
    (line,) = [json.loads(text) for text in (tmp_path / step_log.FILE).read_text().splitlines()]
    assert [line[f"{p}_s"] for p in step_log.PHASES] == [3.0, 1.5, 5.5, 0.25, 0.75] and line["step_s"] == 11.0
    assert line["total_steps"] == 6 and line["reward_mean"] is None and "text" not in line and "flag" not in line


def test_a_continued_run_drops_what_it_runs_again(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    path = tmp_path / step_log.FILE
    path.write_text("".join(json.dumps({"event": "train", "step": s}) + "\n" for s in (1, 2, 3)) + '{"event": "tra')
    sync = tmp_path / "sync_log.jsonl"
    sync.write_text("".join(json.dumps({"version": v}) + "\n" for v in (1, 2, 3, 4)))
    step_log.drop_after(2, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    assert [json.loads(line)["version"] for line in sync.read_text().splitlines()] == [1, 2, 3]
