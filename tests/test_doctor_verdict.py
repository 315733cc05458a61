"""rft doctor on real processes and on evidence of every kind: who is named, where it stands, what the bundle holds."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from doctor_kit import IDLE, REWARD, process, run_folder, wait_until

from rft import cli
from rft.doctor import evidence, family, locks, stacks, verdict
from rft.doctor.stacks import Frame, Stacks, Thread

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def children():
    """Started processes are ended."""
    started: list[subprocess.Popen] = []
    yield started
    for child in started:
        child.kill()
        child.wait()


def stands_in(pid: int, function: str) -> bool:
    return any(f.function.endswith(function) for t in stacks.dump([pid])[pid].threads for f in t.frames)


def test_a_frozen_engine_is_named_with_its_frame_and_the_bundle_holds_the_stack(tmp_path, children, capsys):
    folder = run_folder(tmp_path)
    children += [process("ray::PPOTrainer.fit", IDLE), process("VLLM::EngineCore", IDLE)]
    core = children[1]
    wait_until(lambda: stands_in(core.pid, "run_busy_loop"))
    core.send_signal(signal.SIGSTOP)
    wait_until(lambda: family.state(core.pid) == "T")
    assert cli.main(["doctor", str(folder), "--late", "nothing for 60 s after the end of step 3", "--json"]) == 0
    core.send_signal(signal.SIGCONT)
    said = json.loads(capsys.readouterr().out)
    assert said["pid"] == core.pid and said["who"] == f"engine core (pid {core.pid})"
    assert "run_busy_loop" in said["frame"] and "was stopped (SIGSTOP)" in said["verdict"]
    assert said["verdict"].startswith("r-1, step 3 finished: nothing for 60 s after the end of step 3.")
    bundle = Path(said["bundle"])
    stack = (bundle / "stacks" / f"engine-core-{core.pid}.txt").read_text()
    assert "state T" in stack and "run_busy_loop" in stack
    assert (bundle / "verdict.txt").read_text().strip() == said["verdict"]
    with tarfile.open(bundle.with_name(f"{bundle.name}.tar.gz")) as tar:
        assert f"r-1-{bundle.name}/stacks/engine-core-{core.pid}.txt" in tar.getnames()
    assert not list(folder.rglob(".*")) and "hello" in (bundle / "log_tail.txt").read_text()


def test_a_reward_that_never_returns_is_named_with_its_frame(tmp_path, children):
    folder = run_folder(tmp_path)
    children += [process("ray::LLMRayActor.generate_responses", REWARD), process("VLLM::EngineCore", IDLE)]
    wait_until(lambda: stands_in(children[0].pid, "reward_func"))
    waiting = {"what": "answers of the engines or their rewards", "since": time.time() - 90, "time": time.time()}
    waiting |= {"run": "r-1", "engines": [{"unfinished_requests": 0}]}
    (folder / "metrics" / "waiting.json").write_text(json.dumps(waiting))
    found = evidence.collect(folder)
    accused = verdict.guilty(found)
    assert (accused.pid, "its reward has not returned" in accused.why) == (children[0].pid, True)
    assert accused.frame.startswith("reward_func (")
    found.waiting["engines"] = [{"unfinished_requests": 3}]  # the engine itself is still sampling
    accused = verdict.guilty(found)
    assert accused.who == f"engine core (pid {children[1].pid})" and "waited 90 s for answers" in accused.why


def test_a_bundle_holds_no_secret(tmp_path, children):
    """Keys stand in command lines and environments of a run's processes."""
    folder = run_folder(tmp_path)
    code = "import sys, time\ntime.sleep(600)"
    env = {**os.environ, "RFT_RUN_ID": "r-1", "GEMINI_API_KEY": "hush-env"}
    words = ["python", "-c", code, "--use_wandb", "hush-flag"]
    children.append(subprocess.Popen(words, executable=sys.executable, env=env))
    wait_until(lambda: stacks.dump([children[0].pid])[children[0].pid].threads)
    assert cli.main(["doctor", str(folder)]) == 0
    files = [path for path in (folder / "doctor").rglob("*") if path.is_file() and path.suffix != ".gz"]
    held = "".join(path.read_text() for path in files)
    assert "--use_wandb <hidden>" in held and "hush" not in held


def test_an_orphan_of_a_dead_run_is_found(tmp_path, children, capsys):
    folder = run_folder(tmp_path, run_id="r-dead", pid=2**22 - 1, status="failed", error="KeyError: 'x'")
    children.append(process("VLLM::EngineCore", IDLE, run_id="r-dead"))
    assert cli.main(["doctor", str(folder), "--out", str(tmp_path / "elsewhere")]) == 0
    out = capsys.readouterr().out
    assert "The run has ended (failed): KeyError: 'x'" in out
    assert f"still alive of it: engine core (pid {children[0].pid})" in out
    assert len(list((tmp_path / "elsewhere").glob("*.tar.gz"))) == 1 and not (folder / "doctor").exists()


def test_a_run_whose_files_are_gone_still_gets_a_verdict(tmp_path, capsys):
    folder = tmp_path / "r-2"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"id": "r-2", "status": "running", "pid": 2**22 - 1, "start": 1.0}))
    assert cli.main(["doctor", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "r-2, no step finished." in out and "There is no whole checkpoint." in out and "without log:" in out


def test_a_run_that_came_to_its_end_has_nobody_to_blame(tmp_path, capsys):
    folder = run_folder(tmp_path, status="finished")
    assert cli.main(["doctor", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "The run came to its end: nobody is to blame." in out and "checkpoint" not in out


def made(tmp_path, *processes, **fields) -> evidence.Evidence:
    """Evidence by hand: processes as (role, pid, more)."""
    found = evidence.Evidence(tmp_path, {"id": "r"}, status="running", metrics=[{"event": "train", "step": 7}])
    for role, pid, more in processes:
        found.processes.append({"pid": pid, "role": role, "title": role, "state": "S", "cpu_share": 0.0, **more})
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def stack(pid: int, *frames: tuple[str, str]) -> dict[int, Stacks]:
    return {pid: Stacks(pid, [Thread("MainThread", True, tuple(Frame(n, f, 1) for n, f in frames))])}


SITE = "/x/lib/python3.11/site-packages"
COLLECTIVE = (("all_reduce", f"{SITE}/torch/distributed/distributed_c10d.py"), ("step", "/run/rft/batch_plan.py"))
DIED = "actor_died_error_context: the worker was killed by SIGKILL"


@pytest.mark.parametrize(
    ("processes", "fields", "who", "why"),
    [
        ([], {"status": "failed", "cause": "no space left"}, "the run", "no space left"),
        (
            [],
            {"actors": [{"class": "PolicyModelActor", "state": "DEAD", "pid": 9, "death_cause": DIED}]},
            "policy actor (pid 9)",
            "SIGKILL",
        ),
        ([("training process", 1, {}), ("trainer", 2, {}), ("Ray's GCS", 3, {})], {}, "the raylet", "is gone"),
        ([("trainer", 2, {"state": "D", "wchan": "nfs_wait"})], {}, "trainer (pid 2)", "nfs_wait"),
        (
            [("policy actor", 1, {}), ("policy actor", 2, {})],
            {"stacks": {**stack(1, *COLLECTIVE), **stack(2, ("load", "/run/rft/x.py"))}},
            "policy actor (pid 2)",
            "1 other rank(s) wait for it",
        ),
        (
            [("policy actor", 4, {})],
            {"waiting": {"what": "the actors' update", "since": 0.0, "time": 99.0}},
            "policy actor (pid 4)",
            "waited 99 s for the actors' update",
        ),
        ([("trainer", 2, {"cpu_share": 0.9})], {}, "trainer (pid 2)", "is the busiest"),
    ],
    ids=["ended", "dead actor", "no raylet", "device", "collective", "awaited", "busy"],
)
def test_who_is_named(tmp_path, processes, fields, who, why):
    accused = verdict.guilty(made(tmp_path, *processes, **fields))
    assert accused.who == who and why in accused.why


def test_nobody_is_named_without_evidence(tmp_path):
    found = made(tmp_path, ("trainer", 2, {}))
    assert verdict.guilty(found) is None and "Nothing stands out" in verdict.paragraph(found, None)


def test_a_stale_lock_is_told_from_a_held_one(tmp_path, children):
    stale, held = tmp_path / "py311_cpu" / "a" / "lock", tmp_path / "py311_cpu" / "b" / "lock"
    for path in (stale, held):
        path.parent.mkdir(parents=True)
        path.touch()
    code = f"import time; file = open({str(held)!r}); print('open', flush=True); time.sleep(600)"
    children.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE))
    assert children[0].stdout.readline() == b"open\n"
    assert locks.find(tmp_path) == [locks.Lock(stale, None), locks.Lock(held, children[0].pid)]
    frames = stack(5, ("wait", f"{SITE}/torch/utils/file_baton.py"), ("fit", "/run/rft/x.py"))
    found = made(tmp_path, ("policy actor", 5, {}), stacks=frames, locks=locks.find(tmp_path))
    accused = verdict.guilty(found)
    assert accused.why == f"waits for a lock that no living process holds: rm {stale}"
    assert accused.frame == "wait (torch/utils/file_baton.py:1), called from fit (rft/x.py:1)"


def test_where_locks_are():
    assert locks.folder({"TORCH_EXTENSIONS_DIR": "/x"}) == Path("/x")
    assert locks.folder({"HOME": "/h"}) == Path("/h/.cache/torch_extensions")


def test_a_refused_stack_says_why():
    (found,) = stacks.dump([2**22 - 1]).values()
    assert found.threads == [] and found.problem and "no stack:" in found.text()


def test_help_needs_no_ray_and_no_torch():
    code = "import sys; from rft import cli\ntry: cli.main(['doctor', '--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'ray', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ}, capture_output=True)
