"""What --task and the file's task section select, through the launchers' dry run and the file that is written."""

import json
from argparse import Namespace

import pytest
from test_config import LAUNCHERS, REPO, command, launch, write

from rft import prompt_sampler, upstream_cli
from rft.config import task
from rft.data.step_stream import StepStream
from rft.errors import RftError
from rft.prompts import PromptLoader

CUSTOM = """
task:
  type: custom
  prompt_template: Write a Python function that {task}.
  problems:
    - sorts a list of numbers
    - finds the factorial of n
  repeat: 3
  effort: low
reward: {remote_rm_url: rft/rewards/examples/trl_functions.py}
"""


def test_math_takes_the_recipes_prompts_and_the_exact_match():
    _, before = command(LAUNCHERS[0])
    _, flags = command(LAUNCHERS[0], "--task", "math")
    assert flags == before | {"--remote_rm_url": ["reward_func_em.py"]} != before


def test_code_makes_its_prompts_and_leaves_the_recipes_evaluation_out(tmp_path):
    _, flags = command(LAUNCHERS[1], "--task", "code", "--task_set", "repeat=12", "--task_set", "effort=low")
    (name,) = flags["--prompt_data"]
    assert name.startswith("data/tasks/code-matmul-12-") and not (REPO / name).exists(), "a dry run writes nothing"
    assert flags["--remote_rm_url"] == ["reward_func_code.py"] and flags["--eval_dataset"] == [""]
    chosen = task.make("code", {"repeat": "12", "effort": "low"})
    assert task.write(chosen, "other.jsonl", tmp_path) is None and not list(tmp_path.iterdir()), (
        "the user's own prompts"
    )
    made = task.write(chosen, name, tmp_path)
    rows = [json.loads(line) for line in made.read_text().splitlines()]
    assert len(rows) == 12 and {row["label"] for row in rows} == {"matmul"}
    assert rows[0]["reasoning_effort"] == "low" and "def matmul(A, B):" in rows[0]["input"]
    made.write_text("kept")
    assert task.write(chosen, name, tmp_path).read_text() == "kept", "the name holds the digest: it is the right one"


def test_another_prompt_is_another_file():
    names = {
        str(task.path(one, task.lines(one)))
        for one in (
            task.make("code", {}),
            task.make("code", {"repeat": "12"}),
            task.make("code", {"repeat": "12", "effort": "low"}),
            task.make("custom", {"prompt": "a", "repeat": "12"}),
            task.make("custom", {"prompt": "b", "repeat": "12"}),
        )
    }
    assert len(names) == 5


def test_a_task_that_cannot_be_written_is_one_line(tmp_path):
    chosen = task.make("code", {"repeat": "2"})
    (tmp_path / "data").write_text("a file where a folder is due")
    with pytest.raises(RftError, match="make data/ writable"):
        task.write(chosen, str(task.path(chosen, task.lines(chosen))), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_custom_prompts_from_a_template(tmp_path):
    file = write(tmp_path / "run.yaml", CUSTOM)
    _, flags = command(LAUNCHERS[1], "--config", str(file))
    assert flags["--remote_rm_url"] == ["rft/rewards/composed.py"], "a TRL file from the shell, through its adapter"
    assert flags["--prompt_data"][0].startswith("data/tasks/custom-6-")
    problems = "sorts a list of numbers\nfinds the factorial of n"
    settings = {"prompt_template": "Write a Python function that {task}.", "problems": problems, "repeat": "3"}
    rows = [json.loads(line)["input"] for line in task.lines(task.make("custom", settings))]
    assert rows == [
        "Write a Python function that sorts a list of numbers.",
        "Write a Python function that finds the factorial of n.",
    ]


@pytest.mark.skipif("prompt_sampler" not in upstream_cli.actions(), reason="the series has no prompt_sampler patch")
def test_action_draws_a_stream():
    _, flags = command(LAUNCHERS[1], "--task", "action", "--task_set", "steps=5", "--prompt_data", "q.csv")
    found = {name: flags[name] for name in ("--remote_rm_url", "--prompt_sampler", "--stream_steps", "--prompt_data")}
    assert list(found.values()) == [["reward_func_action.py"], ["stream"], ["5"], ["q.csv"]]


def test_the_last_layer_that_names_the_task_decides(tmp_path):
    """The one-GPU recipe has ten lines of code prompts; another type takes none of its keys."""
    file = write(tmp_path / "run.yaml", "task: {repeat: 4}\n")
    _, flags = command(LAUNCHERS[3], "--config", str(file))
    assert flags["--prompt_data"][0].startswith("data/tasks/code-matmul-4-"), "a file changes one key of the recipe's"
    _, flags = command(LAUNCHERS[3], "--config", str(file), "--task_set", "repeat=5")
    assert flags["--prompt_data"][0].startswith("data/tasks/code-matmul-5-")
    _, flags = command(LAUNCHERS[3], "--task", "math")
    assert flags["--remote_rm_url"] == ["reward_func_em.py"] and flags["--prompt_data"] == ["data/sft_rl_pool.jsonl"]
    _, flags = command(LAUNCHERS[3], "--task", "code", "--prompt_data", "mine.jsonl")
    assert flags["--prompt_data"] == ["mine.jsonl"], "a flag on the command line wins over the task"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "maths"], "task: 'maths' is no task; choose one of math, code, action, custom"),
        (["--task", "math", "--task_set", "repeat=3"], "task: repeat is no key of the task math, which has no keys"),
        (["--task", "code", "--task_set", "repeat=0"], "task: repeat '0' is no number from 1 to"),
        (["--task", "code", "--task_set", "effort=max"], "task: effort 'max' is none of low, medium, high"),
        (["--task", "code", "--task_set", "name=sort"], "label 'sort': no task of that name (known: matmul)"),
        (["--task", "code", "--task_set", "nam=sort"], "--task_set nam=sort: give KEY=VALUE"),
        (["--task_set", "repeat=3"], "task repeat: of which task? give task.type or --task TYPE"),
        (["--task", "action"], "task action: which prompts? give data.prompt_data, or --prompt_data FILE with reward_"),
        (["--task", "custom"], "task custom: which reward? give reward.remote_rm_url"),
        (["--task", "custom", "--remote_rm_url", "a.py"], "task custom: which prompts?"),
        (
            [
                "--task",
                "custom",
                "--remote_rm_url",
                "a.py",
                "--task_set",
                "prompt_template=x",
                "--task_set",
                "problems=y",
            ],
            "task: prompt_template 'x' needs one place like {task}",
        ),
    ],
)
def test_a_task_that_is_not_right_is_one_line(words, message):
    done = launch(LAUNCHERS[1], "--dry-run", *words)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {message}"), done.stderr


class Rows(list):
    """A data set as the loaders use it."""

    def collate_fn(self, rows):
        return rows


def sampler(rows: int, **more) -> PromptLoader | StepStream:
    args = {"prompt_sampler": "stream", "stream_steps": None, "rollout_batch_size": 4, "seed": 7, **more}
    return prompt_sampler.make(Rows(range(rows)), Namespace(**args))


def test_the_sampler_that_the_trainer_gets():
    epochs = sampler(10, prompt_sampler="epochs")
    assert isinstance(epochs, PromptLoader) and sorted(row for (row,) in epochs) == list(range(10))
    stream = sampler(10)
    assert isinstance(stream, StepStream) and len(stream) == 12, "three rollouts of four go through ten rows once"
    drawn = [row for (row,) in stream]
    assert len(drawn) == 12 and all(len(set(drawn[i : i + 4])) == 4 for i in (0, 4, 8))
    assert drawn[:4] == StepStream(range(10), 4, seed=7).draw(0)
    assert len(sampler(10, stream_steps=50)) == 200
    state, again = stream.state_dict(), sampler(10)
    again.load_state_dict(state)
    assert [row for (row,) in again] == [row for (row,) in stream], "a continued run goes on with the next episode"
    with pytest.raises(RftError, match="draws 4 different prompts a rollout, --prompt_data has 3"):
        sampler(3)
    with pytest.raises(RftError, match="--stream_steps 5 needs --prompt_sampler stream"):
        sampler(10, prompt_sampler="epochs", stream_steps=5)
