"""What happens around checkpoints, without torch: the best one, --resume auto, an end that was asked for."""

import json
import os

import pytest

from rft import runs
from rft.checkpoints import auto, best, stop
from rft.errors import RftError
from rft.provenance import sha256


def checkpoint(ckpt, step: int, resumable: bool = True):
    """A whole one, as far as its digests say."""
    folder = ckpt / f"global_step{step}_hf"
    (folder / "resume").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(64))
    if resumable:
        (folder / "resume" / "state.json").write_text("{}")
    files = [path for path in folder.rglob("*") if path.is_file()]
    (folder / "digests.json").write_text(json.dumps({str(p.relative_to(folder)): sha256(p) for p in files}))
    return folder


def evaluation(step: int, accuracy: float, mode: str = "greedy_pass@1") -> dict:
    return {"event": "eval", "step": step, "mode": mode, "accuracy": accuracy}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The trainer's environment in a run."""
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path / "metrics"))
    monkeypatch.setenv("RFT_RUN_ID", "r-1")
    (tmp_path / "metrics").mkdir()
    (tmp_path / "ckpt").mkdir()
    return tmp_path


def write_metrics(run, lines) -> None:
    (run / "metrics" / "training_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_best_is_the_highest_greedy_accuracy_the_earliest_of_equals(run):
    lines = [evaluation(10, 0.5), evaluation(20, 0.7), evaluation(30, 0.7), evaluation(30, 0.9, "sampling_pass@8")]
    assert best.scores(lines) == {10: 0.5, 20: 0.7, 30: 0.7}
    for step in (10, 20, 30):
        checkpoint(run / "ckpt", step)
    write_metrics(run, lines)
    assert best.mark(run / "ckpt").name == "global_step20_hf"
    assert os.readlink(run / "ckpt" / "best") == "global_step20_hf"
    write_metrics(run, [*lines, evaluation(40, 0.8)])
    checkpoint(run / "ckpt", 40)
    assert best.mark(run / "ckpt").name == "global_step40_hf" == best.kept(run / "ckpt").name
    assert [p.name for p in (run / "ckpt").iterdir() if p.name.startswith(".")] == []


def test_best_that_a_copy_made_a_folder_is_left_alone(run, capsys):
    write_metrics(run, [evaluation(10, 0.5)])
    checkpoint(run / "ckpt", 10)
    (run / "ckpt" / "best").mkdir()
    assert best.mark(run / "ckpt").name == "global_step10_hf" and best.kept(run / "ckpt") is None
    assert "best is a folder, where a link belongs" in capsys.readouterr().out


def test_best_without_greedy_evaluations_and_of_what_stands(run, capsys):
    lines = [evaluation(0, 0.9, "sampling_pass@8"), evaluation(10, 0.4, "sampling_pass@8"), evaluation(20, 0.6, "x")]
    write_metrics(run, lines)
    assert best.mark(run / "ckpt") is None and best.kept(run / "ckpt") is None
    folder = checkpoint(run / "ckpt", 10)
    assert best.mark(run / "ckpt") == folder  # step 0 has none, another mode is another figure
    assert "best checkpoint so far: global_step10_hf, accuracy 0.400" in capsys.readouterr().out
    assert best.mark(run / "ckpt") == folder and capsys.readouterr().out == ""
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert best.mark(run / "ckpt") is None


def record_run(parent, run_id: str, start: float, name: str = "t", status: str = "failed", **more):
    folder = parent / run_id
    paths = {key: str(folder / key) for key in ("run_dir", "log", "metrics", "samples", "ckpt", "save")}
    (folder / "ckpt").mkdir(parents=True)
    value = {"id": run_id, "name": name, "start": start, "status": status, "paths": {**paths, "run_dir": str(folder)}}
    (folder / "run.json").write_text(json.dumps({**value, **more}))
    return folder


def test_resume_auto_takes_the_newest_whole_one_and_says_what_it_skipped(tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path))
    said: list[str] = []
    assert auto.resolve("auto", "t", said.append) is None and "starting anew" in said.pop()
    assert auto.resolve("r-7", "t") == "r-7" and auto.resolve(None, "t") is None
    old = record_run(tmp_path, "old", 1.0)
    checkpoint(old / "ckpt", 10)
    torn = checkpoint(old / "ckpt", 20)
    (torn / "resume" / "state.json").unlink()
    checkpoint(old / "ckpt", 30, resumable=False)
    record_run(tmp_path, "newer", 2.0)
    checkpoint(record_run(tmp_path, "other", 3.0, name="u") / "ckpt", 99)
    assert auto.resolve("auto", "t", said.append) == "old"
    assert said == [
        "--resume auto: skipped newer: it saved no checkpoint",
        "--resume auto: skipped global_step30_hf: it holds no resume state",
        "--resume auto: skipped global_step20_hf: resume/state.json is missing",
        "--resume auto: continuing old from global_step10_hf",
    ]


def test_resume_auto_refuses_while_the_run_is_under_way(tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path))
    started = runs.process_start(os.getpid())
    record_run(tmp_path, "live", 1.0, status="running", pid=os.getpid(), pid_started=started)
    with pytest.raises(RftError, match="live is still running"):
        auto.resolve("auto", "t")


def test_a_stop_is_for_one_run(run):
    asked = stop.StopAsked(str(run / "ckpt"), os.environ)
    assert not asked.reached(1, {}) and asked.stop(1) is None
    stop.ask(run / "metrics", "another", "SIGTERM")
    assert not asked.reached(2, {})
    stop.ask(run / "metrics", "r-1", "SIGTERM")
    assert asked.reached(3, {})
    with pytest.raises(RftError, match="SIGTERM: stopped with a checkpoint of step 3; continue with --resume r-1"):
        asked.stop(3)
    stop.withdraw(run / "metrics")
    stop.withdraw(run / "metrics")
    assert not asked.reached(4, {}) and os.listdir(run / "metrics") == []


def test_a_stop_in_the_middle_saves_the_last_finished_step(run):
    asked = stop.StopAsked(str(run / "ckpt"), os.environ)
    saves = []

    def save(step, states):
        saves.append((step, states))
        checkpoint(run / "ckpt", step)

    stop.ask(run / "metrics", "r-1", "SIGTERM")
    with pytest.raises(RftError, match="stopped before the first step"), asked.saving(save):
        asked.check()
    for _ in range(2):  # the second time its checkpoint stands already
        with pytest.raises(RftError, match="stopped with a checkpoint of step 4"), asked.saving(save):
            assert asked.reached(4, {"global_step": 4})
            asked.check()
    assert saves == [(4, {"global_step": 4})]
    with pytest.raises(ValueError, match="other"), asked.saving(save):
        raise ValueError("other")
