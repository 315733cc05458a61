"""A configuration file as settings: YAML, two levels, every key checked against what the run can be told.

Values keep the text that the file has (``1e-6`` stays ``1e-6``), so that they mean to OpenRLHF's parser what they mean
on the command line. Anchors and merge keys work. Errors (RftError) name file, line, key and the remedy.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rft.config import sections
from rft.config.task import TASK_KEYS
from rft.errors import RftError

#: what a setting is called elsewhere
ELSEWHERE = {
    "beta": "init_kl_coef",
    "kl_coef": "init_kl_coef",
    "epsilon": "eps_clip",
    "learning_rate": "actor_learning_rate",
    "lr": "actor_learning_rate",
    "num_generations": "n_samples_per_prompt",
    "weight_decay": "l2",
    "max_grad_norm": "max_norm",
    "num_train_epochs": "num_episodes",
    "max_seq_length": "generate_max_len",
    "max_completion_length": "generate_max_len",
    "max_prompt_length": "prompt_max_len",
    "r": "lora_rank",
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "model.name": "pretrain",
    "model_name": "pretrain",
    "path": "pretrain",
    "dataset": "prompt_data",
    "reward_funcs": "remote_rm_url",
    "output_dir": "save_path",
    "report_to": "use_wandb",
}
REMOVED = None


@dataclass(frozen=True)
class Setting:
    """value: None (not set: OpenRLHF's default), True or False (a switch), text, a list of texts, or name -> text."""

    key: str
    value: bool | str | list[str] | dict[str, str | None] | None
    where: str  # file, line and key, for messages


def read(path: str) -> list[Setting]:
    """The file's settings, in its order; those of the task as ``task.<key>``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        why = getattr(err, "strerror", None) or err
        raise RftError(f"--config {path}: {why}; name a YAML file with sections {_names(sections.SECTIONS)}") from err
    return parse(text, path)


def parse(text: str, path: str) -> list[Setting]:
    """As `read`, of a text; path: what messages call it."""
    try:
        import yaml
    except ImportError as err:
        raise RftError(f"--config {path}: PyYAML is not installed here; run: bash setup.sh") from err
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as err:
        mark, problem = getattr(err, "problem_mark", None), getattr(err, "problem", None) or str(err)
        line = f" line {mark.line + 1}" if mark else ""
        raise RftError(f"--config {path}{line}: no YAML: {' '.join(str(problem).split())}; mend that line") from err
    if tree is None:
        return []
    known = sections.keys()
    settings = []
    for section, node in _pairs(tree, path, "the file", "sections " + _names(sections.SECTIONS)):
        where = f"--config {path} line {node.start_mark.line + 1}"
        if section not in sections.SECTIONS:
            raise RftError(f"{where}: {section}: unknown section; {_near(section, sections.SECTIONS)}")
        if _is_null(node):
            continue
        for key, value in _pairs(node, path, section, "settings, one a line"):
            line = f"--config {path} line {value.start_mark.line + 1}: {section}.{key}"
            if section == "task":
                settings.append(_task_setting(key, value, line))
            else:
                settings.append(_setting(_known(section, key, known, line), value, line))
    return settings


def _pairs(node, path: str, what: str, wanted: str) -> Iterator[tuple]:
    """(key, value node) of a mapping; merge keys are resolved, a key that comes twice is an error."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise RftError(f"--config {path} line {line}: {what} is no mapping; write {wanted} (key: value)")
    seen: dict[str, int] = {}
    for key, _ in node.value:  # before merge keys are put in, which the file's own keys override
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise RftError(f"--config {path} line {line}: a key is no plain name; write key: value")
        if key.value in seen:
            raise RftError(f"--config {path} line {line}: {key.value}: stands in line {seen[key.value]} too; keep one")
        seen[key.value] = line
    yaml.constructor.SafeConstructor().flatten_mapping(node)
    yield from {key.value: (key.value, value) for key, value in node.value}.values()


def _known(section: str, key: str, known: dict, where: str):
    found = known.get(key)
    other = known.get(ELSEWHERE.get(f"{section}.{key}") or ELSEWHERE.get(key, ""))
    if other is not None:
        raise RftError(f"{where}: unknown key; here it is called {other.section}.{other.name}")
    if found is None:
        full = [f"{one.section}.{one.name}" for one in known.values()]
        raise RftError(f"{where}: unknown key; {_near(f'{section}.{key}', full)}")
    if found.section != section:
        raise RftError(f"{where}: stands in the wrong section; move it to {found.section}")
    return found


def _setting(key, node, where: str) -> Setting:
    import yaml

    if _is_null(node):
        return Setting(key.name, REMOVED, where)
    if key.kind == sections.SWITCH:
        if not _is_bool(node):
            raise RftError(f"{where}: {_text(node)!r} is neither true nor false; write one of them")
        return Setting(key.name, bool(yaml.SafeLoader.bool_values[node.value.lower()]), where)
    if key.kind == sections.MAP:
        entries = _pairs(node, where.split(" line ")[0].removeprefix("--config "), key.name, "NAME: value")
        return Setting(key.name, {name: None if _is_null(one) else _scalar(one, where) for name, one in entries}, where)
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if isinstance(node, yaml.SequenceNode) and key.kind != sections.LIST:
        raise RftError(f"{where}: takes one value, the file has a list; join several by commas where they are files")
    texts = [_scalar(item, where) for item in items]
    for text in texts:
        _check_type(key, text, where)
    if isinstance(getattr(key.action, "nargs", None), int) and len(texts) != key.action.nargs:
        raise RftError(f"{where}: takes {key.action.nargs} values, the file has {len(texts)}; write [a, b]")
    return Setting(key.name, texts if key.kind == sections.LIST else texts[0], where)


def _check_type(key, text: str, where: str) -> None:
    """As argparse would, but with the file and the line."""
    action = key.action
    if action is not None and action.type is not None:
        try:
            value = action.type(text)
        except (TypeError, ValueError) as err:
            raise RftError(f"{where}: {text!r} is no {action.type.__name__}; mend the value") from err
    else:
        value = text
    if action is not None and action.choices is not None and value not in action.choices:
        raise RftError(f"{where}: {text!r} is none of {_names(map(str, action.choices))}; choose one")


def _task_setting(key: str, node, where: str) -> Setting:
    import yaml

    if key not in TASK_KEYS:
        raise RftError(f"{where}: unknown key; {_near(key, TASK_KEYS)}")
    if _is_null(node):
        return Setting(f"task.{key}", REMOVED, where)
    if isinstance(node, yaml.SequenceNode):
        if key != "problems":
            raise RftError(f"{where}: takes one value, the file has a list")
        items = [_scalar(item, where).strip() for item in node.value]
        if any("\n" in item for item in items):
            raise RftError(f"{where}: a problem goes over several lines; write each on one")
        return Setting(f"task.{key}", "\n".join(items), where)
    return Setting(f"task.{key}", _scalar(node, where), where)


def _scalar(node, where: str) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise RftError(f"{where}: a plain value belongs here, not a {node.id}")
    return node.value


def _text(node) -> str:
    return node.value if isinstance(node.value, str) else node.id


def _is_null(node) -> bool:
    return node.tag == "tag:yaml.org,2002:null"


def _is_bool(node) -> bool:
    return node.tag == "tag:yaml.org,2002:bool"


def _near(name: str, among) -> str:
    near = difflib.get_close_matches(name, list(among), n=1)
    return f"did you mean {near[0]}?" if near else f"known: {_names(among)}"


def _names(names) -> str:
    names = list(names)
    return ", ".join(names) if len(names) <= 12 else "print the whole with --print-config"
