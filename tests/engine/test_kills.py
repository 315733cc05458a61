"""What a kill leaves: the cause within a minute, no orphan, and a run that goes on where its last checkpoint stands.

A handful of kills here, one run after the other on the same checkpoints; more of them, and 30 random ones, with
RFT_TEST_NIGHTLY=1. Each launch starts engines and models anew: about a minute on two idle cores.
"""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest
from kill_kit import CAUSE_S, ROOT, Run, assert_no_gap_and_no_repeat

from rft.disk.whole import checkpoints, verify

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]
ROLES = {
    "trainer": ("trainer", 0),
    "rank 1": ("policy actor", 1),
    "engine core": ("engine core", 0),
    "raylet": ("raylet", 0),
}


@pytest.fixture(scope="module")
def runs(tiny_dir, tmp_path_factory):
    """One folder of runs for the module: each test goes on with what the one before left."""
    return tmp_path_factory.mktemp("runs")


NIGHTLY = pytest.mark.skipif(os.environ.get("RFT_TEST_NIGHTLY") != "1", reason="a launch more: RFT_TEST_NIGHTLY=1")


@pytest.mark.parametrize(
    "who", ["rank 1", *(pytest.param(w, marks=NIGHTLY) for w in ("engine core", "trainer", "raylet"))]
)
def test_a_killed_process_is_named_and_the_run_goes_on(runs, who):
    run = Run(runs)
    run.wait_for_steps(3)
    role, number = ROLES[who]
    pid = run.pid_of(role, number)
    line = run.killed(pid)
    assert f"{role} (pid {pid}) died" in line, line
    assert run.record["status"] == "failed" and f"{role} (pid {pid}) died" in run.record["error"]
    assert all(verify(folder) is None for folder in checkpoints(run.ckpt))
    assert_no_gap_and_no_repeat(run)


@NIGHTLY
def test_a_tensor_parallel_worker(runs):
    run = Run(runs, "--vllm_tensor_parallel_size", "2")
    run.wait_for_steps(2)
    pid = run.pid_of("engine worker", 1)
    assert f"engine worker (pid {pid}) died" in run.killed(pid)


@NIGHTLY
def test_a_kill_in_the_middle_of_a_save(runs):
    run = Run(runs)
    run.wait_for_steps(1)
    run.wait_for_save()
    run.killed(run.pid_of("policy actor", 0))
    assert checkpoints(run.ckpt) and all(verify(folder) is None for folder in checkpoints(run.ckpt))


@pytest.fixture(scope="module")
def terminated(runs):
    """A run of four steps that got SIGTERM: (run, exit status, output, seconds to its end)."""
    run = Run(runs)
    run.wait_for_steps(4)
    start = time.monotonic()
    code, out = run.stop()
    return run, code, out, time.monotonic() - start


def test_sigterm_saves_the_last_step_within_a_minute(terminated):
    run, code, out, seconds = terminated
    assert code == 128 + signal.SIGTERM and seconds < 60
    assert run.record["status"] == "interrupted" and "the trainer saves and ends" in out
    step = run.train()[-1]["step"]
    assert checkpoints(run.ckpt)[-1].name == f"global_step{step}_hf" and verify(checkpoints(run.ckpt)[-1]) is None


def test_truncated_checkpoints_are_skipped_and_said(terminated, runs):
    """Every file of the newest one, in turn, costs that checkpoint and nothing else."""
    newest = checkpoints(terminated[0].ckpt)[-1]
    for path in sorted(path for path in newest.rglob("*") if path.is_file() and path.stat().st_size):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert verify(newest) is not None, path
        path.write_bytes(whole)
    (newest / "resume" / "rank1.pt").write_bytes(b"cut")
    again = Run(runs)
    again.wait_for_steps(1)
    code, out = again.stop()
    assert code == 128 + signal.SIGTERM
    assert f"--resume auto: skipped {newest.name}: resume/rank1.pt is not what was written" in out
    assert_no_gap_and_no_repeat(again)


def test_a_frozen_engine_is_found_named_and_ends_the_run(runs):
    run = Run(runs, RFT_ON_HANG="stop", RFT_HANG_FLOOR_S="10")
    run.wait_for_steps(4)
    core = run.pid_of("engine core")
    os.kill(core, signal.SIGSTOP)
    code, out = run.end(300)
    assert code == 1 and f"Engine core (pid {core}) was stopped (SIGSTOP)" in run.record["error"], out
    (verdict,) = (run.file.parent / "doctor").glob("*/verdict.txt")
    assert list(verdict.parent.glob(f"stacks/engine-core-{core}.txt"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 MB of its own, and a function that leaves so many bytes of it free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "rft-test", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (root is needed): a full disk cannot be made")
    filler = disk / "filler"

    def leave(free: int) -> None:
        filler.unlink(missing_ok=True)
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - free)

    leave.disk, leave.nothing = disk, lambda: filler.unlink(missing_ok=True)
    yield leave
    subprocess.run(["umount", "--lazy", disk], check=True)


@NIGHTLY
def test_a_disk_that_fills_up(tmp_path, tiny_dir, small_disk):
    """Under the floor: an end with a checkpoint. Full at once: the cause is named, and what was saved stands."""
    runs, env = tmp_path / "runs", {"RFT_CKPT_DIR": str(small_disk.disk / "ckpt"), "RFT_MIN_FREE_GB": "0.02"}
    runs.mkdir()
    run = Run(runs, **env)
    run.wait_for_steps(2)
    size = sum(path.stat().st_size for path in checkpoints(run.ckpt)[-1].rglob("*") if path.is_file())
    small_disk(int(1.5 * size))
    code, out = run.end(CAUSE_S)
    assert code == 1 and "under the floor of" in run.record["error"], out
    step = run.train()[-1]["step"]
    assert f"stopped with a checkpoint of step {step}" in run.record["error"]
    assert checkpoints(run.ckpt)[-1].name == f"global_step{step}_hf" and verify(checkpoints(run.ckpt)[-1]) is None

    small_disk.nothing()
    again = Run(runs, **env)
    again.wait_for_steps(1)
    small_disk(0)
    code, out = again.end(CAUSE_S)
    assert code == 1 and "No space left on device" in again.record["error"], out
    assert checkpoints(run.ckpt) and all(verify(folder) is None for folder in checkpoints(run.ckpt))

    small_disk.nothing()
    last = Run(runs, **env)
    last.wait_for_steps(1)
    last.stop()
    assert_no_gap_and_no_repeat(last)


HANGING = """
import os, sys, time
sys.path.insert(0, {root!r})
from reward_func_em import *
from reward_func_em import reward_func as exact

def reward_func(queries, prompts, labels):
    while os.path.exists({switch!r}):
        time.sleep(1)
    return exact(queries, prompts, labels)
"""


def test_a_reward_that_never_returns_is_found_and_named(runs, tmp_path):
    switch, reward = tmp_path / "hang", tmp_path / "hanging_reward.py"
    reward.write_text(HANGING.format(root=str(ROOT), switch=str(switch)))
    run = Run(runs, "--remote_rm_url", str(reward), RFT_ON_HANG="stop", RFT_HANG_FLOOR_S="20")
    run.wait_for_steps(4)
    switch.touch()
    code, out = run.end(300)
    error = run.record["error"]
    assert code == 1 and "its reward has not returned" in error and "hanging_reward.py" in error, out
    (stack,) = (run.file.parent / "doctor").glob("*/stacks/engine-actor-*.txt")
    assert "reward_func" in stack.read_text()


@NIGHTLY
@pytest.mark.timeout(4 * 3600)
def test_thirty_random_kills(runs):
    generator = random.Random(7)
    for number in range(30):
        run = Run(runs)
        role, rank = generator.choice([*ROLES.values(), ("training process", 0), ("policy actor", 0)])
        run.wait_for_steps(1)
        time.sleep(generator.uniform(0, 5))
        pid = run.pid_of(role, rank)
        line = run.killed(pid)
        print(f"kill {number + 1}: {role}: {line}")
        # perhaps beside one that died at once with it
        assert f"{role} (pid {pid})" in line or f"the {role} was killed by SIGKILL" in line
        assert_no_gap_and_no_repeat(run)
        assert all(verify(folder) is None for folder in checkpoints(run.ckpt))
