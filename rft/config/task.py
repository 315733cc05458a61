"""What a task selects: prompts, reward and template, as flags, and the prompts' file where the task makes them.

    math     the recipe's prompts, exact match (reward_func_em.py)
    code     a task of rft/tasks/ or a folder, its prompt `repeat` times, run in the sandbox (reward_func_code.py)
    action   rows with reward_action_0 to _3 (rft calculate-reward makes them), drawn as a stream of steps
             (rft/data/step_stream.py), paid by the action that the answer names (reward_func_action.py)
    custom   data.prompt_data, or `prompt`, or `prompt_template` and `problems`; the reward is reward.remote_rm_url

Made prompts stand in data/tasks/ under a name that holds their digest, so that a file that is there is the right one.
Only `write` writes. Rewards other than math have no use for the recipe's evaluation set: it is left out unless named.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rft.data.chat_rows import EFFORTS
from rft.errors import RftError
from rft.whole_file import WholeFile

TYPES = ("math", "code", "action", "custom")
TASK_KEYS = ("type", "name", "prompt", "prompt_template", "problems", "repeat", "effort", "steps")
#: which keys a type has beside `type`
ALLOWED = {
    "math": (),
    "code": ("name", "repeat", "effort"),
    "action": ("steps",),
    "custom": ("prompt", "prompt_template", "problems", "repeat", "effort"),
}
REWARDS = {"math": "reward_func_em.py", "code": "reward_func_code.py", "action": "reward_func_action.py"}
FOLDER = Path("data/tasks")
REPEAT = 1000  # of a single prompt
MAX_LINES = 10_000_000
_HOLE = re.compile(r"\{\w*\}")


@dataclass(frozen=True)
class Task:
    type: str
    settings: Mapping[str, str] = field(default_factory=dict)  # problems: one a line

    def get(self, key: str, default=None):
        return self.settings.get(key, default)


def make(kind: str, settings: Mapping[str, str], where: str = "task") -> Task:
    """A task, checked. raises RftError that names `where`, the value and the remedy."""
    if kind not in TYPES:
        raise RftError(f"{where}: {kind!r} is no task; choose one of {', '.join(TYPES)}")
    for key in settings:
        if key not in ALLOWED[kind]:
            has = ", ".join(ALLOWED[kind]) or "no keys"
            raise RftError(f"{where}: {key} is no key of the task {kind}, which has {has}; leave it out")
    for key in ("repeat", "steps"):
        number = settings.get(key, "1")
        if not (number.isdecimal() and 1 <= int(number) <= MAX_LINES):
            raise RftError(f"{where}: {key} {number!r} is no number from 1 to {MAX_LINES}; give one")
    if settings.get("effort", EFFORTS[0]) not in EFFORTS:
        raise RftError(f"{where}: effort {settings['effort']!r} is none of {', '.join(EFFORTS)}; choose one")
    task = Task(kind, dict(settings))
    if kind == "custom":
        _check_custom(task, where)
    return task


def of_items(kind: str, items: list[str]) -> Task:
    """A task of --task and --task_set KEY=VALUE."""
    return make(kind, dict(item.partition("=")[::2] for item in items), "--task")


def _check_custom(task: Task, where: str) -> None:
    template, problems = task.get("prompt_template"), task.get("problems")
    if (template is None) != (problems is None) or (task.get("prompt") and template):
        raise RftError(f"{where}: give prompt, or prompt_template with problems, or data.prompt_data")
    if template is not None and len(_HOLE.findall(template)) != 1:
        raise RftError(f"{where}: prompt_template {template[:60]!r} needs one place like {{task}} for the problem")


def flags(task: Task, named: set[str]) -> dict[str, list[str]]:
    """What the task sets: flag name -> its tokens' values.

    named  flags that the file or the command line names; custom needs its prompts and its reward there
    """
    found: dict[str, list[str]] = {}
    if task.type in REWARDS:
        found["remote_rm_url"] = [REWARDS[task.type]]
        found |= {"input_key": ["input"], "label_key": ["label"], "apply_chat_template": []}
    elif "remote_rm_url" not in named:
        raise RftError("task custom: which reward? give reward.remote_rm_url in the file, or --remote_rm_url")
    rows = lines(task)
    if rows:
        found["prompt_data"] = [str(path(task, rows))]
    elif task.type != "math" and "prompt_data" not in named:
        hint = " with reward_action_0 to _3 (rft calculate-reward)" if task.type == "action" else ""
        raise RftError(f"task {task.type}: which prompts? give data.prompt_data, or --prompt_data FILE{hint}")
    if task.type == "action":
        found["prompt_sampler"] = ["stream"]
        if "steps" in task.settings:
            found["stream_steps"] = [task.settings["steps"]]
    if task.type != "math":
        found["eval_dataset"] = [""]
    return found


def lines(task: Task) -> list[str]:
    """The JSON lines of the prompts that the task makes, each once; [] where it makes none."""
    label = ""
    if task.type == "code":
        from rft.rewards import code_task

        name = task.get("name", "matmul")
        prompts, label = [code_task.load(name).prompt.strip()], name
        if "/" in name:
            label = str(Path(name).resolve())
        if not prompts[0]:
            raise RftError(f"task code: {name} has no prompt; write its prompt.md")
    elif task.get("prompt"):
        prompts = [task.settings["prompt"].strip()]
    elif task.get("problems"):
        problems = [one.strip() for one in task.settings["problems"].splitlines() if one.strip()]
        prompts = [_HOLE.sub(lambda _, one=one: one, task.settings["prompt_template"]).strip() for one in problems]
    else:
        return []
    effort = {"reasoning_effort": task.settings["effort"]} if task.get("effort") else {}
    rows = [{"input": prompt, "label": label, **effort} for prompt in prompts]
    return [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]


def repeat(task: Task, rows: list[str]) -> int:
    return int(task.get("repeat", str(REPEAT) if len(rows) == 1 else "1"))


def path(task: Task, rows: list[str]) -> Path:
    """Where the prompts stand, relative to the repository: type, name, count and digest."""
    count = repeat(task, rows)
    digest = hashlib.sha256("".join([*rows, str(count)]).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(task.get("name", "matmul")).name) + "-" if task.type == "code" else ""
    return FOLDER / f"{task.type}-{name}{len(rows) * count}-{digest}.jsonl"


def write(task: Task, prompt_data: str, repo: Path) -> Path | None:
    """Makes the prompts' file if the run uses it (prompt_data) and it is not there; whole or not at all."""
    rows = lines(task)
    if not rows or prompt_data != str(path(task, rows)):
        return None
    target = repo / prompt_data
    if target.exists():
        return target
    whole = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = WholeFile(target, "w", encoding="utf-8")
        for _ in range(repeat(task, rows)):
            whole.file.writelines(rows)
        whole.commit()
    except OSError as err:
        if whole is not None:
            whole.discard()
        raise RftError(f"{target}: {err.strerror}; make data/ writable or free space") from err
    return target
