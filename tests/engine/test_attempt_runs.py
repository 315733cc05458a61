"""``rft attempt`` on a scratch repository, from the question to the entry in the research log; real git, real launcher,
a training process that writes a run's files."""

import json
import re
from pathlib import Path

import pytest
import scratch_repo

from rft.evals import of_run
from rft.preflight.table import CHECKS, QUICK

pytestmark = pytest.mark.engine
TESTS = Path(__file__).parents[1]
SLOW = ",".join(check.name for check in CHECKS if check.group != QUICK)  # they ask for a real model
LAUNCHER = """#!/usr/bin/env bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
driver=(TESTS/launch_driver.py 0 attempt_training)
case " $* " in *' --dry-run '*) driver=(-m rft.launch) ;; esac
case " $* " in *' --dry-run '*) ;; *) set -- --skip SLOW "$@" ;; esac
PYTHONPATH="$PWD:TESTS" exec .venv/bin/python "${driver[@]}" -- --advantage_estimator dr_grpo \\
  --actor_num_gpus_per_node 2 --rollout_batch_size 2 --n_samples_per_prompt 2 --train_batch_size 4 \\
  --micro_train_batch_size 2 --micro_rollout_batch_size 2 --vllm_num_engines 1 --attn_implementation eager \\
  --init_kl_coef 0 --label_key label --pretrain made/model --prompt_data made/train.jsonl \\
  --remote_rm_url made/reward.py --eval_dataset made/train.jsonl --eval_temperature 0 "$@"
"""
PRESETS = """
[clip]
about = "a pair"
launcher = "train_pair.sh"
[clip.flags]
num_episodes = 2
[clip.arms]
a = { eps_clip = 0.2 }
b = { eps_clip = 0.1 }
"""
SAID = ("--question", "Does 0.1 help?", "--expectation", "Over 50 % at step 60", "--change", "eps_clip, against arm a")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The project and a launcher of its own in one commit."""
    scratch = scratch_repo.make(tmp_path_factory.mktemp("scratch") / "repo")
    scratch.write("train_pair.sh", LAUNCHER.replace("TESTS", str(TESTS)).replace("SLOW", SLOW))
    scratch.write("made/model/config.json", '{"model_type": "gpt_oss"}')
    scratch.write("made/train.jsonl", '{"input": "1+1", "label": "2"}\n' * 4)
    scratch.write("made/reward.py", "def reward_func(queries, prompts, labels): ...\n")
    scratch.write("pairs.toml", PRESETS)
    scratch.commit("a pair")
    scratch.env |= {"DS_ACCELERATOR": "cpu", "RFT_MIN_FREE_GB": "0.01", "VLLM_API_KEY": "sesame"}
    return scratch


def start(scratch, *args, **env):
    return scratch.rft("attempt", "start", *args, "--presets", "pairs.toml", "--preset", "clip", **env)


@pytest.fixture(scope="module")
def pair(clean):
    """Attempt 31, both arms run to their end."""
    new = clean.rft("attempt", "new", "31", "eps-clip", *SAID)
    assert (new.returncode, new.stderr) == (0, ""), new
    done = [start(clean, "31", "--arm", arm) for arm in "ab"]
    assert [one.returncode for one in done] == [0, 0], done
    return clean


def test_branch_notes_tag_and_runs(pair):
    assert pair.git("branch", "--show-current") == "attempt-31-eps-clip"
    notes = pair.git("show", "attempt-31-start:notes/attempt-31-eps-clip.md")
    assert re.search(r"# Attempt 31: eps-clip\n\n## Question\n\nDoes 0.1 help\?\n\n<!--", notes)
    assert "{title}" not in notes
    tagged = pair.git("rev-parse", "attempt-31-start^{commit}")
    assert pair.git("cat-file", "-t", "attempt-31-start") == "tag"
    records = [json.loads(path.read_text()) for path in sorted(pair.runs.glob("*/run.json"))]
    assert [record["id"].split("-2")[0] for record in records] == ["attempt-31a", "attempt-31b"]
    assert {record["commit"] for record in records} == {tagged} and not any(record["dirty"] for record in records)
    assert [record["environment"]["RFT_ATTEMPT_ARM"] for record in records] == ["a", "b"]


def test_capsule(pair):
    launches = json.loads((pair.runs / "attempts" / "attempt-31.json").read_text())["launches"]
    assert [one["arm"] for one in launches] == ["a", "b"]
    one = launches[0]
    assert one["command"][:6] == ["bash", "train_pair.sh", "--num_episodes", "2", "--eps_clip", "0.2"]
    resolved = one["resolved"]
    assert resolved[resolved.index("--eps_clip") + 1] == "0.2" and "openrlhf.cli.train_ppo_ray" in resolved
    assert one["commit"] == pair.git("rev-parse", "attempt-31-start^{commit}")
    assert set(one["data_sha256"]) == {"made/train.jsonl", "made/reward.py"}
    assert one["models"] == [
        {"name": "made/model", "files": {"config.json": one["models"][0]["files"]["config.json"]}}
    ] and re.fullmatch("[0-9a-f]{64}", one["models"][0]["files"]["config.json"])
    assert re.fullmatch("[0-9a-f]{12}", one["series_id"]) and one["versions"]["openrlhf"] == "0.9.3"
    assert "sesame" not in json.dumps(launches)
    assert one["command"][6:] == ["--name", "attempt-31a"] and launches[1]["resolved"] != resolved


def test_second_start_elsewhere_is_refused(pair):
    pair.write("later.txt", "x")
    assert "later.txt not committed" in start(pair, "31", "--arm", "a", "--print").stderr
    head = pair.commit("later")
    try:
        refused = pair.rft("attempt", "start", "31a", "--no-launch", "--", "bash", "train_pair.sh", "--eps_clip", "0.2")
        assert refused.returncode == 2 and re.fullmatch(
            rf"error: attempt-31-start is on [0-9a-f]{{12}}, HEAD is {head[:12]}: a changed approach .*\n",
            refused.stderr,
        )
    finally:
        pair.git("reset", "-q", "--hard", "HEAD~1")


def test_compare_and_show(pair):
    told = pair.rft("attempt", "compare", "31")
    assert told.returncode == 0 and "- changed: --eps_clip: 0.2 and 0.1" in told.stdout
    assert "is better than" in told.stdout and "changes, so" not in told.stdout
    assert pair.rft("attempt", "compare", "31a", "31b").stdout == told.stdout
    shown = json.loads(pair.rft("attempt", "show", "31", "--json").stdout)
    assert (shown["state"], len(shown["runs"]), len(shown["launches"])) == ("started", 2, 2)
    assert shown["notes"]["Question"] == "Does 0.1 help?" and shown["runs"][0]["steps"] == 60


def test_finish_writes_and_commits_the_entry(pair):
    before = (pair.root / "rl_grpo_research.md").read_text()
    done = pair.rft("attempt", "finish", "31", "--next", "0.1 in the recipe")
    title = "greedy_pass@1: 31b is better than 31a: 44.6 % to 54.5 %"
    assert (done.returncode, done.stdout) == (0, f"31 — {title}\n"), done
    log = (pair.root / "rl_grpo_research.md").read_text()
    assert log.startswith(before.rstrip()) and re.search(
        rf"(?m)^## 31 — {re.escape(title)} \(\d{{4}}-\d\d-\d\d\)$", log
    )
    entry = log[log.index("## 31 — ") :]
    for expected in (
        "Question: Does 0.1 help?",
        "Expectation: Over 50 % at step 60",
        "Run 31a: `attempt-31a-",
        "| greedy_pass@1 | train.jsonl | 202 x 1 | 60 | 0.545 [0.476, 0.612] |",
        "- changed: --eps_clip: 0.2 and 0.1",
        "+9.9 points, 95 % interval [",
        "last whole checkpoint: none",
        "Next: 0.1 in the recipe",
        "| step | reward |",
    ):
        assert expected in entry.replace("probe_set_200_ood.jsonl", "train.jsonl"), expected
    changed = pair.git("show", "--name-only", "--format=%s").splitlines()
    assert changed[0] == f"Attempt 31: {title}"
    assert changed[-2:] == ["notes/attempt-31-eps-clip.json", "rl_grpo_research.md"]
    assert pair.git("status", "--porcelain") == ""
    again = pair.rft("attempt", "finish", "31")
    assert again.returncode == 2 and "has an entry already" in again.stderr and pair.git("status", "--porcelain") == ""
    other = pair.rft("attempt", "finish", "31", "--replace", "--verdict", "0.1 it is", "--no-commit")
    assert other.returncode == 0, other
    log = (pair.root / "rl_grpo_research.md").read_text()
    assert "## 31 — 0.1 it is (" in log and log.count("## 31 — ") == 1
    listed = pair.rft("attempt", "list").stdout
    assert re.fullmatch(r"  31  eps-clip  finished  [0-9a-f]{12}  0.1 it is\n", listed)
    pair.git("checkout", "-q", "--", "rl_grpo_research.md")


def test_failed_run_keeps_its_entry(pair):
    pair.git("switch", "-q", "main")
    assert pair.rft("attempt", "new", "32", "dies", *SAID).returncode == 0
    arguments = ("attempt", "start", "32", "--", "bash", "train_pair.sh", "--eps_clip", "0.2")
    assert pair.rft(*arguments, FAIL="1").returncode == 1
    done = pair.rft("attempt", "finish", "32", "--json")
    assert done.returncode == 0, done
    found = json.loads(done.stdout)
    assert found["verdict"].startswith("failed after step 0: ") and "the tokens ran out" in found["verdict"]
    assert found["runs"][0]["status"] == "failed"
    assert "31 " not in pair.rft("attempt", "finish", "33").stdout


def test_runs_and_results_that_are_named(pair, tmp_path):
    pair.git("switch", "-q", "--force", "main")
    assert pair.rft("attempt", "new", "34", "named", *SAID).returncode == 0
    assert pair.rft("attempt", "start", "34", "--no-launch", "--", "bash", "train_pair.sh").returncode == 0
    assert "no run of it in" in pair.rft("attempt", "finish", "34").stderr
    theirs = next(path.name for path in pair.runs.glob("attempt-31b-*"))
    done = pair.rft("attempt", "finish", "34", "--run", theirs, "--no-commit")
    assert (done.returncode, done.stdout) == (
        0,
        "34 — greedy_pass@1: step 60 is better than step 0: 34.7 % to 54.5 %\n",
    )
    entry = (pair.root / "rl_grpo_research.md").read_text()
    line = next(line for line in entry.splitlines() if line.startswith("Run 34b: "))
    assert line.endswith(", not launched for this") and "train_pair.sh" not in line
    pair.git("checkout", "-q", "--", "rl_grpo_research.md")
    files = []
    for arm in "ab":
        result = of_run.own(next(pair.runs.glob(f"attempt-31{arm}-*")))[-1]
        files += ["--result", tmp_path / f"eval-{arm}.json"]
        files[-1].write_text(json.dumps(result))
    done = pair.rft("attempt", "finish", "34", "--run", theirs, "--no-commit", *files)
    assert re.fullmatch(r"34 — greedy_pass@1: .*31b-.* is better than .*31a-.*: 44\.6 % to 54\.5 %\n", done.stdout), (
        done
    )
    assert "202 problems x 1, up to" in (pair.root / "rl_grpo_research.md").read_text()
    pair.git("checkout", "-q", "--", "rl_grpo_research.md")
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    refused = pair.rft("attempt", "finish", "34", "--run", theirs, "--result", wrong)
    assert refused.returncode == 2 and f"{wrong}: not readable as a result" in refused.stderr
    assert pair.git("status", "--porcelain", "rl_grpo_research.md") == ""
