"""The evaluation programs with vLLM: a tiny run's checkpoints, kills at any point, both ways of serving."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rft.evals import adapters
from rft.evals.records import read_samples

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]
SAMPLED = "sampling_pass8-*.json"


def command(program: str, *args) -> list[str]:
    return [sys.executable, *([] if program.endswith(".py") else ["-m", "rft.cli"]), program, *map(str, args)]


def call(folder: Path, program: str, *args, code: int = 0) -> subprocess.CompletedProcess:
    """A program, results in `folder`."""
    env = {**os.environ, "RFT_EVALS_DIR": str(folder)}
    done = subprocess.run(command(program, *args), cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def found(done: subprocess.CompletedProcess) -> dict:
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """eval_rl.py over all of the run's checkpoints, and the folder of its results."""
    folder = tmp_path_factory.mktemp("evals")
    return folder, call(folder, "eval_rl.py", "--checkpoint_path", run / "ckpt", "--json")


def test_the_runs_own_evaluations_are_reproduced(evaluated):
    out = evaluated[1].stdout
    assert out.count("agrees: within the 95 % interval") == 8  # steps 0, 20, 30, 40 in two modes
    assert "DISAGREES" not in out and "not comparable" not in out


def test_the_improvement_is_found(evaluated):
    pairs = [pair for pair in found(evaluated[1])["comparisons"] if pair["mode"] == "sampling_pass@8"]
    assert [(pair["second"], pair["claim"]) for pair in pairs] == [(f"step{n}", "better") for n in (20, 30, 40)]
    assert pairs[-1]["p"] < 1e-6 and pairs[-1]["difference_ci95"][0] > 0.2
    assert "| step40 | 96 | side path |" in evaluated[1].stdout


def test_no_difference_between_a_checkpoint_and_itself(evaluated, run):
    """final/ is the last step's adapter: known by digest, no engine starts; asked anew, it still does not differ."""
    folder = evaluated[0]
    flags = [
        "--set",
        ROOT / "data/tiny/seed0/heldout.jsonl",
        "--max_tokens",
        32,
        "--temperature",
        1,
        "--mode",
        "sampling",
    ]
    pair = [f"last={run / 'ckpt' / 'global_step40_hf'}", f"final={run / 'final'}"]
    done = call(folder, "eval-posthoc", "--model", *pair, *flags, "--seed", 42, "--json")
    assert found(done)["comparisons"][0]["claim"] == "none" and " tok/s" not in done.stderr
    assert "no difference can be claimed" in done.stdout


def test_merged_or_beside_it_is_the_same_checkpoint(evaluated, run):
    folder, path = evaluated[0], run / "ckpt"
    done = call(folder, "eval_rl.py", "--checkpoint_path", path, "--steps", 40, "--lora_apply", "merge", "--json")
    assert "| step40 | 96 | merged |" in done.stdout
    results = [json.loads(file.read_text()) for file in folder.glob(SAMPLED)]
    last = adapters.read(path / "global_step40_hf").digest
    ways = {r["settings"]["lora_apply"]: str(folder / Path(r["samples"]).with_suffix(".json")) for r in results
            if r["settings"]["adapter_digest"] == last}  # fmt: skip
    done = call(folder, "compare", ways["sidepath"], ways["merge"], "--json")
    compared = json.loads(done.stdout)
    assert compared["claim"] == "none" and compared["labels"] == []


def wait_for(condition, what: str, limit_s: float = 300) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        time.sleep(0.05)


def samples(folder: Path) -> int:
    return sum(len(read_samples(path)) for path in folder.glob("*.jsonl"))


def test_killed_in_the_middle_it_goes_on(evaluated, run, tmp_path):
    """SIGKILL while samples come in: no process of the engine is left, and the next call ends it."""
    arguments = command("eval_rl.py", "--checkpoint_path", run / "ckpt", "--json", "--quiet")
    env = {**os.environ, "RFT_EVALS_DIR": str(tmp_path)}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(arguments, cwd=ROOT, env=env, stdout=log, stderr=log)
    wait_for(lambda: samples(tmp_path) > 500 or process.poll() is not None, "samples")
    children = psutil.Process(process.pid).children(recursive=True)
    assert process.poll() is None and children, (tmp_path / "log").read_text()[-2000:]
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(
        lambda: not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in children), "engine's end", 60
    )
    kept = {path.name: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    first = samples(tmp_path)
    assert 500 < first < 4 * 96 * 9
    done = call(tmp_path, *arguments[1:])
    for name, data in kept.items():
        whole = data[: data.rfind(b"\n") + 1]
        assert (tmp_path / name).read_bytes().startswith(whole)  # nothing was generated twice
    for path in evaluated[0].glob("*.json"):
        if path.name != "weights.json" and (tmp_path / path.name).is_file():
            same_problems(json.loads(path.read_text()), json.loads((tmp_path / path.name).read_text()))
    assert [(p["second"], p["claim"]) for p in found(done)["comparisons"]] == [
        (p["second"], p["claim"]) for p in found(evaluated[1])["comparisons"]
    ]


def same_problems(one: dict, other: dict) -> None:
    """Same seeds, so equal but for near ties, which fall by the batch that a request happens to be in (bf16)."""
    assert one["settings"] == other["settings"]
    pairs = [
        (a, b) for p, q in zip(one["problems"], other["problems"], strict=True)
        for a, b in zip(p["correct"], q["correct"], strict=True)
    ]  # fmt: skip
    assert sum(a == b for a, b in pairs) >= 0.98 * len(pairs)


def test_an_engine_that_dies_is_one_line(run, tmp_path):
    arguments = command("eval_rl.py", "--checkpoint_path", run / "ckpt", "--steps", 40, "--quiet")
    env = {**os.environ, "RFT_EVALS_DIR": str(tmp_path)}
    process = subprocess.Popen(arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: samples(tmp_path) > 100 or process.poll() is not None, "samples")
    core = max(psutil.Process(process.pid).children(recursive=True), key=lambda child: child.memory_info().rss)
    core.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "the engine died" in lines[0]
    assert 100 < samples(tmp_path) < 2 * 96 * 9
    assert [path for path in tmp_path.glob("*.json") if path.name != "weights.json"] == []
    call(tmp_path, *arguments[1:])
    assert samples(tmp_path) == 2 * 96 * 9


def test_published_sets_give_honest_zeros(tiny_dir, shared_data, tmp_path):
    names = [shared_data / "gsm8k_test.jsonl", shared_data / "aime24.jsonl"]
    flags = ["--limit", 40, "--max_tokens", 32, "--mode", "greedy", "sampling_pass@4", "--json"]
    done = call(tmp_path, "eval_baseline.py", "--model", tiny_dir / "model", "--set", *names, *flags)
    results = found(done)["results"]
    assert [r["settings"]["n_problems"] for r in results] == [40, 40, 30, 30]
    for result in results:
        assert result["figures"]["accuracy"] <= 0.05 and result["figures"]["accuracy_ci95"][1] > 0.05
    assert done.stderr.count("tok/s)") == 1  # one engine for all sets and modes
