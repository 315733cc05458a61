"""--config and --print-config through the real launchers: layers, reproduction, errors with file, line and remedy."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from rft import upstream_cli
from rft.config import layers, read, sections, show
from rft.errors import RftError

REPO = Path(__file__).parent.parent
LAUNCHERS = (
    ["train_grpo.sh"],
    ["train_grpo_20b.sh"],
    ["train_grpo_tiny.sh"],
    ["train_grpo_1gpu.sh"],
    ["train_grpo_1gpu.sh", "--profile", "cpu"],
)
EXAMPLE = """
model:
  pretrain: mine/model
  offload: false
  env: {NCCL_DEBUG: INFO, TOKENIZERS_PARALLELISM: null, MINE: "1"}
grpo: {actor_learning_rate: 3e-6, num_episodes: 3, entropy_loss_coef: null}
lora:
  target_modules: [q_proj, o_proj]
save: {name: mine, save_steps: -1}
"""


def launch(launcher: list[str], *words: str, **env: str) -> subprocess.CompletedProcess:
    bare = {"PATH": os.environ["PATH"], "HOME": "/", "RFT_RUNS_DIR": "runs", **env}
    command = ["bash", str(REPO / launcher[0]), *launcher[1:], *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=bare, check=False)


def command(launcher: list[str], *words: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(variables, flag -> values) of a dry run."""
    done = launch(launcher, "--dry-run", *words)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lines = done.stdout.splitlines()
    at = lines.index(upstream_cli.MODULE) + 1
    variables = dict(line.split("=", 1) for line in lines[: lines.index("python")])
    return variables, {name: tokens[1:] for name, tokens in layers.group(lines[at:])}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(RftError) as caught:
        read.read(str(write(tmp_path / "run.yaml", text)))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(tmp_path), "")


def test_a_file_overlays_the_recipe_and_the_command_line_wins(tmp_path):
    file = write(tmp_path / "run.yaml", EXAMPLE)
    before_env, before = command(LAUNCHERS[0])
    env, flags = command(LAUNCHERS[0], "--num_episodes", "7", "--config", file, "--save_steps=5")
    changed = {name for name in before.keys() | flags.keys() if before.get(name) != flags.get(name)}
    assert changed == {
        *("--pretrain", "--offload", "--actor_learning_rate", "--num_episodes", "--entropy_loss_coef"),
        *("--target_modules", "--save_steps", "--ckpt_path", "--save_path"),
    }
    assert flags["--num_episodes"] == ["7"] and "--offload" not in flags and "--entropy_loss_coef" not in flags
    assert flags["--target_modules"] == ["q_proj", "o_proj"] and flags["--pretrain"] == ["mine/model"]
    assert flags["--ckpt_path"] == ["runs/mine-<id>/ckpt"] and flags["--actor_learning_rate"] == ["3e-6"]
    assert before_env.pop("TOKENIZERS_PARALLELISM") and env == {**before_env, "NCCL_DEBUG": "INFO", "MINE": "1"}


def test_the_position_of_config_and_several_files(tmp_path):
    first = write(tmp_path / "a.yaml", "grpo: {num_episodes: 3, seed: 1}\n")
    second = write(tmp_path / "b.yaml", "grpo: {num_episodes: 4}\n")
    _, flags = command(LAUNCHERS[1], "--config", first, f"--config={second}")
    assert (flags["--num_episodes"], flags["--seed"]) == (["4"], ["1"])
    _, flags = command(LAUNCHERS[1], "--seed", "2", "--config", first)
    assert flags["--seed"] == ["2"], "a flag before --config is the user's as well"


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=" ".join)
def test_the_printed_whole_gives_the_same_command(launcher, tmp_path):
    printed = launch(launcher, "--print-config")
    assert (printed.returncode, printed.stderr) == (0, "")
    file = write(tmp_path / "whole.yaml", printed.stdout)
    assert command(launcher, "--config", file) == command(launcher)
    assert launch(launcher, "--config", file, "--print-config").stdout == printed.stdout


def test_the_printed_whole_holds_file_task_and_command_line(tmp_path):
    file = write(tmp_path / "run.yaml", EXAMPLE + "task: {type: code, repeat: 64, effort: high}\n")
    words = ["--config", str(file), "--num_ep", "9", "--lora_rank", "4", "--env", "B=a: #b"]
    printed = launch(LAUNCHERS[0], "--print-config", *words)
    whole = write(tmp_path / "whole.yaml", printed.stdout)
    env, flags = command(LAUNCHERS[0], *words)
    again_env, again = command(LAUNCHERS[0], "--config", whole)
    assert flags.pop("--num_ep") == again["--num_episodes"] == ["9"]  # an abbreviation is written out
    assert flags | {"--num_episodes": ["9"]} == again
    assert again_env == env and env["B"] == "a: #b" and "TOKENIZERS_PARALLELISM" not in env
    other_env, other = command(LAUNCHERS[0], "--config", whole, "--lora_rank", "5")
    assert other["--lora_rank"] == ["5"] and other_env["B"] == "a: #b"


def test_the_whole_names_every_flag_of_the_parser_once():
    known = sections.keys()
    actions = upstream_cli.actions()
    assert known.keys() == actions.keys() | sections.own_options().keys()
    listed = [name for names in sections.FLAGS.values() for name in names.split()]
    assert len(listed) == len(set(listed))
    homeless = sorted(actions.keys() - set(listed))
    assert not homeless, f"add to a section of rft/config/sections.py: {homeless}"


def test_the_whole_is_read_back_value_by_value(tmp_path):
    """Text that YAML could take for something else comes back as it was."""
    hard = [
        "null",
        "true",
        "",
        "1e-6",
        "0x10",
        "a: b",
        "- x",
        "# c",
        " pad ",
        "it's",
        '"q"',
        "ü",
        "~",
        "{}",
        "two\nlines",
    ]
    own = {"name": "n", "task": "custom", "task_set": [f"prompt={hard[-1]}"]}
    text = show.whole(["--wandb_project", "x"], own, {f"V{i}": value for i, value in enumerate(hard)})
    found = {one.key: one.value for one in read.parse(text, "whole.yaml")}
    assert found["env"] == {f"V{i}": value for i, value in enumerate(hard)}
    assert found["task.prompt"] == hard[-1]
    for value in hard:
        text = show.whole(["--wandb_project", value], {}, {})
        assert {one.key: one.value for one in read.parse(text, "w")}["wandb_project"] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "grpo:\n  lerning_rate: 1\n",
            "line 2: grpo.lerning_rate: unknown key; did you mean grpo.actor_learning_rate?",
        ),
        ("lora: {lora_rnk: 1}\n", "line 1: lora.lora_rnk: unknown key; did you mean lora.lora_rank?"),
        ("grpo: {beta: 0.1}\n", "line 1: grpo.beta: unknown key; here it is called grpo.init_kl_coef"),
        ("model: {name: x}\n", "line 1: model.name: unknown key; here it is called model.pretrain"),
        ("grpo: {max_completion_length: 5}\n", "unknown key; here it is called rollout.generate_max_len"),
        ("data: {lora_rank: 4}\n", "line 1: data.lora_rank: stands in the wrong section; move it to lora"),
        ("gpro: {seed: 1}\n", "line 1: gpro: unknown section; did you mean grpo?"),
        ("lora: {lora_rank: four}\n", "line 1: lora.lora_rank: 'four' is no int; mend the value"),
        ("lora: {lora_apply: side}\n", "line 1: lora.lora_apply: 'side' is none of sidepath, merge; choose one"),
        ("model: {offload: maybe}\n", "line 1: model.offload: 'maybe' is neither true nor false; write one of them"),
        ("lora: {lora_rank: [1, 2]}\n", "line 1: lora.lora_rank: takes one value, the file has a list"),
        ("grpo: {adam_betas: [0.9]}\n", "line 1: grpo.adam_betas: takes 2 values, the file has 1"),
        ("model: {pretrain: {a: b}}\n", "line 1: model.pretrain: a plain value belongs here, not a mapping"),
        ("grpo:\n  seed: 1\n  seed: 2\n", "line 3: seed: stands in line 2 too; keep one"),
        ("grpo: 3\n", "line 1: grpo is no mapping"),
        ("- a\n", "line 1: the file is no mapping"),
        ("grpo: {seed: 1\n", "no YAML"),
        ("a: b: c\n", "line 1: no YAML: mapping values are not allowed here"),
        ("task: {tipe: code}\n", "line 1: task.tipe: unknown key; did you mean type?"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_the_remedy(tmp_path, text, message):
    assert message in refusal(tmp_path, text)


def test_a_file_that_is_not_there_and_one_that_is_not_text(tmp_path):
    with pytest.raises(RftError, match=r"nowhere.yaml: No such file"):
        read.read(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RftError, match="name a YAML file"):
        read.read(str(tmp_path / "run.yaml"))


def test_an_error_is_one_line_and_nothing_is_written(tmp_path):
    file = write(tmp_path / "run.yaml", "grpo: {lerning_rate: 1}\n")
    for word in ("--dry-run", "--print-config", "--verbose"):
        done = launch(LAUNCHERS[2], word, "--config", file, RFT_RUNS_DIR=str(tmp_path / "runs"), RFT_SKIP_SETUP="1")
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
        assert done.stderr.startswith(f"error: --config {file} line 1: grpo.lerning_rate: unknown key")
    assert list(tmp_path.iterdir()) == [file]


def test_an_empty_file_changes_nothing_and_anchors_work(tmp_path):
    for text in ("", "# nothing\n", "grpo:\nlora: {}\n"):
        file = write(tmp_path / "run.yaml", text)
        assert command(LAUNCHERS[2], "--config", file) == command(LAUNCHERS[2])
    text = "grpo: &g {seed: 1, num_episodes: 2}\nlora: {lora_rank: &r 4, lora_alpha: *r}\n"
    found = {one.key: one.value for one in read.parse(text, "f")}
    assert found == {"seed": "1", "num_episodes": "2", "lora_rank": "4", "lora_alpha": "4"}


def test_every_run_keeps_its_config(tmp_path):
    from test_launch import FLAGS, Launcher

    file = write(tmp_path / "run.yaml", "grpo: {eps_clip: 0.3}\n")
    launcher = Launcher(tmp_path, "fine", "--config", str(file))
    code, _, err = launcher.wait()
    assert (code, err) == (0, "")
    kept = {one.key: one.value for one in read.read(str(launcher.run / "config.yaml"))}
    assert kept["eps_clip"] == "0.3" and kept["name"] == "t" and kept["advantage_estimator"] == FLAGS.split()[1]
    assert kept["ckpt_path"] is None, "the run's own folder is not part of what is done again"
    assert "--eps_clip" in json.loads((launcher.run / "run.json").read_text())["command"]
