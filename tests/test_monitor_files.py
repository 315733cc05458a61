"""The monitor's reading: a file through all that can happen to it, the history, where the files of a run are."""

import json
import os
import random
import shutil

import pytest
from monitor_kit import eval_line, make_run, sync_line, train_line, write

from rft import metrics_file
from rft.errors import RftError
from rft.monitor import evaluations, tail
from rft.monitor.history import EVALS_KEPT, FIRST_KEPT, STEPS_KEPT, History, step_of
from rft.monitor.source import open_run, status
from rft.monitor.state import Follow
from rft.monitor.tail import Tail


def steps(records: list[dict]) -> list[int]:
    return [record["step"] for record in records]


def lines(first: int, last: int) -> list[dict]:
    return [train_line(step) for step in range(first, last + 1)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training_metrics.jsonl"


def test_a_file_that_comes_later(path):
    follower = Tail(path)
    assert follower.poll() == [] and follower.error is None
    write(path, lines(1, 2))
    assert steps(follower.poll()) == [1, 2]
    assert follower.poll() == []


def test_a_torn_line_waits_for_its_rest(path):
    whole = metrics_file.line(train_line(2))
    write(path, lines(1, 1), end=whole[:50])
    follower = Tail(path)
    assert steps(follower.poll()) == [1]
    with open(path, "ab") as file:
        file.write(whole[50:-1])
    assert follower.poll() == []
    with open(path, "ab") as file:
        file.write(b"\n")
    assert steps(follower.poll()) == [2] and follower.passed_over == 0


@pytest.mark.parametrize(
    "bad",
    [b'{"step": 7, "rew', b"\x00\x00\xff\xfe", b"[1, 2]", b"null", b"[" * 100_000, b'{"a": ' * 50_000, b"1" * 5000],
    ids=["torn", "bytes", "list", "null", "nested", "nested-objects", "number"],
)
def test_what_is_no_line_is_passed_over_and_counted(path, bad):
    write(path, lines(1, 1), end=bad + b"\n" + metrics_file.line(train_line(2)))
    follower = Tail(path)
    assert steps(follower.poll()) == [1, 2]
    assert follower.passed_over == 1


def test_rotation_loses_no_line(path):
    """The old file is read to its end, then the new one."""
    write(path, lines(1, 3))
    follower = Tail(path)
    follower.poll()
    with open(path, "ab") as file:
        file.write(metrics_file.line(train_line(4)))
    os.rename(path, path.with_suffix(".1"))
    write(path, lines(5, 6))
    assert steps(follower.poll()) == [4, 5, 6]


def test_a_file_replaced_by_rename_is_read_anew(path):
    write(path, lines(1, 5))
    follower = Tail(path)
    follower.poll()
    os.replace(write(path.with_suffix(".new"), lines(1, 3)), path)
    assert steps(follower.poll()) == [1, 2, 3]


def test_truncation(path):
    write(path, lines(1, 5))
    follower = Tail(path)
    follower.poll()
    os.truncate(path, 0)
    assert follower.poll() == []
    with open(path, "ab") as file:
        file.write(metrics_file.line(train_line(6)))
    assert steps(follower.poll()) == [6]


def test_truncation_that_grew_past_the_place_again(path):
    write(path, lines(1, 3))
    follower = Tail(path)
    follower.poll()
    with open(path, "r+b") as file:  # the same file, other content, longer
        file.truncate(0)
        file.writelines(map(metrics_file.line, lines(10, 19)))
    assert steps(follower.poll()) == list(range(10, 20))


def test_a_deleted_file_is_not_held_open(path):
    write(path, lines(1, 2))
    follower = Tail(path)
    follower.poll()
    path.unlink()
    assert follower.poll() == []
    assert not [fd for fd in os.listdir("/proc/self/fd") if _target(fd).startswith(str(path))]
    write(path, lines(3, 3))
    assert steps(follower.poll()) == [3]


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_a_long_file_is_entered_near_its_end(path):
    write(path, lines(1, 400))
    follower = Tail(path, tail_bytes=20_000)
    found = steps(follower.poll())
    assert found[-1] == 400 and 10 < len(found) < 60 and found == list(range(found[0], 401))
    assert follower.entered_at > 0 and follower.passed_over == 0


def test_a_burst_longer_than_the_tail_is_skipped_to_its_end(path):
    write(path, lines(1, 1))
    follower = Tail(path, tail_bytes=20_000)
    follower.poll()
    with open(path, "ab") as file:
        file.writelines(map(metrics_file.line, lines(2, 400)))
    found = steps(follower.poll())
    assert found[-1] == 400 and len(found) < 60


def test_a_line_without_end_takes_no_memory(path, monkeypatch):
    monkeypatch.setattr(tail, "LINE_BYTES", 1000)
    write(path, [], end=b"x" * 5000)
    follower = Tail(path)
    assert follower.poll() == [] and len(follower._rest) == 0
    with open(path, "ab") as file:
        file.write(b"y" * 500 + b"\n" + metrics_file.line(train_line(1)))
    assert steps(follower.poll()) == [1] and follower.passed_over == 1


def test_what_cannot_be_read_is_one_line(tmp_path):
    follower = Tail(tmp_path)
    assert follower.poll() == []
    assert follower.error == f"{tmp_path} cannot be read: not a plain file"
    os.mkfifo(tmp_path / "pipe")
    follower = Tail(tmp_path / "pipe")  # opening a pipe must not wait for a writer
    assert follower.poll() == [] and "not a plain file" in follower.error


def test_any_cutting_of_the_stream_gives_the_same_lines(path):
    rng = random.Random(5)
    data = b"".join(map(metrics_file.line, lines(1, 30)))
    for _ in range(20):
        path.write_bytes(b"")
        follower, found, place = Tail(path), [], 0
        while place < len(data):
            size = rng.choice([1, 7, 100, 1000, 5000])
            with open(path, "ab") as file:
                file.write(data[place : place + size])
            place += size
            found += steps(follower.poll())
        assert found == list(range(1, 31)) and follower.passed_over == 0
        follower.close()


def test_samples_of_a_long_file(path):
    write(path, lines(1, 2000))
    found = steps(tail.samples(path, path.stat().st_size, 50, first=5000))
    assert found == sorted(set(found)) and found[:5] == [1, 2, 3, 4, 5]
    assert 45 < len(found) < 70 and found[-1] > 1900
    assert tail.samples(path.with_name("absent"), 100, 5) == []


def test_the_last_evaluations_are_found_from_behind(path, monkeypatch):
    records = [eval_line(3, 0.1), *lines(4, 500), eval_line(500, 0.2), *lines(501, 3000)]
    write(path, records)
    size = path.stat().st_size
    assert [r["accuracy"] for r in tail.last_with(path, b'"eval"', size, 1)] == [0.2]
    assert [r["accuracy"] for r in tail.last_with(path, b'"eval"', size, 4)] == [0.1, 0.2]
    monkeypatch.setattr(tail, "_CHUNK_BYTES", 50_000)
    assert [r["accuracy"] for r in tail.last_with(path, b'"eval"', size, 4)] == [0.1, 0.2]
    assert tail.last_with(path, b'"eval"', size, 4, limit_bytes=100_000) == []


def test_an_evaluation_across_the_edge_of_two_chunks(path, monkeypatch):
    """It is found once, whole."""
    monkeypatch.setattr(tail, "_CHUNK_BYTES", 40_000)
    record = {**eval_line(1, 0.5), "pad": "p" * 300}
    for shift in range(0, 700, 20):
        write(path, [record, {"event": "train", "step": 2, "pad": "q" * (40_000 - shift)}])
        assert [r["step"] for r in tail.last_with(path, b'"eval"', path.stat().st_size, 3)] == [1]


def test_history_replaces_what_is_run_again():
    history = History()
    history.add([eval_line(0, 0.1), *lines(1, 10), eval_line(10, 0.5)])
    history.add([train_line(8, reward_mean=0.123)])
    assert steps(history.train) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert history.last["reward_mean"] == 0.123
    assert [steps(evals) for evals in history.evals.values()] == [[0]]


def test_history_is_bounded_and_keeps_both_ends():
    history = History()
    for step in range(1, 20_001):
        history.add([{"event": "train", "step": step, "x": 1.0}])
        if step % 10 == 0:
            history.add([eval_line(step, 0.5)])
    found = steps(history.train)
    assert len(found) <= STEPS_KEPT and found == sorted(found)
    assert found[:FIRST_KEPT] == list(range(1, FIRST_KEPT + 1)) and found[-500:] == list(range(19_501, 20_001))
    [evals] = history.evals.values()
    assert len(evals) == EVALS_KEPT and (evals[0]["step"], evals[-1]["step"]) == (10, 20_000)


def test_figures_that_are_no_numbers():
    history = History()
    history.add([{"step": 1, "x": 2}, {"step": 2, "x": None}, {"step": 3, "x": 10**400}, {"step": 4, "x": True}])
    history.add([{"step": "five"}, {"step": None}, {"x": 3}, {"step": 6, "x": float("nan")}, {"step": 7, "x": "1"}])
    assert history.series("x") == [(1, 2.0)]
    assert [step_of(line) for line in history.train] == [1, 2, 3, 4, 6, 7]


def test_pace_counts_evaluations_and_leaves_out_a_stop():
    history = History()
    history.add([train_line(s, at=1000.0 + 4 * s) for s in range(1, 6)])
    assert history.seconds_per_step() == pytest.approx(4)
    history.add([train_line(6, at=1000.0 + 4 * 5 + 10)])  # an evaluation came between
    assert history.seconds_per_step() == pytest.approx((4 * 4 + 10) / 5)
    history.add([train_line(7, at=9000.0)])  # stopped and resumed
    assert history.seconds_per_step() == pytest.approx((4 * 4 + 10) / 5)
    assert history.eta_s() == pytest.approx(33 * 26 / 5)


def test_the_interval_is_over_problems():
    """Eight equal answers a problem tell no more than one; independent ones do; never fewer than the problems."""
    assert evaluations.effective_problems([0.0, 1.0] * 50) == pytest.approx(100)
    assert evaluations.effective_problems([0.5] * 100) == 100
    rng = random.Random(3)
    shares = [sum(rng.random() < 0.5 for _ in range(8)) / 8 for _ in range(4000)]
    assert evaluations.effective_problems(shares) == pytest.approx(8 * 4000, rel=0.1)


def test_an_evaluation_uses_the_answers_of_its_own_file_only(tmp_path):
    run = make_run(tmp_path / "r", 3)
    path = run / "samples" / "eval_step3_sampled.jsonl"
    shares = [[1.0, 0.0]] * 100
    line = eval_line(3, 0.5, mode="sampling_pass@2", n=2)
    write(run / "metrics" / "training_metrics.jsonl", [eval_line(0, 0.25, "sampling_pass@2", 2), *lines(1, 3), line])

    def interval() -> tuple:
        follow = Follow(open_run(str(run)))
        follow.poll()
        [found] = follow.evaluations
        assert (found.accuracy, found.change, found.since) == (0.5, 0.25, 0)
        return found.low, found.high

    over_problems = pytest.approx((0.4038, 0.5962), abs=5e-5)  # Wilson's for 50 of 100
    assert interval() == over_problems  # no file
    write(path, [{"index": i, "correct": c} for i, c in enumerate([[1.0, 1.0], [0.0, 0.0], *shares[2:]])])
    narrow = interval()
    assert narrow[1] - narrow[0] < 0.05
    write(path, [{"index": i, "correct": [1.0, 1.0]} for i in range(100)])  # does not give 0.5: of something else
    assert interval() == over_problems


def test_a_long_run_shows_its_beginning_and_its_last_evaluation(tmp_path):
    run = make_run(tmp_path / "r", 0)
    records = [eval_line(0, 0.1), *lines(1, 3000), eval_line(3000, 0.3), *lines(3001, 8000)]
    write(run / "metrics" / "training_metrics.jsonl", records)
    follow = Follow(open_run(str(run)))
    assert follow.poll() and follow.train.entered_at > 0
    assert steps(follow.history.train)[:20] == list(range(1, 21)) and follow.step == 8000
    assert len(follow.history.train) < 6000
    assert [(e.step, e.accuracy, e.since) for e in follow.evaluations] == [(3000, 0.3, 0)]
    assert not follow.poll()


def test_older_names_are_understood(tmp_path):
    run = make_run(tmp_path / "r", 0)
    write(
        run / "metrics" / "training_metrics.jsonl", [{"event": "train", "step": 1, "reward": 0.5, "experience_s": 2.0}]
    )
    follow = Follow(open_run(str(run)))
    follow.poll()
    assert follow.history.last["reward_mean"] == 0.5 and follow.history.last["old_logprob_s"] == 2.0


def test_the_certificate_is_checked_again(tmp_path):
    run = make_run(tmp_path / "r", 1)
    path = write(run / "metrics" / "sync_log.jsonl", [sync_line(1)])
    follow = Follow(open_run(str(run)))
    assert follow.certificate() is None
    follow.poll()
    assert (follow.certificate().fault, follow.certificate().ranks) == (None, 2)
    for line, word in (
        (sync_line(2, ["aa" * 16, "cc" * 16]), "rank 1 holds digest cccc"),
        ({**sync_line(3), "engines": []}, "no engine answered"),
        ({"version": 4}, "incomplete"),
        ({**sync_line(5), "engines": [{"ranks": "x"}]}, "incomplete"),
    ):
        with open(path, "ab") as file:
            file.write(metrics_file.line(line))
        follow.poll()
        assert word in follow.certificate().fault


def test_spikes_are_counted_by_step_not_by_rank(tmp_path):
    run = make_run(tmp_path / "r", 1)
    spikes = [{"optimizer_step": s, "rank": r, "grad_norm": 99.0, "time": 1.0} for s in (3, 9) for r in range(4)]
    write(run / "metrics" / "spike_log.jsonl", spikes)
    follow = Follow(open_run(str(run)))
    assert follow.spikes() is None
    follow.poll()
    assert (follow.spikes().steps, follow.spikes().more, follow.spikes().last["optimizer_step"]) == (2, False, 9)


def test_where_a_run_is_read(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs" / "r-1", 2)
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path / "runs"))
    for reference in ("last", "r-1", "r", str(run), str(run / "run.json"), str(run / "metrics")):
        source = open_run(reference)
        assert source.metrics == run / "metrics", reference
    assert open_run("r-1").here() and status(open_run("r-1")) == "running"
    copy = tmp_path / "copied"
    shutil.copytree(run, copy)
    source = open_run(str(copy))
    assert source.copied and source.metrics == copy / "metrics" and source.samples == copy / "samples"
    assert not source.here() and status(source) == "running?"  # the launcher's pid is another machine's
    with pytest.raises(RftError, match="no such run"):
        open_run("absent")
    with pytest.raises(RftError, match="is no run folder"):
        open_run(__file__)


def test_no_run_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path))
    assert open_run("last") is None


def test_large_outputs_elsewhere_are_found(tmp_path):
    """On a node with a scratch disk the run folder holds run.json alone."""
    run = make_run(tmp_path / "r", 2)
    record = json.loads((run / "run.json").read_text())
    shutil.move(run / "metrics", tmp_path / "scratch")
    record["paths"]["metrics"] = str(tmp_path / "scratch")
    (run / "run.json").write_text(json.dumps(record))
    follow = Follow(open_run(str(run)))
    follow.poll()
    assert follow.step == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"paths": 3, "machine": "x", "status": []}', "[" * 100_000])
def test_a_broken_run_json_is_no_end(tmp_path, text):
    run = make_run(tmp_path / "r", 2)
    (run / "run.json").write_text(text)
    follow = Follow(open_run(str(run)))
    follow.poll()
    assert follow.step == 2 and isinstance(follow.status(), str)


def test_a_launcher_that_is_gone(tmp_path):
    run = make_run(tmp_path / "r", 2, pid_started=1)
    assert status(open_run(str(run))) == "died"
