"""Launch presets as data: presets.toml, or another file of the same form. Standard library; main thread."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError

FILE = Path(__file__).with_name("presets.toml")
KEYS = {"about", "launcher", "flags", "arms", "steps"}


@dataclass(frozen=True)
class Preset:
    """steps: optimizer steps that a launch must come to, or None where nothing is said."""

    name: str
    about: str
    launcher: str
    flags: dict[str, str]
    arms: dict[str, dict[str, str]]
    steps: int | None

    def command(self, arm: str | None) -> list[str]:
        """``bash LAUNCHER --flag value …`` of one arm.

        raises  RftError: no such arm, or none was named
        """
        if arm not in self.arms:
            said = f"--arm {arm}: no such arm" if arm else "which arm?"
            raise RftError(f"preset {self.name}: {said}; name one with --arm: {', '.join(self.arms)}")
        flags = {**self.flags, **self.arms[arm]}
        words = [word for name, value in flags.items() for word in (f"--{name}", value) if word != ""]
        return ["bash", self.launcher, *words]

    @property
    def change(self) -> str:
        """``--eps_clip: a 0.2, b 0.1``."""
        names = next(iter(self.arms.values()))
        return "; ".join(f"--{n}: " + ", ".join(f"{arm} {given[n]}" for arm, given in self.arms.items()) for n in names)


def load(path: Path = FILE) -> dict[str, Preset]:
    """All presets of a file.

    raises  RftError: not readable, an unknown key, or arms that do not set the same flags to different values
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RftError(f"{path}: not readable as presets ({err}); see {FILE} for the form") from err
    return {name: _preset(path, name, table) for name, table in tables.items()}


def get(name: str, path: Path = FILE) -> Preset:
    found = load(path)
    if name not in found:
        raise RftError(f"--preset {name}: not in {path}; it has {', '.join(found) or 'none'}")
    return found[name]


def _preset(path: Path, name: str, table: object) -> Preset:
    where = f"{path}: [{name}]"
    if not isinstance(table, dict) or not isinstance(table.get("launcher"), str):
        raise RftError(f"{where}: launcher is missing; name a script at the top of the repository")
    unknown = sorted(table.keys() - KEYS)
    if unknown:
        raise RftError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(KEYS))}")
    arms = table.get("arms") or {}
    if len(arms) < 2 or not all(isinstance(arm, dict) and arm for arm in arms.values()):
        raise RftError(f"{where}: give at least two arms, each with the flags that differ")
    first = next(iter(arms.values()))
    for arm, given in arms.items():
        if given.keys() != first.keys():
            raise RftError(f"{where}: arm {arm} sets other flags than the first; an A/B differs in values alone")
        if given.keys() & (table.get("flags") or {}).keys():
            raise RftError(f"{where}: arm {arm} sets a flag that [{name}.flags] sets too; leave it in one place")
    values = [tuple(map(str, given.values())) for given in arms.values()]
    if len(set(values)) < len(values):
        raise RftError(f"{where}: two arms are equal; nothing would be compared")
    words = {key: str(value) for key, value in (table.get("flags") or {}).items()}
    arms = {arm: {key: str(value) for key, value in given.items()} for arm, given in arms.items()}
    return Preset(name, str(table.get("about", "")), table["launcher"], words, arms, table.get("steps"))
