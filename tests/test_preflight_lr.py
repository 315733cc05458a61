"""The learning rate before the run is the one that the trainer's own scheduler gives, to the last digit."""

import ast
import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rft import prompts, upstream_cli
from rft.errors import RftError
from rft.preflight import lr_cli, plot
from rft.preflight.learning_rate import Plan, passing_episodes, passing_warmup, remedy

REPO = Path(__file__).resolve().parent.parent
EXAMPLE = {"POOL": "400", "NS": "8", "TBS": "16", "EP": "1", "WARMUP": "0.05", "LR": "5e-7"}
PLAN = Plan(pool=400, samples=8, train_batch=16, rollout_batch=16, episodes=1, warmup=0.05, learning_rate=5e-7)


def trainers_statement(file: str, target: str) -> ast.Assign:
    """``target = …`` as it stands in the installed, patched trainer."""
    path = upstream_cli.source_path().parent.parent / "trainer" / file
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assign)]
    (found,) = [node for node in nodes if ast.unparse(node.targets[0]) == target]
    return found


def execute(node: ast.Assign, scope: dict) -> dict:
    module = ast.fix_missing_locations(ast.Module(body=[node], type_ignores=[]))
    exec(compile(module, "trainer", "exec"), scope)  # noqa: S102 - the installed upstream's own statement
    return scope


def trainers_rates(plan: Plan) -> list[float]:
    """What the trainer logs as actor_lr at each optimizer step: its statements, a real optimizer, stepped."""
    args = Namespace(
        n_samples_per_prompt=plan.samples,
        rollout_batch_size=plan.rollout_batch,
        train_batch_size=plan.train_batch,
        num_episodes=plan.episodes,
        max_epochs=plan.max_epochs,
        lr_scheduler=plan.scheduler,
        lr_warmup_ratio=plan.warmup,
        actor_learning_rate=plan.learning_rate,
    )
    scope = {
        "args": args,
        "prompts": prompts,
        "prompts_dataset": range(plan.pool),
        "prompts_dataloader": range(plan.pool),
    }
    max_steps = execute(trainers_statement("ppo_trainer.py", "max_steps"), scope)["max_steps"]
    from rft import schedule

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=plan.learning_rate)
    scope = {"args": args, "max_steps": max_steps, "actor_optim": optimizer, "make_schedule": schedule.make}
    scheduler = execute(trainers_statement("ray/ppo_actor.py", "actor_scheduler"), scope)["actor_scheduler"]
    rates = []
    for _ in range(max_steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"pool": 320, "train_batch": 128, "episodes": 2, "warmup": 0.03, "learning_rate": 1e-3},  # the tiny run
        {"pool": 399, "episodes": 3, "max_epochs": 2},  # a smaller last batch
        {"scheduler": "linear"},
        {"scheduler": "constant_with_warmup", "warmup": 0.5},
        {"scheduler": "cosine_warmup_with_min_lr"},
        {"warmup": 0.0},
    ],
)
def test_rates_are_those_of_the_trainers_scheduler(changed):
    plan = replace(PLAN, **changed)
    wanted = trainers_rates(plan)
    assert len(wanted) == plan.steps
    found = [plan.rate(step) for step in range(1, plan.steps + 1)]
    assert found == pytest.approx(wanted, rel=1e-9, abs=0)


def script(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    env = {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["bash", str(REPO / "preflight_lr.sh"), *arguments], capture_output=True, text=True, env=env, check=False
    )


def test_the_example_of_the_script():
    done = script(**EXAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    rows = {int(line.split()[0]): line.split()[1:] for line in lines if "%" in line and line[:14].strip().isdigit()}
    assert list(rows) == [1, 5, 10, 20, 50]
    assert [float(rows[step][0]) for step in rows] == [float(f"{PLAN.rate(step):.3e}") for step in rows]
    # Rollouts 1, 5, 10 and 20 begin with optimizer steps 1, 33, 73 and 153; there is no 50th.
    assert [float(row[2]) for row in list(rows.values())[:4]] == [
        float(f"{PLAN.rate(step):.3e}") for step in (1, 33, 73, 153)
    ]
    assert rows[50][2:] == ["the", "run", "is", "over"]
    assert any("•" in line for line in lines) and lines[-1].startswith("ok: 4.98e-07 at step 20 of 200")
    assert any(line.endswith("200  optimizer step") for line in lines)
    assert any(line.endswith("25  rollout") for line in lines)


@pytest.mark.parametrize(
    ("changed", "remedy_words"),
    [
        ({"EP": "20"}, "a warm-up of 0.015 (--lr_warmup_ratio) or 6 episodes (--num_episodes) would pass"),
        ({"WARMUP": "0.9"}, "a warm-up of 0.31 (--lr_warmup_ratio) would pass"),
        ({"POOL": "50"}, "2 episodes (--num_episodes) would pass"),
        ({"POOL": "20"}, "before step 20; 3 episodes (--num_episodes) would pass"),
    ],
)
def test_too_low_is_exit_1_with_what_would_pass(changed, remedy_words, monkeypatch, capsys):
    for name, value in {**EXAMPLE, **changed}.items():
        monkeypatch.setenv(name, value)
    assert lr_cli.main([]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: learning rate: ") and err.count("\n") == 1 and remedy_words in err
    assert "TOO" in out.splitlines()[-1]
    assert lr_cli.main(["--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert record["passes"] is False and record["by_step"]["1"] == 0.0 and remedy_words.endswith(record["remedy"])


@pytest.mark.parametrize("episodes", [1, 2, 20, 300])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("pool", [10, 50, 400, 5000])
def test_a_remedy_passes_and_its_neighbour_does_not(pool, warmup, episodes):
    plan = replace(PLAN, pool=pool, warmup=warmup, episodes=episodes)
    if plan.passes:
        assert remedy(plan) == ""
        return
    share, count = passing_warmup(plan), passing_episodes(plan)
    assert share is not None or count is not None
    if share is not None:
        assert share < warmup and replace(PLAN, pool=pool, warmup=share, episodes=episodes).passes
    if count is not None:
        assert replace(PLAN, pool=pool, warmup=warmup, episodes=count).passes
        nearer = range(max(1, 2 * episodes - count + 1), count) if count > episodes else range(count + 1, episodes)
        assert not any(replace(PLAN, pool=pool, warmup=warmup, episodes=near).passes for near in nearer)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"POOL": ""}, "POOL is missing (prompts of the training data): set it, or give --pool"),
        ({"POOL": "4e2"}, "POOL='4e2': no whole number"),
        ({"NS": "0"}, "NS=0: must be at least 1"),
        ({"WARMUP": "5"}, "WARMUP=5: a share of the steps"),
        ({"LR": "-1"}, "LR=-1: give a rate above 0"),
        ({"LR": "nan"}, "LR=nan: give a rate above 0"),
        ({"SCHEDULER": "cosin"}, "SCHEDULER=cosin: not a known schedule"),
    ],
)
def test_wrong_input_is_named(changed, words, monkeypatch):
    for name, value in {**EXAMPLE, **changed}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RftError) as caught:
        lr_cli.main([])
    assert str(caught.value).startswith(words)


def test_flags_win_over_variables(monkeypatch, capsys):
    for name, value in EXAMPLE.items():
        monkeypatch.setenv(name, value)
    assert lr_cli.main(["--json", "--episodes", "2", "--rollout-batch", "8"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["steps"], record["rollouts"], record["steps_a_rollout"]) == (400, 100, 4)


def test_the_plot_is_the_curve():
    lines = plot.curve(lambda step: float(step), 64, 64.0, lambda value: f"{value:g}")
    marks = [line.partition("│")[2] for line in lines[:-1]]
    for column in range(64):  # one mark a column, and none lower than the one before it
        assert [row[column : column + 1] for row in marks].count("•") == 1
    heights = [next(i for i, row in enumerate(marks) if row[column : column + 1] == "•") for column in range(64)]
    assert heights == sorted(heights, reverse=True) and (heights[0], heights[-1]) == (8, 0)
    assert len(plot.curve(lambda step: 1.0, 1, 1.0, str)[-1].partition("└")[2]) == 1  # a run of one step


def test_help_of_script_and_verb_is_there_without_torch():
    assert script("--help").stdout.startswith("Usage: POOL=400")
    code = "import sys; from rft.preflight import lr_cli\ntry: lr_cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, check=False).returncode == 0
