"""The flag parser of the installed (patched) ``openrlhf.cli.train_ppo_ray``, without importing torch, ray or vLLM.

Upstream builds its parser and validates its flags inside ``if __name__ == "__main__":``, in a module whose imports take
15 s. Here the installed file is parsed with :mod:`ast`, the statements of that block that come before ``train(args)``
are executed with argparse and datetime alone, and what they leave in ``args`` is returned: the parser that is asked is
the one that will run, patches included, in some 50 ms.

Called by the launcher and by the tests, on the main thread. Every refusal, argparse's own as well as upstream's
validation asserts, is an :class:`rft.errors.RftError`.
"""

import argparse
import ast
import contextlib
import difflib
import importlib.util
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, SimpleNamespace

from rft.errors import RftError

MODULE = "openrlhf.cli.train_ppo_ray"
# A flag that only the patch series adds: its presence tells a patched parser from the pristine one.
PATCHED_FLAG = "--offload"

_UNSET = object()


class _Asked(Exception):
    """Carries the parser out of upstream's block before it parses anything."""


class _Parser(argparse.ArgumentParser):
    """Upstream's parser, fed from a list instead of sys.argv; refusals are RftErrors; remembers what was given."""

    argv: Sequence[str] | None = ()

    def error(self, message: str) -> None:
        raise RftError(f"{message}; see the flags with: python -m {MODULE} --help")

    def parse_args(self, args=None, namespace=None):
        if self.argv is None:
            raise _Asked(self)
        known, unknown = self.parse_known_args(list(self.argv))
        if unknown:
            raise RftError(_unknown_flag(unknown[0], self._option_string_actions))
        return known

    def explicit(self) -> set[str]:
        """Destinations that stand in argv (argparse leaves an attribute alone that the namespace already has)."""
        blank = argparse.Namespace(**{action.dest: _UNSET for action in self._actions})
        known, _ = self.parse_known_args(list(self.argv), blank)
        return {dest for dest, value in vars(known).items() if value is not _UNSET}


def _unknown_flag(token: str, known: Sequence[str]) -> str:
    if not token.startswith("-"):
        return f"unexpected argument {token!r}: no flag takes it; quote it or name its flag"
    flag = token.split("=")[0]
    near = difflib.get_close_matches(flag, list(known), n=1)
    remedy = f"did you mean {near[0]}?" if near else f"see the flags with: python -m {MODULE} --help"
    return f"unknown flag {flag}: {remedy}"


def source_path() -> Path:
    """The installed train_ppo_ray.py; openrlhf itself is not imported."""
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or not spec.submodule_search_locations:
        raise RftError(f"OpenRLHF is not installed in {sys.prefix}: run bash setup.sh")
    path = Path(next(iter(spec.submodule_search_locations))) / "cli" / "train_ppo_ray.py"
    if not path.is_file():
        raise RftError(f"{path} is missing: reinstall with bash setup.sh")
    return path


def _stops_here(node: ast.stmt) -> bool:
    """True for ``train(args)`` and for the ModelScope block: both start real work."""
    calls = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
    return any(isinstance(f, ast.Name) and f.id in ("train", "patch_hub") for f in calls)


def _needed_imports(tree: ast.Module, names: set[str]) -> Iterator[ast.stmt]:
    """Top-level imports of the standard library or of rft that the block uses (a patch may call a seam there)."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            roots = [(node.module or "").split(".")[0]]
        elif isinstance(node, ast.Import):
            roots = [alias.name.split(".")[0] for alias in node.names]
        else:
            continue
        bound = {alias.asname or alias.name.split(".")[0] for alias in node.names} - {"argparse"}
        if bound & names and all(root in sys.stdlib_module_names or root == "rft" for root in roots):
            yield node


def _main_block(path: Path) -> CodeType:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    block = [node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.dump(node.test)]
    if not block:
        raise RftError(f"{path} has no __main__ block: not OpenRLHF 0.9.3? run bash setup.sh")
    body = [node for node in block[-1].body if not _stops_here(node)]
    names = {n.id for node in body for n in ast.walk(node) if isinstance(n, ast.Name)}
    module = ast.Module(body=[*_needed_imports(tree, names), *body], type_ignores=[])
    return compile(module, str(path), "exec")


def _last_line(err: BaseException) -> int:
    trace = err.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_lineno if trace else 0


def _execute(argv: Sequence[str] | None, path: Path | None) -> tuple[argparse.Namespace, _Parser]:
    path = path or source_path()
    made: list[_Parser] = []

    def make_parser(*args, **kwargs) -> _Parser:
        made.append(_Parser(*args, prog=MODULE, **kwargs))
        made[-1].argv = argv
        return made[-1]

    substitute = SimpleNamespace(**{**vars(argparse), "ArgumentParser": make_parser})
    scope = {"__name__": "__main__", "__file__": str(path), "argparse": substitute}
    notes = io.StringIO()
    try:
        with contextlib.redirect_stdout(notes):  # the run itself prints upstream's warnings again
            exec(_main_block(path), scope)  # noqa: S102 - the installed upstream's own code
    except AssertionError as err:
        raise RftError(f"flags refused by OpenRLHF: {err or 'a validation assert failed'}") from err
    except (AttributeError, TypeError) as err:  # upstream's validation trips over a flag that is missing
        where = f"line {_last_line(err)} of {path}"
        raise RftError(f"flags refused by OpenRLHF: {err} ({where}); is a flag missing?") from err
    except SystemExit:
        sys.stdout.write(notes.getvalue())  # --help among the flags
        raise
    return scope["args"], made[0]


def parse(argv: Sequence[str], path: Path | None = None) -> argparse.Namespace:
    """What upstream's parser and its validation make of the flags.

    path: another train_ppo_ray.py than the installed one (tests)
    raises RftError on an unknown flag (with the nearest known one), a bad value or a failed validation
    """
    return _execute(argv, path)[0]


def explicit(argv: Sequence[str], path: Path | None = None) -> set[str]:
    """The destinations (``ckpt_path``, …) that the flags name, as against those that keep upstream's default."""
    return _execute(argv, path)[1].explicit()


def actions(path: Path | None = None) -> dict[str, argparse.Action]:
    """Every flag that the parser knows, by destination, in its order; no arguments are parsed or validated."""
    try:
        _execute(None, path)
    except _Asked as asked:
        return {action.dest: action for action in asked.args[0]._actions if action.dest != "help"}
    raise RftError(f"{path or source_path()} parses no arguments: not OpenRLHF 0.9.3? run bash setup.sh")


def is_patched(path: Path | None = None) -> bool:
    """Does the parser know the flags of the patch series? False also where OpenRLHF is not installed."""
    try:
        return PATCHED_FLAG in (path or source_path()).read_text(encoding="utf-8")
    except RftError:
        return False
