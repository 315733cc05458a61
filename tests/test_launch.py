"""rft.launch with a small real child in place of OpenRLHF: end, failure, interruption; never an orphan."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rft import launch, provenance, runlog, runs
from rft.errors import RftError
from rft.preflight import table
from rft.runs import Paths

TESTS = Path(__file__).parent
FLAGS = "--advantage_estimator dr_grpo --actor_num_gpus_per_node 2 --rollout_batch_size 2 --n_samples_per_prompt 2 "
FLAGS += "--train_batch_size 4 --micro_train_batch_size 2 --micro_rollout_batch_size 2 --vllm_num_engines 1 "
FLAGS += "--attn_implementation eager --init_kl_coef 0 --label_key label"
# They have tests of their own; this model and this reward are none.
SLOW_CHECKS = ",".join(check.name for check in table.CHECKS if check.group != table.QUICK)


class Launcher:
    """A launcher process in its own folder."""

    def __init__(self, folder: Path, how: str, *options: str, with_ray: bool = False, **env: str):
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "config.json").write_text('{"model_type": "gpt_oss"}')
        (folder / "train.jsonl").write_text('{"input": "1+1", "label": "2"}\n' * 4)
        (folder / "reward.py").write_text("def reward_func(queries, prompts, labels): ...\n")
        paths = ["--pretrain", folder / "model", "--prompt_data", folder / "train.jsonl"]
        paths += ["--remote_rm_url", folder / "reward.py"]
        driver = [sys.executable, TESTS / "launch_driver.py", "1" if with_ray else "0", "fake_training"]
        command = [*driver, "--name", "t", "--skip", SLOW_CHECKS, *options, "--", *FLAGS.split(), *paths]
        inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "METRICS_LOG_DIR")}
        ours = {"DS_ACCELERATOR": "cpu", "RFT_RUNS_DIR": folder / "runs", "FAKE": how, "RFT_MIN_FREE_GB": "0.01"}
        ours["PYTHONPATH"] = f"{TESTS.parent}:{TESTS}"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.runs = folder / "runs"
        self.process = subprocess.Popen(
            list(map(str, command)), env={**inherited, **{k: str(v) for k, v in ours.items()}, **env}, **pipes
        )
        self.seen: set[psutil.Process] = set()

    def wait(self, timeout_s: float = 60) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err

    def wait_for_step(self, timeout_s: float = 60) -> None:
        """Until the first metrics line stands; remembers every process of the run."""
        deadline = time.monotonic() + timeout_s
        while not list(self.runs.glob("*/metrics/training_metrics.jsonl")):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        self.seen = set(psutil.Process(self.process.pid).children(recursive=True))

    @property
    def run(self) -> Path:
        return next(self.runs.iterdir())

    def record(self) -> dict:
        return json.loads((self.run / "run.json").read_text())


def alive(processes: set[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_finished_run(tmp_path):
    launcher = Launcher(tmp_path, "fine")
    code, out, err = launcher.wait()
    assert (code, err) == (0, "")
    record = launcher.record()
    assert (record["status"], record["exit_code"], record["seed"]) == ("finished", 0, 42)
    assert record["end"] > record["start"] and record["series_id"] and record["commit"]
    assert list(record["data_sha256"]) == [str(tmp_path / "train.jsonl"), str(tmp_path / "reward.py")]
    assert "hello from the training process" in (launcher.run / "log.txt").read_text()
    assert "hello" not in out and "step 3/3  reward 0.750" in out and "ETA 0s" in out
    assert "torch==" in (launcher.run / "packages.txt").read_text()


def test_the_summary_module_runs_on_the_run_folder(tmp_path):
    (tmp_path / "after_it.py").write_text("def main(argv):\n    print('after', argv)\n    return 0\n")
    launcher = Launcher(tmp_path, "fine", "--after", "after_it", PYTHONPATH=f"{TESTS.parent}:{TESTS}:{tmp_path}")
    code, out, _ = launcher.wait()
    assert code == 0 and f"after ['{launcher.run}']" in out


def test_resources_are_the_sum_over_all_processes(tmp_path):
    launcher = Launcher(tmp_path, "rft_error")
    launcher.wait()
    peaks = json.loads((launcher.run / "resources.json").read_text())
    assert peaks["samples"] >= 1 and peaks["peak_processes"] >= 4  # launcher, training, stubborn child, daemon
    assert 4 * 5e6 < peaks["peak_pss_bytes"] < peaks["peak_rss_bytes"] < 4e9


def test_failure_is_one_line_with_the_cause(tmp_path):
    launcher = Launcher(tmp_path, "rft_error")
    code, out, err = launcher.wait()
    log = launcher.run / "log.txt"
    assert code == 1 and "Traceback" not in out + err
    assert err == f"error: training failed: data/x.jsonl line 3: label 'abc' is no integer; mend it (log: {log})\n"
    assert launcher.record()["status"] == "failed"


@pytest.mark.parametrize(
    ("how", "cause"),
    [("error", "KeyError: 'missing'"), ("killed", "the training process was killed by SIGKILL (out of memory?)")],
)
def test_other_failures(tmp_path, how, cause):
    code, _, err = Launcher(tmp_path, how).wait()
    assert code == 1 and f"training failed: {cause} (log:" in err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_interruption_leaves_no_orphan(tmp_path, number, code):
    launcher = Launcher(tmp_path, "wait")
    launcher.wait_for_step()
    time.sleep(0.5)
    launcher.seen |= set(psutil.Process(launcher.process.pid).children(recursive=True))
    assert len(launcher.seen) >= 3  # training, a child that ignores SIGTERM, a daemon forked twice
    launcher.process.send_signal(number)
    time.sleep(0.3)
    launcher.process.send_signal(number)  # impatience must not cut the teardown short
    returned, out, err = launcher.wait(30)
    assert (returned, err) == (code, "")
    assert alive(launcher.seen) == []
    assert launcher.record()["status"] == "interrupted" and launcher.record()["exit_code"] == code
    assert "interrupted by SIG" in out
    assert not list(tmp_path.rglob("*.tmp"))


def test_no_orphan_after_a_finished_run(tmp_path):
    Launcher(tmp_path, "fine").wait()
    assert [p for p in psutil.process_iter() if str(tmp_path) in " ".join(_cmdline(p))] == []


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_verbose_shows_the_log(tmp_path):
    _, out, _ = Launcher(tmp_path, "fine", "--verbose").wait()
    assert "hello from the training process" in out


@pytest.mark.parametrize(
    ("options", "env", "message"),
    [
        (["--rolout_batch_size", "2"], {}, "unknown flag --rolout_batch_size: did you mean --rollout_batch_size?"),
        (["--resume", "nothing"], {}, "run 'nothing': no such run"),
        (["--load_checkpoint"], {}, "--load_checkpoint without --ckpt_path"),
        ([], {"RAY_ADDRESS": "127.0.0.1:1"}, "RAY_ADDRESS=127.0.0.1:1: nothing answers there"),
        (["--lr_scheduler", "cosin"], {}, "--lr_scheduler cosin: "),
        (["--on_hang", "kill"], {}, "--on_hang kill: give log, stop or off"),
        (["--hang_floor", "-1"], {}, "RFT_HANG_FLOOR_S=-1: give a number above 0"),
        ([], {"RFT_CKPT_DIR": "/proc/nowhere"}, "--ckpt_path /proc/nowhere: /proc is not writable"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, options, env, message):
    launcher = Launcher(tmp_path, "fine", *options, **env)
    code, out, err = launcher.wait()
    assert code == 2 and out == "" and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert not launcher.runs.exists()


def test_resume_continues_the_metrics_and_checkpoints(tmp_path):
    first = Launcher(tmp_path, "fine")
    first.wait()
    old = first.run
    second = Launcher(tmp_path, "fine", "--resume", old.name)
    code, out, _ = second.wait()
    new = next(folder for folder in second.runs.iterdir() if folder != old)
    record = json.loads((new / "run.json").read_text())
    assert code == 0 and record["resumed_from"] == old.name
    assert record["paths"]["ckpt"] == str(old / "ckpt") and record["paths"]["metrics"] == str(old / "metrics")
    assert record["command"][-3:] == ["--load_checkpoint", "--ckpt_path", str(old / "ckpt")]
    assert len((old / "metrics" / "training_metrics.jsonl").read_text().splitlines()) == 6
    assert out.count("step 1/3") == 1  # the old lines are not shown again


def test_a_key_on_the_command_line_stands_in_no_file(tmp_path):
    launcher = Launcher(tmp_path, "fine", "--use_wandb", "0123456789abcdef", "--env", "MY_TOKEN=0123456789abcdef")
    assert launcher.wait()[0] == 0
    files = [path for path in launcher.run.rglob("*") if path.is_file()]
    assert [path for path in files if b"0123456789abcdef" in path.read_bytes()] == []
    assert "<hidden>" in (launcher.run / "run.json").read_text()
    config = (launcher.run / "config.yaml").read_text()
    assert 'use_wandb: "True"' in config and "MY_TOKEN" not in config


def test_what_is_a_secret():
    secrets = ("HF_TOKEN", "WANDB_API_KEY", "VLLM_API_KEYS", "GEMINI_CREDENTIALS_FILE", "db_password", "TOKEN")
    assert all(map(provenance.is_secret, secrets))
    assert not any(map(provenance.is_secret, ("TOKENIZERS_PARALLELISM", "KEYBOARD", "NCCL_DEBUG")))


def test_resume_auto_starts_and_goes_on(tmp_path):
    first = Launcher(tmp_path, "fine", "--resume", "auto")
    assert first.wait()[0] == 0
    assert json.loads((first.run / "run.json").read_text())["resumed_from"] is None


@pytest.mark.engine
def test_with_a_real_ray_head(tmp_path):
    """Workers run in the repository with the run's environment; nothing stays, not even the temp folder."""
    launcher = Launcher(tmp_path, "ray", with_ray=True)
    before = set(Path("/tmp").glob("rft-*"))
    launcher.wait_for_step(120)
    code, _, err = launcher.wait(180)
    log = (launcher.run / "log.txt").read_text()
    assert (code, err) == (0, ""), log
    assert f"worker sees ('{TESTS.parent}', '{launcher.run / 'metrics'}')" in log
    assert alive(launcher.seen) == []
    assert set(Path("/tmp").glob("rft-*")) <= before


HEAD = """
import os, sys
from pathlib import Path
from rft import cluster
from rft.processes import Family
family = Family()
head = cluster.start_head(family, dict(os.environ), Path("/"), 4, 6, object_store_bytes=100 << 20)
print(head.address, flush=True)
sys.stdin.read()
print(head.head_alive())
head.stop()
family.stop()
head.remove_temp()
"""


@pytest.mark.engine
def test_a_cluster_that_is_joined_serves_the_run_and_stays_up(tmp_path):
    """Its workers run elsewhere with another environment: they get the run's."""
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HEAD], env=env, **pipes) as head:
        address = head.stdout.readline().strip()
        launcher = Launcher(tmp_path, "ray", RAY_ADDRESS=address, TOKENIZERS_PARALLELISM="false")
        code, _, err = launcher.wait(240)
        rest, _ = head.communicate("", timeout=60)
    log = (launcher.run / "log.txt").read_text()
    assert (code, err) == (0, ""), log
    assert re.search(rf"worker sees \('.*', '{launcher.run / 'metrics'}'\)", log)
    assert rest == "True\n"  # still alive after the run


def test_own_options_are_found_anywhere():
    options = launch.split_options(["--name", "a", "--", "--seed", "1", "--dry-run", "--name=b", "--env", "A=1"])
    assert (options.name, options.dry_run, options.env, options.flags) == ("b", True, ["A=1"], ["--seed", "1"])
    for bad in (["--name"], ["--env", "A"], ["--resume="]):
        with pytest.raises(RftError):
            launch.split_options(bad)


def test_compiled_ops_belong_to_the_checkout(monkeypatch):
    """Not to a cache that several checkouts share, where a killed compiler's lock holds up everybody."""
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    assert launch.run_environment(launch.Options())["TORCH_EXTENSIONS_DIR"] == str(
        runs.REPO / ".venv" / "torch_extensions"
    )
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "/elsewhere")
    assert launch.run_environment(launch.Options())["TORCH_EXTENSIONS_DIR"] == "/elsewhere"


def test_environment_wins_over_the_recipe(monkeypatch):
    monkeypatch.setenv("RFT_TEST_A", "mine")
    options = launch.Options(env=["RFT_TEST_A=1", "RFT_TEST_B=2", "RFT_TEST_B=3"])
    assert launch.environment(options) == {"RFT_TEST_A": "mine", "RFT_TEST_B": "3"}


def test_last_wins():
    tokens = ["--a", "1", "--b", "--c", "x", "y", "--a", "2", "--c", "z", "--a=3"]
    assert launch.last_wins(tokens) == ["--b", "--c", "z", "--a=3"]


def test_the_users_paths_win_over_the_layouts():
    paths = Paths(run_dir="r", log="l", metrics="m", samples="s", ckpt="layout", save="layout")
    flags = launch.complete_flags(["--ckpt_path", "mine"], paths, resumed=False)
    assert flags == ["--save_path", "layout", "--ckpt_path", "mine"]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("ValueError: a\nrft.errors.RftError: one\n(A pid=3) \x1b[36mrft.errors.RftError: two\x1b[0m\nE", "two"),
        ("(A pid=1) rft.errors.RftError: x [repeated 2x across cluster]\n", "x"),
        ("torch.cuda.OutOfMemoryError: no room\n(A pid=1) OSError: shutdown\n", "torch.cuda.OutOfMemoryError: no room"),
        ("(A pid=1) ValueError: real\nray.exceptions.RayTaskError(ValueError): wrapper\n", "ValueError: real"),
        ("ray.exceptions.RayActorError: only this\n", "ray.exceptions.RayActorError: only this"),
        ("nothing\n", "the training process ended with exit status 3 and no exception in the log"),
    ],
)
def test_cause(tmp_path, log, expected):
    (tmp_path / "log.txt").write_text(log)
    assert runlog.cause(tmp_path / "log.txt", 3) == expected
