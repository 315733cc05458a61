"""The main job for real: train_grpo_tiny.sh as a newcomer starts it, then interrupted and continued. One shared run."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from rft import samples_log, upstream_cli
from rft.evals import adapters, results, settings
from rft.metrics import METRICS, PHASES
from rft.metrics_check import check_file
from rft.preflight import rate
from rft.preflight.result import Subject
from rft.runs import Paths

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]
STEPS, RESUME_AT = 40, 30


def environment(runs: Path) -> dict[str, str]:
    return {**os.environ, "RFT_RUNS_DIR": str(runs), "RFT_SKIP_SETUP": "1"}


def lines(path: Path, event: str | None = None) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in records if event is None or r["event"] == event]


def only_run(runs: Path) -> Path:
    (run,) = [path for path in runs.iterdir() if (path / "run.json").is_file()]
    return run


@pytest.fixture(scope="module")
def train(run) -> list[dict]:
    return lines(run / "metrics" / "training_metrics.jsonl", "train")


@pytest.fixture(scope="module")
def summary(run) -> dict:
    return json.loads((run / "summary.json").read_text())


def test_metrics_are_whole(run, train):
    """Every figure that rft.metrics promises is there, a number, in its order; none was NaN."""
    assert check_file(run / "metrics" / "training_metrics.jsonl") == []
    assert [line["step"] for line in train] == list(range(1, STEPS + 1))
    rewards = {"correctness", "has_answer", "has_boxed", "boxed_in_final", "unparseable_count", "crashed_count"}
    rewards |= {f"parse_method_{name}" for name in ("none", "formula", "box")}
    of_this_run = {"canary_dlogp_mean", "canary_dlogp_max", "kl", "sync_version", "sync_bytes"}
    always = {m.name for m in METRICS.values() if m.always and not m.family}
    for line in train:
        assert not [key for key in always | rewards | of_this_run if line.get(key) is None], line["step"]
        assert line["null_count"] == 0 and line["total_steps"] == STEPS
        assert line["tokens_in_batch"] == line["tokens_in_rollout"]
        assert sum(line[f"parse_method_{name}"] for name in ("none", "formula", "box")) == pytest.approx(1)


def test_the_phases_add_up(train):
    """To the wall time since the previous line, within 2 %; evaluations and saves stand where they happen."""
    for before, line in itertools.pairwise([None, *train]):
        assert sum(line[f"{phase}_s"] for phase in PHASES) == pytest.approx(line["step_s"], rel=0.02)
        if before is not None:
            assert line["step_s"] == pytest.approx(line["time"] - before["time"], rel=0.02, abs=0.1)
        for phase in ("generate", "old_logprob", "train", "sync"):
            assert line[f"{phase}_s"] > 0
        assert (line["save_s"] > 0.01) == (line["step"] % 10 == 0)
        assert (line["eval_s"] > 0.01) == (line["step"] % 10 == 1 and line["step"] > 1)
    assert sum(line["reward_s"] for line in train) > 0


def test_the_first_optimizer_step_is_on_policy(train):
    """One optimizer step a rollout: in every one the new policy is still the old one, bit for bit."""
    assert train[0]["kl"] == 0.0
    assert {line["on_policy_log_ratio_abs_max"] for line in train} == {0.0}
    assert {(line["log_ratio_raw_max"], line["log_ratio_min"], line["ratio_max"]) for line in train} == {
        (0.0, 0.0, 1.0)
    }


def test_trainer_and_engine_agree_at_every_step(train):
    assert max(line["dlogp_abs_mean"] for line in train) < 0.01


def test_learning_rate_is_the_schedulers(train):
    import torch
    from transformers.trainer import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    options = {"min_lr": 1e-4}
    schedule = get_scheduler("cosine_with_min_lr", optimizer, 2, STEPS, scheduler_specific_kwargs=options)
    wanted = []
    for _ in range(STEPS):
        wanted.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [line["actor_lr"] for line in train] == pytest.approx(wanted, abs=1e-9)


def test_preflight_said_the_learning_rates(run, train):
    """Its scheduler is the one that the run stepped; its verdict stands in run.json."""
    record = json.loads((run / "run.json").read_text())
    args = upstream_cli.parse(record["flags"])
    plan = rate.plan_of(Subject(args, {}, ROOT, Paths(**record["paths"])))
    assert plan.steps == len(train) and plan.steps_a_rollout == 1
    said = [plan.rate(step) for step in range(1, plan.steps + 1)]
    assert [line["actor_lr"] for line in train] == pytest.approx(said, rel=1e-9, abs=0)
    verdicts = {row["check"]: row["verdict"] for row in record["preflight"]["checks"]}
    assert record["preflight"]["passed"] and not record["preflight"]["skip"]
    assert {"learning-rate": "ok", "reward": "ok", "tokenizer": "ok", "overlap": "ok"}.items() <= verdicts.items()


def test_every_sync_is_certified(run, train):
    log = lines(run / "metrics" / "sync_log.jsonl")
    assert [entry["version"] for entry in log] == list(range(1, STEPS + 2))  # one before the first rollout
    for entry in log:
        (engine,) = entry["engines"]
        assert engine["prefix_cache_reset"] is True
        assert sorted((c["rank"], c["version"]) for c in engine["ranks"]) == [(r, entry["version"]) for r in (0, 1)]
        assert {c["rank"]: c["digest"] for c in engine["ranks"]} == dict(enumerate(entry["digests"]))
    digests = [entry["digests"] for entry in log]
    moving = [line["actor_lr"] > 0 for line in train]  # the first warm-up step has a learning rate of 0
    assert [new != old for old, new in itertools.pairwise(digests)] == moving


def test_canaries_agree_at_every_step(run, train):
    """Engine and trainer score the same prompts alike, the adapter moves both, and every step has the figures."""
    log = lines(run / "metrics" / "sync_log.jsonl")
    found = [entry["canary"] for entry in log]
    assert max(entry["dlogp_mean"] for entry in found) < 0.005
    assert found[0]["shift_mean"] == 0.0 and found[-1]["shift_mean"] > 0.05
    assert found[-1]["served"] == pytest.approx(1.0, abs=0.1)
    for line, entry in zip(train, found[1:], strict=True):
        assert line["canary_dlogp_mean"] == entry["dlogp_mean"] and line["canary_dlogp_max"] == entry["dlogp_max"]


def test_each_sample_names_the_adapter_that_sampled_it(run, train):
    for step in (10, 40):
        assert {line["adapter_version"] for line in lines(run / "samples" / f"samples_step{step}.jsonl")} == {step}
    assert {v for p in lines(run / "samples" / "eval_step40_greedy.jsonl") for v in p["adapter_version"]} == {41}
    assert {line["adapter_lag_max"] for line in train} == {0.0}


def test_base_weights_are_unchanged(run, summary):
    digests = lines(run / "metrics" / "base_digest.jsonl")
    assert {d["rank"] for d in digests} == {0, 1} and {d["step"] for d in digests} == {0, 10, 20, 30, 40}
    assert len({(d["rank"], d["digest"]) for d in digests}) == 2
    assert summary["base_weights_unchanged"] is True


def test_evaluations_before_and_after(run):
    found = lines(run / "metrics" / "training_metrics.jsonl", "eval")
    modes = [(line["step"], line["mode"]) for line in found]
    steps = [0, 10, 20, 30, 40]
    assert modes == [(step, mode) for step in steps for mode in ("sampling_pass@8", "greedy_pass@1")]
    for line in found:
        kind = "greedy" if line["temperature"] == 0 else "sampled"
        problems = lines(run / "samples" / f"eval_step{line['step']}_{kind}.jsonl")
        assert len(problems) == line["n_problems"] == 96 and {len(p["rewards"]) for p in problems} == {line["n"]}
        means = [sum(p["rewards"]) / line["n"] for p in problems]
        assert line["accuracy"] == pytest.approx(sum(means) / 96)


def test_it_learns(summary):
    """Held-out sampled accuracy rises by 0.20 at least, with a paired 95 % interval above 0."""
    assert 0.2 <= summary["sampled_accuracy_before"] <= 0.6
    assert summary["sampled_accuracy_after"] - summary["sampled_accuracy_before"] >= 0.20
    assert summary["sampled_gain_ci95"][0] > 0
    assert summary["mean_abs_dlogp"] < 0.01 and summary["steps"] == STEPS
    assert summary["peak_rss_bytes"] < 16 * 2**30
    for key in ("wall_s", "n", "greedy_pass1_before", "greedy_pass1_after", "sync_s_p50", "versions", "series_id"):
        assert summary[key]


def test_samples_of_every_save(run):
    for step in (10, 20, 30, 40):
        samples = lines(run / "samples" / f"samples_step{step}.jsonl")
        assert 0 < len(samples) <= samples_log.KEPT
        kinds = {kind for sample in samples for kind in sample["kinds"]}
        assert {"best", "worst", "median"} <= kinds
        wanted = {"prompt", "label", "response", "answer", "reward", "correctness", "response_length", "truncated"}
        assert all(wanted | {"group", "group_rank", "adapter_version"} <= sample.keys() for sample in samples)


def test_an_evaluation_leaves_a_result_like_the_programs(run):
    """Their settings differ in what is compared alone, so that `rft compare` takes them side by side."""
    for kind, mode in (("greedy", "greedy_pass@1"), ("sampled", "sampling_pass@8")):
        found = [results.load(run / "samples" / f"eval_step{step}_{kind}.json") for step in (0, 40)]
        assert settings.differences(found[0]["settings"], found[1]["settings"]) == []
        assert {result["settings"]["mode"] for result in found} == {mode}
        assert found[0]["settings"]["adapter"] is None and found[0]["settings"]["model_digest"]
        last = adapters.read(run / "ckpt" / "global_step40_hf")
        assert found[1]["settings"]["adapter_digest"] == last.digest


def test_a_save_is_the_adapter_and_what_continuing_needs(run):
    from safetensors import safe_open

    best, *kept = sorted(p.name for p in (run / "ckpt").iterdir())
    newest = [f"global_step{s}_hf" for s in (20, 30, 40)]
    assert best == "best" and kept in (newest, ["global_step10_hf", *newest])  # the best one stays, whichever it is
    assert (run / "ckpt" / "best").resolve().name in kept
    folder = run / "ckpt" / "global_step40_hf"
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        numbers = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    tokenizer = sum(p.stat().st_size for p in folder.glob("*token*"))
    # bf16 adapter, fp32 master, two Adam moments; partitions are padded
    assert size - tokenizer < numbers * (2 + 3 * 4) * 1.1 + 20_000
    assert {p.name for p in (folder / "resume").iterdir()} == {"rank0.pt", "rank1.pt", "state.json"}
    assert not (run / "final" / "resume").exists()
    final, last = run / "final" / "adapter_model.safetensors", folder / "adapter_model.safetensors"
    assert final.read_bytes() == last.read_bytes()


def test_a_checkpoint_holds_its_steps_line(run, train):
    """What a run needs that was killed behind the save and before the line."""
    for step in (20, 30, 40):
        state = json.loads((run / "ckpt" / f"global_step{step}_hf" / "resume" / "state.json").read_text())
        line, (written,) = state["controller"]["line"], [line for line in train if line["step"] == step]
        later = {"time", "step_s", "save_s", "other_s"}
        assert line.keys() == written.keys() and {k for k in line if line[k] != written[k]} <= later


def test_placement_is_recorded(run):
    places = lines(run / "metrics" / "placement.jsonl")
    assert [(p["role"], p["rank"]) for p in places] == [("actor", 0), ("actor", 1), ("engine 0", 0), ("engine 0", 1)]
    assert len({p["device"] for p in places[:2]}) == 2


def start(runs: Path, resumed: Path) -> subprocess.Popen:
    command = ["bash", "train_grpo_tiny.sh", "--resume", str(resumed)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment(runs), **pipes)


def wait_for_step(path: Path, step: int, process: subprocess.Popen) -> None:
    """Until a line of `step` stands in the metrics and none of a later step, which an earlier run left."""
    while process.poll() is None:
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines() if line.endswith("}")]
        if steps and max(steps) < STEPS and step in steps:
            return
        time.sleep(0.2)
    raise AssertionError(process.communicate()[0][-3000:])


@pytest.fixture(scope="module")
def continued(run, tmp_path_factory):
    """A copy of the run, as if it had died after step 30: resumed, interrupted after step 33, resumed to the end."""
    runs = tmp_path_factory.mktemp("died")
    died = shutil.copytree(run, runs / run.name, symlinks=True)
    shutil.rmtree(died / "ckpt" / "global_step40_hf")
    record = json.loads((died / "run.json").read_text())
    record["paths"] = {key: value.replace(str(run), str(died)) for key, value in record["paths"].items()}
    (died / "run.json").write_text(json.dumps(record))
    metrics = died / "metrics" / "training_metrics.jsonl"

    process = start(runs / "first", died)
    wait_for_step(metrics, RESUME_AT + 3, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    alive = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    interrupted = {
        "code": process.returncode,
        "alive": [p.cmdline() for p in alive],
        "status": json.loads((only_run(runs / "first") / "run.json").read_text())["status"],
        "train": lines(metrics, "train"),
    }
    second = start(runs / "second", died)
    out = second.communicate()[0]
    assert second.returncode == 0, out[-3000:]
    return interrupted, died


def test_an_interrupted_run_leaves_no_orphan_and_nothing_half_written(continued):
    interrupted, died = continued
    assert interrupted["code"] == 130 and interrupted["alive"] == [] and interrupted["status"] == "interrupted"
    assert not [p for p in (died / "ckpt").iterdir() if p.name.startswith(".")]


def test_a_resumed_run_continues_its_files_without_a_gap_or_a_repeat(continued, train):
    _, died = continued
    again = lines(died / "metrics" / "training_metrics.jsonl", "train")
    assert [line["step"] for line in again] == list(range(1, STEPS + 1))
    assert again[:RESUME_AT] == train[:RESUME_AT]
    versions = [entry["version"] for entry in lines(died / "metrics" / "sync_log.jsonl")]
    assert versions == list(range(1, STEPS + 3))  # one more: the resumed engine gets the adapter before it serves


def test_resumed_run_equals_the_uninterrupted_one(train, continued):
    """Same figures from step 31 on, up to the engine's own nondeterminism: the spread between two resumed runs."""
    interrupted, died = continued
    first = [line for line in interrupted["train"] if line["step"] > RESUME_AT]
    again = lines(died / "metrics" / "training_metrics.jsonl", "train")[RESUME_AT:]
    assert [line["actor_lr"] for line in again] == [line["actor_lr"] for line in train[RESUME_AT:]]
    assert [line["episode"] for line in again] == [line["episode"] for line in train[RESUME_AT:]]
    for key in ("reward_mean", "response_length_mean", "policy_loss", "grad_norm", "entropy_mean", "kl"):
        spread = max(abs(a[key] - b[key]) for a, b in zip(first, again, strict=False))
        for whole, resumed in zip(train[RESUME_AT:], again, strict=True):
            assert resumed[key] == pytest.approx(whole[key], abs=3 * spread), (key, whole["step"], spread)
