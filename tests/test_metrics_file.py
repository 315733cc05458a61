"""Append-only JSONL files (rft/metrics_file.py, rft/step_log.py)."""

import json
import math
import subprocess
import sys

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


def test_a_continued_run_drops_what_it_runs_again(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    path = tmp_path / step_log.FILE
    path.write_text("".join(json.dumps({"event": "train", "step": s}) + "\n" for s in (1, 2, 3)) + '{"event": "tra')
    sync = tmp_path / "sync_log.jsonl"
    sync.write_text("".join(json.dumps({"version": v}) + "\n" for v in (1, 2, 3, 4)))
    step_log.drop_after(2, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    assert [json.loads(line)["version"] for line in sync.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("written", [(1,), (1, 2), (1, 2, 3), ()])
def test_a_line_that_only_the_checkpoint_holds_is_written(tmp_path, monkeypatch, written):
    """The run was killed when step 2's checkpoint stood and its line did not."""
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    path = tmp_path / step_log.FILE
    if written:
        path.write_text("".join(json.dumps({"event": "train", "step": s, "kl": 0.1}) + "\n" for s in written))
    step_log.drop_after(2, 0, {"event": "train", "step": 2, "kl": 0.2})
    found = [(line["step"], line["kl"]) for line in map(json.loads, path.read_text().splitlines())]
    assert found == [(s, 0.1) for s in written if s <= 2] + [(2, 0.2)] * (2 not in written)


def test_a_continued_run_has_no_step_twice(tmp_path, monkeypatch):
    """Lines of two starts in one folder, an evaluation in two modes, and lines that have no step."""
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    path = tmp_path / step_log.FILE
    lines = [
        {"event": "note"},
        {"event": "eval", "step": 1, "mode": "greedy_pass@1", "accuracy": 0.1},
        {"event": "eval", "step": 1, "mode": "sampling_pass@8", "accuracy": 0.2},
        {"event": "train", "step": 1, "kl": 1},
        {"event": "train", "step": 1, "kl": 2},
        {"event": "eval", "step": 1, "mode": "greedy_pass@1", "accuracy": 0.3},
        {"event": "note"},
        {"event": "train", "step": 2},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '[1]\n"text"\n{"event": "tra')
    step_log.drop_after(1, 0)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == [lines[i] for i in (0, 2, 4, 5, 6)]
