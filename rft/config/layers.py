"""Recipe, task, configuration file and command line as one list of tokens, in which the later one wins.

`merge` is the first thing that the launcher does with its arguments. The launchers write ``--`` before what the user
typed, so the last ``--`` parts the recipe (and a preset's changes to it) from the command line. A file takes a flag out
of the recipe and puts its own value in, so that it can also take back a switch (``offload: false``) and a value
(``null``: OpenRLHF's default). The recipe's numbers stay in the launchers.
"""

from collections.abc import Sequence

from rft.config import read, sections, task
from rft.errors import RftError

CONFIG, TASK, TASK_SET = "--config", "--task", "--task_set"
UNSET = "--unset_env"  # a variable that a file takes back; the launcher keeps its name for the printed whole

#: flag -> its groups of tokens, each beginning with the flag
Groups = list[tuple[str, list[str]]]


def merge(argv: Sequence[str]) -> list[str]:
    """The tokens with files and task resolved; unchanged where there are neither.

    raises RftError for a file, a key or a task that is not right
    """
    if not {token.partition("=")[0] for token in argv} & {CONFIG, TASK, TASK_SET}:
        return list(argv)
    edge = len(argv) - 1 - list(reversed(argv)).index("--") if "--" in argv else -1
    recipe, typed = group(argv[: max(edge, 0)]), group(argv[edge + 1 :])
    files = [path for groups in (recipe, typed) for path in take(groups, CONFIG)]
    settings = [setting for path in files for setting in read.read(path)]
    named = {name.removeprefix("--") for name, _ in typed} | {
        one.key for one in settings if one.value not in (None, "")
    }
    chosen = choose_task(recipe, settings, typed)
    known = sections.keys() if settings else {}
    if chosen is not None:
        for name, values in task.flags(chosen, named).items():
            put(recipe, f"--{name}", [values])
    for setting in settings:
        if not setting.key.startswith("task."):
            lay(recipe, known[setting.key], setting.value)
    if chosen is not None:
        recipe.append((TASK, [TASK, chosen.type]))
        recipe += [(TASK_SET, [TASK_SET, item]) for item in task_items(chosen)]
    return [*flatten(recipe), "--", *flatten(typed)]


def group(tokens: Sequence[str]) -> Groups:
    """Each flag with the values behind it; a bare ``--`` is dropped."""
    groups: Groups = []
    for token in tokens:
        if token.startswith("--") and token != "--":
            groups.append((token.partition("=")[0], [token]))
        elif token != "--":
            if not groups:
                groups.append(("", []))
            groups[-1][1].append(token)
    return groups


def flatten(groups: Groups) -> list[str]:
    return [token for _, tokens in groups for token in tokens]


def take(groups: Groups, flag: str) -> list[str]:
    """Removes every group of the flag and returns their values."""
    values = []
    for name, tokens in groups:
        if name == flag:
            value = tokens[0].partition("=")[2] or (tokens[1] if len(tokens) > 1 else "")
            if not value or len(tokens) > 2:
                raise RftError(f"{flag} needs one value")
            values.append(value)
    groups[:] = [entry for entry in groups if entry[0] != flag]
    return values


def put(groups: Groups, flag: str, calls: list[list[str]]) -> None:
    """Replaces every group of the flag by ``flag *values`` for each of calls."""
    groups[:] = [entry for entry in groups if entry[0] != flag]
    for values in calls:
        dashed = len(values) == 1 and values[0].startswith("--")  # argparse would take it for a flag
        groups.append((flag, [f"{flag}={values[0]}"] if dashed else [flag, *values]))


def lay(groups: Groups, key: sections.Key, value) -> None:
    """One setting of a file over the recipe."""
    if key.kind == sections.MAP:
        variables = value or {}
        kept = [entry for entry in groups if entry[0] != key.flag or variable(entry[1]) not in variables]
        groups[:] = kept if value is not None else [entry for entry in groups if entry[0] != key.flag]
        for name, text in variables.items():
            tokens = [UNSET, name] if text is None else [key.flag, f"{name}={text}"]
            groups.append((tokens[0], tokens))
    elif value is None or value is False:
        put(groups, key.flag, [])
    else:
        put(groups, key.flag, [[] if value is True else value if isinstance(value, list) else [value]])


def variable(tokens: list[str]) -> str:
    """The name in ``--env NAME=value`` or ``--env=NAME=value``."""
    return (tokens[1] if len(tokens) > 1 else tokens[0].partition("=")[2]).partition("=")[0]


def choose_task(recipe: Groups, settings: Sequence[read.Setting], typed: Groups) -> task.Task | None:
    """The task of the last layer that names one, with the keys of that layer and of those above it."""
    layers = [_task_layer(recipe)]
    layers.append({one.key.removeprefix("task."): one.value for one in settings if one.key.startswith("task.")})
    layers.append(_task_layer(typed))
    kind: str | None = None
    found: dict[str, str | None] = {}
    for layer in layers:
        if layer.get("type", kind) != kind:
            kind, found = layer["type"], {}
        found |= {key: value for key, value in layer.items() if key != "type"}
    if kind is None:
        if any(value is not None for value in found.values()):
            raise RftError(f"task {', '.join(found)}: of which task? give task.type or --task TYPE")
        return None
    return task.make(kind, {key: value for key, value in found.items() if value is not None})


def _task_layer(groups: Groups) -> dict[str, str]:
    named = take(groups, TASK)
    layer = {"type": named[-1]} if named else {}
    for item in take(groups, TASK_SET):
        key, equals, value = item.partition("=")
        if not equals or key not in task.TASK_KEYS or key == "type":
            raise RftError(f"{TASK_SET} {item}: give KEY=VALUE, with a key of docs/config.md")
        layer[key] = value
    return layer


def task_items(chosen: task.Task) -> list[str]:
    """KEY=VALUE for `--task_set`."""
    return [f"{key}={value}" for key, value in chosen.settings.items()]
