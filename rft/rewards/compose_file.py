"""Reads a composition from a TOML file.

    [[part]]
    name = "correct"             # logged as reward/correct
    builtin = "exact_match"      # or judge, code, action; or  file = "my_reward.py"  (relative to this file)
    weight = 1.0

    [[part]]
    name = "brief"
    file = "my_trl_rewards.py"
    function = "brief"           # a TRL-style function of it
    weight = 0.2
    form = "text"                # TRL functions: conversational | text | auto (as the prompt is)
    text = "plain"               # TRL functions: final | plain | raw
    group = false                # TRL functions: true = called with all answers to a prompt at once
    nan = "skip"                 # a NaN reward: skip the part, or mask the sample
    stop_properly = 0.0          # this part's reward of a truncated response, times this

    [overlong]                   # on the sum; the same as a part's own:  overlong = { max_tokens = …, … }
    max_tokens = 3072            # the default is $RFT_GENERATE_MAX_LEN; or max_chars, buffer_chars
    buffer_tokens = 512
    factor = 0.5
    tokenizer = "models/20b"     # the default is $RFT_TOKENIZER

    [stop_properly]
    coef = 0.0

Every mistake is one RftError that names the file, the key and the value. `check` runs no reward file.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rft.errors import RftError
from rft.rewards import plugin, trl_adapter
from rft.rewards.compose import OWN_NAMES, Composition, Part
from rft.rewards.plugin import Reward
from rft.rewards.shaping import TOKENIZER_VARIABLE, Overlong, Shaping, limit_from

Coefficient = Annotated[float, Field(ge=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Overlong(_Table):
    max_tokens: int | None = Field(None, gt=0)
    buffer_tokens: int | None = Field(None, gt=0)
    max_chars: int | None = Field(None, gt=0)
    buffer_chars: int | None = Field(None, gt=0)
    factor: float = Field(1.0, ge=0)
    tokenizer: str | None = None

    @model_validator(mode="after")
    def _one_unit(self):
        tokens, chars = (self.max_tokens, self.buffer_tokens), (self.max_chars, self.buffer_chars)
        if any(tokens) and any(chars):
            raise ValueError("counts tokens and characters; give one unit")
        if not self.buffer_tokens and not all(chars):
            raise ValueError("needs buffer_tokens (and max_tokens), or buffer_chars and max_chars")
        return self


class _StopProperly(_Table):
    coef: Coefficient


class _Part(_Table):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    file: str | None = None
    builtin: str | None = None
    function: str | None = None
    weight: float = 1.0
    nan: Literal["mask", "skip"] | None = None
    overlong: _Overlong | None = None
    stop_properly: Coefficient | None = None
    form: Literal["auto", "conversational", "text"] = "auto"
    text: Literal["final", "plain", "raw"] = "final"
    group: bool = False

    @model_validator(mode="after")
    def _one_source(self):
        if (self.file is None) == (self.builtin is None):
            raise ValueError("needs either file or builtin")
        if self.builtin is not None and self.builtin not in plugin.BUILTIN:
            raise ValueError(f"builtin {self.builtin!r} is none of {', '.join(plugin.BUILTIN)}")
        if self.name in OWN_NAMES:
            raise ValueError(f"name {self.name!r} is taken by length shaping")
        return self


class _File(_Table):
    part: list[_Part] = Field(min_length=1)
    overlong: _Overlong | None = None
    stop_properly: _StopProperly | None = None


def read(path: Path) -> Composition:
    """The composition with its reward files and tokenizers loaded."""
    table = _table(path)
    parts = []
    for one in table.part:
        shaping = Shaping(_overlong(one.overlong, path, one.name, os.environ), one.stop_properly)
        skip = None if one.nan is None else one.nan == "skip"
        parts.append(Part(one.name, _reward(one, path), one.weight, skip, shaping))
    coefficient = table.stop_properly.coef if table.stop_properly else None
    total = Shaping(_overlong(table.overlong, path, "", os.environ), coefficient)
    for shaping in (total, *(part.shaping for part in parts)):
        if shaping.overlong is not None:
            shaping.overlong.length("")  # a tokenizer that cannot be loaded is an error now, not after a rollout
    return Composition(parts, total)


def check(path: Path, env: Mapping[str, str]) -> None:
    """Everything about the file that can be known without running what it names; env: the run's variables."""
    table = _table(path)
    for one in table.part:
        source, named = _source(one, path, env)
        _kind(one, path, not named and plugin.defines_plugin(source))
        _overlong(one.overlong, path, one.name, env)
    _overlong(table.overlong, path, "", env)


def sources(path: Path) -> list[str]:
    """What each part names: a file, or the name of a reward that comes with the project."""
    return [one.builtin or one.file or "" for one in _table(path).part]


def _reward(one: _Part, path: Path) -> Reward:
    source, named = _source(one, path, os.environ)
    module = plugin.import_file(source)
    if _kind(one, path, not named and plugin.is_plugin(module)):
        return Reward(one.name, module.reward_func, getattr(module, "finish_group", None))
    functions = trl_adapter.functions(module, named)
    if len(functions) > 1:
        remedy = f"give each a part with function = … ({', '.join(functions)})"
        raise RftError(f"{path}: part {one.name}: {source.name} has {len(functions)} TRL functions; {remedy}")
    (function,) = functions.values()
    return trl_adapter.as_reward(function, one.name, one.form, one.text, one.group)


def _source(one: _Part, path: Path, env: Mapping[str, str]) -> tuple[Path, tuple[str, ...]]:
    """The python file of a part, checked, and the function it names, if it does."""
    name, named = plugin.split(one.file if one.file is not None else plugin.BUILTIN[one.builtin])
    if not name.endswith(".py"):
        raise RftError(f"{path}: part {one.name}: file {name!r} is no .py file; compositions do not nest")
    if named and one.function:
        raise RftError(f"{path}: part {one.name}: names a function twice ({one.file}, {one.function}); keep one")
    try:
        source, named = plugin.find(name, path.absolute().parent), named or ((one.function,) if one.function else ())
        plugin.check(source, named, env)
        return source, named
    except RftError as err:
        raise RftError(f"{path}: part {one.name}: {err}") from err


def _kind(one: _Part, path: Path, is_plugin: bool) -> bool:
    """is_plugin, after refusing options that a plug-in has no use for."""
    idle = {"form", "text", "group"} & one.model_fields_set
    if is_plugin and idle:
        raise RftError(f"{path}: part {one.name}: {min(idle)} is for TRL functions; leave it out")
    return is_plugin


def _overlong(table: _Overlong | None, path: Path, part: str, env: Mapping[str, str]) -> Overlong | None:
    if table is None:
        return None
    try:
        if table.buffer_chars:
            return Overlong(table.max_chars, table.buffer_chars, table.factor)
        tokenizer = table.tokenizer or env.get(TOKENIZER_VARIABLE)
        if not tokenizer:
            remedy = f"set {TOKENIZER_VARIABLE} or tokenizer, or count characters (max_chars, buffer_chars)"
            raise RftError(f"overlong: no tokenizer to count with; {remedy}")
        for folder in (path.absolute().parent, plugin.REPO):
            if (folder / tokenizer).exists():
                tokenizer = str(folder / tokenizer)
        return Overlong(table.max_tokens or limit_from(env), table.buffer_tokens, table.factor, tokenizer)
    except RftError as err:
        raise RftError(f"{path}: {f'part {part}: ' if part else ''}{err}") from err


def _table(path: Path) -> _File:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise RftError(f"{path}: no readable TOML ({plugin.one_line(err)}); mend the file") from err
    try:
        table = _File.model_validate(raw)
    except ValidationError as err:
        raise RftError(f"{path}: {_complaint(err.errors()[0])}; mend the file") from err
    names = [one.name for one in table.part]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise RftError(f"{path}: two parts are called {double!r}; give each a name of its own")
    return table


def _complaint(error: dict) -> str:
    """``part 2: weight: Input should be a valid number (found 'x')``."""
    place = [f"{key + 1}" if isinstance(key, int) else key for key in error["loc"]]
    where = ".".join(place) or "file"
    if error["type"] == "extra_forbidden":
        model = {"part": _Part, "overlong": _Overlong, "stop_properly": _StopProperly}.get(place[0], _File)
        model = _Overlong if "overlong" in place[1:-1] else model if len(place) > 1 else _File
        near = difflib.get_close_matches(place[-1], model.model_fields, n=1)
        return f"unknown key {where}{f' (did you mean {near[0]}?)' if near else ''}"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if isinstance(error["input"], dict) else f" (found {error['input']!r:.80})"
    return f"{where}: {message}{found}"
