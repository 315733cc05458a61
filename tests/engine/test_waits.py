"""Named waits on a real Ray (rft/doctor/waits.py): on time, late, failed, dead; what stands on the disk meanwhile."""

import json
import os
import signal
import threading
import time

import pytest

from rft.doctor import waits, waits_file
from rft.errors import RftError

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ray():
    import ray

    os.environ["RAY_ADDRESS"] = "local"  # never another run's
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield ray
    ray.shutdown()
    del os.environ["RAY_ADDRESS"]


@pytest.fixture
def engine(ray, tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    monkeypatch.setenv("RFT_RUN_ID", "r-1")
    monkeypatch.setattr(waits, "QUIET_S", 0.2)
    monkeypatch.setattr(waits, "LOOK_S", 0.2)

    @ray.remote(num_cpus=0, max_concurrency=4)
    class Engine:
        def answer(self, seconds: float):
            time.sleep(seconds)
            return os.getpid()

        def fail(self):
            raise ValueError("bad tensor")

        def get_num_unfinished_requests(self) -> int:
            return 3

    made = Engine.remote()
    ray.get(made.answer.remote(0))
    yield made
    ray.kill(made)


def test_an_answer_leaves_nothing_behind(engine, tmp_path):
    assert waits.get([engine.answer.remote(0.5), engine.answer.remote(0)], "the engines' answers")[0] > 0
    assert waits.get(engine.answer.remote(0), "one answer") > 0 and os.listdir(tmp_path) == []


def test_a_late_one_is_named_and_counted(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_WAIT_S", "1.5")
    refs = [engine.answer.remote(0), engine.answer.remote(30)]
    seen = []
    watch = threading.Thread(
        target=lambda: [seen.append(waits_file.read(tmp_path)) or time.sleep(0.1) for _ in range(14)]
    )
    watch.start()
    with pytest.raises(RftError, match=r"waited 2 s for the actors' update: 1 of 2 \(number 1\) did not answer"):
        waits.get(refs, "the actors' update")
    watch.join()
    told = next(one for one in seen if one)
    assert (told["what"], told["pending"], told["of"], told["run"]) == ("the actors' update", [1], 2, "r-1")
    assert os.listdir(tmp_path) == []


def test_an_error_of_one_of_many_comes_at_once(engine):
    start = time.monotonic()
    with pytest.raises(ValueError, match="bad tensor"):
        waits.get([engine.answer.remote(30), engine.fail.remote()], "the actors' update")
    assert time.monotonic() - start < 20


def test_a_death_comes_at_once(ray, engine):
    pid = ray.get(engine.answer.remote(0))
    ref = engine.answer.remote(60)
    threading.Timer(0.5, os.kill, (pid, signal.SIGKILL)).start()
    with pytest.raises(ray.exceptions.ActorDiedError):
        waits.get([ref], "the actors' update")


def test_answers_say_what_the_engines_do_and_can_be_broken_off(engine, tmp_path, monkeypatch):
    answers = waits.Answers([engine])
    ready, rest = answers.next([engine.answer.remote(0), engine.answer.remote(30)])
    assert len(ready) == len(rest) == 1
    monkeypatch.setenv("RFT_WAIT_S", "2")
    with pytest.raises(RftError, match="waited 2 s for answers of the engines or their rewards: 1 of 1"):
        answers.next(rest)
    monkeypatch.setenv("RFT_WAIT_S", "60")

    def check():
        told = tmp_path / waits_file.FILE
        if told.exists():
            assert json.loads(told.read_text())["engines"] == [{"unfinished_requests": 3}]
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        waits.Answers([engine], check).next(rest)
