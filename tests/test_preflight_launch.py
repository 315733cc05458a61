"""Preflight as a launch meets it: a failed check stops it, --skip is recorded, the table stands alone."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import preflight_kit as kit
import psutil
import pytest

from rft import launch
from rft.errors import RftError
from rft.preflight import cli, report, self_test, table, workers
from rft.preflight.result import FAIL, OK, SKIPPED

TESTS = Path(__file__).parent
BUT_REWARD = ",".join(check.name for check in table.CHECKS if check.group in (table.MODEL, table.DATA))
RAISES = "def reward_func(queries, prompts, labels):\n    raise KeyError('no such column')\n"
DIES = "import os\nos._exit(3)\n\ndef reward_func(queries, prompts, labels): ...\n"
PRINTS = "print('[\"reward\"')\n" + RAISES.replace(
    "raise KeyError('no such column')", "print(queries); return {'rewards': 1}"
)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = kit.make_repo(tmp_path_factory.mktemp("launch"))
    for name, text in (("raises", RAISES), ("dies", DIES), ("prints", PRINTS)):
        (folder / f"{name}.py").write_text(text)
    return folder


def start(repo: Path, runs: Path, *options: str) -> subprocess.CompletedProcess:
    """The launcher with a small child in OpenRLHF's place, without Ray; the model group has a test of its own."""
    named = {"model": repo / "model", "train.jsonl": repo / "train.jsonl", "eval.jsonl": repo / "eval.jsonl"}
    flags = [str(named.get(flag, flag)) for flag in kit.FLAGS]
    driver = [sys.executable, str(TESTS / "launch_driver.py"), "0", "fake_training", "--name", "t"]
    inherited = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "METRICS_LOG_DIR")}
    ours = {"RFT_RUNS_DIR": str(runs), "FAKE": "fine", "PYTHONPATH": f"{TESTS.parent}:{TESTS}", **kit.ENV}
    command = [*driver, "--", *flags, "--skip", BUT_REWARD, *options]
    return subprocess.run(command, env={**inherited, **ours}, capture_output=True, text=True, check=False, timeout=280)


def test_a_failed_check_stops_the_launch_and_a_skipped_one_is_recorded(repo, tmp_path):
    reward = ("--remote_rm_url", str(repo / "raises.py"))
    done = start(repo, tmp_path / "runs", *reward)
    assert (done.returncode, done.stdout) == (2, "") and not (tmp_path / "runs").exists()
    assert done.stderr.startswith("error: raises.py fails in a worker thread") and done.stderr.count("\n") == 1
    done = start(repo, tmp_path / "runs", *reward, "--skip", "reward", "--skip=first-kl")
    assert (done.returncode, done.stderr) == (0, "")
    assert "preflight: " in done.stdout and "left out: " in done.stdout
    record = json.loads(next((tmp_path / "runs").glob("*/run.json")).read_text())
    assert record["preflight"]["skip"] == [*BUT_REWARD.split(","), "reward", "first-kl"]
    assert record["environment"]["RFT_PREFLIGHT_SKIP"].endswith("reward,first-kl")
    verdicts = {row["check"]: row["verdict"] for row in record["preflight"]["checks"]}
    assert (verdicts["prompts"], verdicts["reward"], record["preflight"]["passed"]) == (OK, SKIPPED, True)


def test_the_table_alone_shows_every_failure_and_starts_nothing(repo, tmp_path):
    wrong = ("--preflight", "--lr_scheduler", "cosin", "--remote_rm_url", str(repo / "dies.py"))
    done = start(repo, tmp_path / "runs", *wrong)
    assert (done.returncode, done.stderr) == (1, "") and not (tmp_path / "runs").exists()
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert rows["check"].split() == ["check", "value", "verdict", "remedy"]
    assert " fail " in rows["schedule"] and " fail " in rows["reward"] and " ok " in rows["prompts"]
    assert "its process ended early (exit status 3)" in rows["reward"]
    assert "2 failed" in rows["preflight:"]


def test_what_a_reward_prints_is_no_answer(repo, tmp_path):
    done = start(repo, tmp_path / "runs", "--preflight", "--json", "--remote_rm_url", str(repo / "prints.py"))
    assert done.returncode == 0, done.stdout
    (row,) = [row for row in json.loads(done.stdout)["checks"] if row["check"] == "reward"]
    assert (row["verdict"], row["value"]) == ("warn", "prints.py: gold 1, wrong 1 for train.jsonl line 1")


def test_unknown_names_are_refused(repo):
    with pytest.raises(RftError, match="--skip tokeniser: no such check; the checks are: patches, packages"):
        report.names_to_skip(["tokenizer,tokeniser"])
    assert report.names_to_skip(["reward", "model,reward"]) == ("model", "reward")
    options = launch.split_options(["--skip", "a", "--preflight", "--", "--seed", "1", "--skip=b", "--json"])
    assert (options.skip, options.preflight, options.json, options.flags) == (["a", "b"], True, True, ["--seed", "1"])


def test_a_late_process_fails_its_checks(repo, monkeypatch):
    monkeypatch.setattr(workers, "TIME_LIMIT_S", 0.0)
    with workers.Worker(table.REWARD, kit.subject(repo), ()) as worker:
        (result,) = worker.results().values()
    assert result.verdict == FAIL and "no answer within 0 s" in result.error


def test_what_a_reward_starts_ends_with_its_process(repo):
    body = "import subprocess\nchild = subprocess.Popen(['sleep', '600'])\n"
    (repo / "starts.py").write_text(f"{body}open('child.pid', 'w').write(str(child.pid))\n" + RAISES)
    subject = kit.subject(repo, kit.arguments("--remote_rm_url", "starts.py"))
    with workers.Worker(table.REWARD, subject, ()) as worker:
        (result,) = worker.results().values()
    assert "KeyError" in result.error
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.wait_procs([psutil.Process(int((repo / "child.pid").read_text()))], timeout=60)
    assert not _runs(int((repo / "child.pid").read_text()))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_reward_that_does_not_come_back(repo, monkeypatch):
    (repo / "waits.py").write_text("import time\ndef reward_func(queries, prompts, labels):\n    time.sleep(2)\n")
    monkeypatch.setattr(self_test, "ANSWER_S", 0.05)
    subject = kit.subject(repo, kit.arguments("--remote_rm_url", "waits.py"))
    with pytest.raises(RftError, match=r"waits.py: no reward within 0 s for train.jsonl line 1; mend the reward"):
        self_test.reward(subject)


def test_the_verb_checks_the_tiny_launcher(tmp_path, monkeypatch, capfd):
    """Real launcher, every group, on a folder that looks like the tiny model's."""
    for name in ("model", "model-bf16"):
        kit.save_model(tmp_path / name)
    kit.write_rows(tmp_path / "train.jsonl", range(320))
    kit.write_rows(tmp_path / "heldout.jsonl", range(400, 496))
    monkeypatch.setenv("RFT_TINY_DIR", str(tmp_path))
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path / "runs"))
    for name, value in kit.ENV.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["--json", "--skip", "packages", "train_grpo_tiny.sh", "--seed", "7", "--resume", "auto"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["passed"] and found["skip"] == ["packages"]
    assert {row["check"] for row in found["checks"]} == set(table.NAMES)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "which launch? name a launcher (train_grpo.sh"),
        (["nothing.sh"], "nothing.sh: no launcher of that name"),
        (["--", "README.md"], "README.md: no launcher of that name"),
    ],
)
def test_the_verb_needs_a_launcher(argv, words):
    with pytest.raises(RftError) as caught:
        cli.main(argv)
    assert words in str(caught.value)


def test_the_names_are_listed_at_once():
    code = "import sys; from rft.preflight import cli; cli.main(['--list'])\n"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers', 'datasets')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and [line.split()[0] for line in done.stdout.splitlines()] == list(table.NAMES)
