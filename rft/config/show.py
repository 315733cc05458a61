"""The resolved whole of a run as a configuration file: every setting, the unset ones with OpenRLHF's default.

Read again by `rft.config.read` through the same launcher it gives the same command, whatever the launcher's own numbers
have become since: a flag that the run does without stands there as ``null`` or ``false``. Paths that the run's folder
sets (ckpt_path, save_path) are not part of it. Pure.
"""

from collections.abc import Mapping, Sequence

from rft.config import layers, sections

HEAD = """\
# Every setting of a run: use it with --config FILE. Flags on the command line win over it.
# null: not set; OpenRLHF's own default stands behind it.
"""
CHANGING = ("wandb_run_name",)  # whose default has the time in it
_NULL, _BOOL, _STR = (f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "str"))


def whole(flags: Sequence[str], own: Mapping[str, object], environment: Mapping[str, str]) -> str:
    """The file's text.

    flags        what goes to OpenRLHF, later ones winning
    own          the launcher's options by name (`rft.launch.Options`), task and task_set among them
    environment  the variables that the launcher sets
    """
    given = values(flags)
    known = sections.keys()
    text = [HEAD]
    for section in sections.FLAGS:
        text.append(f"{section}:\n")
        for key in known.values():
            if key.section == section:
                text.append(_indent(_entry(key, given, own, environment)))
    text.append("task:\n")
    if own.get("task"):
        text.append(_indent(_line("type", own["task"])))
        settings = dict(item.partition("=")[::2] for item in own.get("task_set") or [])
        text += [_indent(_line(key, value)) for key, value in settings.items()]
    return "".join(text)


def values(flags: Sequence[str]) -> dict[str, list[str]]:
    """Destination -> values of its last occurrence; a unique beginning of a flag counts as it, as in argparse."""
    known = {key.flag: key.name for key in sections.keys().values() if key.action is not None}
    found: dict[str, list[str]] = {}
    for flag, tokens in layers.group(flags):
        matches = [flag] if flag in known else [name for name in known if name.startswith(flag)]
        _, equals, value = tokens[0].partition("=")
        found[known[matches[0]]] = [value] if equals else tokens[1:]
    return found


def _entry(key: sections.Key, given: Mapping, own: Mapping, environment: Mapping) -> str:
    if key.kind == sections.MAP:
        gone = [f"{name}: null\n" for name in dict.fromkeys(own.get("unset_env") or []) if name not in environment]
        lines = [*(_line(name, text) for name, text in environment.items()), *gone]
        return f"{key.name}:\n" + "".join(map(_indent, lines))
    if key.action is None:
        value = own.get(key.name)
        return _line(key.name, value) if value is not None else f"{key.name}: null\n"
    if key.kind == sections.SWITCH:
        return f"{key.name}: {'true' if key.name in given else 'false'}\n"
    if key.name not in given:
        default = None if key.name in CHANGING else key.action.default
        hint = "" if default is None else f"  # {default}"
        return f"{key.name}: null{hint}\n"
    return _line(key.name, given[key.name] if key.kind == sections.LIST else given[key.name][0])


def _line(name: str, value: object) -> str:
    """``name: value`` as YAML that `rft.config.read` gives back unchanged."""
    import yaml

    if isinstance(value, bool):
        return f"{name}: {str(value).lower()}\n"
    node = (
        yaml.SequenceNode("tag:yaml.org,2002:seq", [_scalar(item) for item in value], flow_style=True)
        if isinstance(value, list)
        else _scalar(str(value))
    )
    pair = yaml.MappingNode("tag:yaml.org,2002:map", [(_scalar(name), node)], flow_style=False)
    return yaml.serialize(pair, Dumper=yaml.SafeDumper, width=1 << 20, allow_unicode=True)


def _scalar(text: str):
    """Plain where it can be: numbers without quotes, but text that reads as null or as a switch with them."""
    import yaml

    tag = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False))
    if "\n" in text:
        return yaml.ScalarNode(_STR, text, style="|" if text == text.rstrip() else '"')
    return yaml.ScalarNode(_STR, text, style='"') if tag in (_NULL, _BOOL) else yaml.ScalarNode(tag, text)


def _indent(text: str) -> str:
    return "".join(f"  {line}" if line.strip() else line for line in text.splitlines(keepends=True))
