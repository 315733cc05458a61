"""All checks of one launch: run, shown as one table or JSON, kept for run.json, and turned into a refusal."""

import json
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

from rft.errors import RftError
from rft.preflight.result import FAIL, SKIPPED, WARN, Result, Subject
from rft.preflight.table import CHECKS, LATER, NAMES, QUICK, SLOW_GROUPS, in_group, run_group
from rft.preflight.workers import Worker

LEFT_OUT = Result(SKIPPED, "left out by --skip")


@dataclass(frozen=True)
class Report:
    """results: by name, in the table's order; skip: names that --skip left out; seconds: the whole took."""

    results: dict[str, Result]
    skip: tuple[str, ...]
    seconds: float

    def of(self, verdict: str) -> dict[str, Result]:
        return {name: result for name, result in self.results.items() if result.verdict == verdict}

    @property
    def passed(self) -> bool:
        return not self.of(FAIL)

    def require(self) -> None:
        """raises  RftError: the first failure's line, and the names of the others"""
        failed = self.of(FAIL)
        if failed:
            first, *others = failed
            more = f" (so do: {', '.join(others)}; --preflight shows the table)" if others else ""
            raise RftError(f"{failed[first].error}{more}")

    def record(self) -> dict:
        """For run.json and --json."""
        rows = [
            {"check": name, "value": one.value, "verdict": one.verdict, "remedy": one.remedy}
            for name, one in self.results.items()
        ]
        return {"passed": self.passed, "skip": list(self.skip), "seconds": round(self.seconds, 1), "checks": rows}

    def json(self) -> str:
        return json.dumps(self.record(), ensure_ascii=False)

    def summary(self) -> str:
        """One line, and one for each warning."""
        counts = {word: len(self.of(word)) for word in ("ok", WARN, FAIL, SKIPPED)}
        names = {"ok": "ok", WARN: "to look at", FAIL: "failed", SKIPPED: "not applicable"}
        counts[SKIPPED] -= len(self.skip)
        said = ", ".join(f"{count} {names[word]}" for word, count in counts.items() if count > 0)
        left_out = f"; left out: {', '.join(self.skip)}" if self.skip else ""
        lines = [f"preflight: {said}{left_out} ({self.seconds:.0f} s)"]
        lines += [f"  {name}: {one.value}; {one.remedy}" for name, one in self.of(WARN).items()]
        return "\n".join(lines)

    def print_table(self) -> None:
        from rich.console import Console
        from rich.table import Table

        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=160)
        table = Table("check", "value", "verdict", "remedy", box=None, pad_edge=False)
        colours = {FAIL: "red", WARN: "yellow", SKIPPED: "dim"}
        for name, one in self.results.items():
            # Text that users wrote may hold brackets, which rich would read as markup.
            table.add_row(
                name, _plain(one.value), _plain(one.verdict), _plain(one.remedy), style=colours.get(one.verdict)
            )
        console.print(table)
        console.print(self.summary().partition("\n")[0], markup=False)


def _plain(text: str):
    from rich.text import Text

    return Text(text, overflow="fold")


def names_to_skip(given: Sequence[str]) -> tuple[str, ...]:
    """Names of --skip (repeated or with commas), each once and in the table's order.

    raises  RftError for a name that is none
    """
    wanted = [name for item in given for name in item.split(",") if name]
    unknown = next((name for name in wanted if name not in NAMES), None)
    if unknown is not None:
        raise RftError(f"--skip {unknown}: no such check; the checks are: {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in wanted)


def check(subject: Subject, skip: Collection[str] = (), thorough: bool = False) -> Report:
    """Runs the checks. Reads only.

    thorough  the slow ones too where a quick one has failed already; a launch that is refused anyway leaves them out
    """
    began = time.monotonic()
    with _status():
        found, went_on = _all(subject, skip, thorough)
    found |= dict.fromkeys(skip, LEFT_OUT)
    found |= {name: Result(SKIPPED, "after the first rollout") for name in LATER if went_on and name not in found}
    order = [*(one.name for one in CHECKS), *LATER]
    ordered = {name: found[name] for name in order if name in found}
    return Report(ordered, tuple(name for name in NAMES if name in skip), time.monotonic() - began)


def _status():
    """A line that moves while a terminal waits; nothing elsewhere."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("preflight: imports, tokenizer, prompts, reward …")


def _all(subject: Subject, skip: Collection[str], thorough: bool) -> tuple[dict[str, Result], bool]:
    """(results of what is not left out, whether the slow groups were asked)."""
    found = dict(run_group(QUICK, subject, skip, ()))
    failed = [name for name, result in found.items() if result.verdict == FAIL]
    if failed and not thorough:
        return found, False
    groups = [group for group in SLOW_GROUPS if any(one.name not in skip for one in in_group(group))]
    with ExitStack() as stack:
        for worker in [stack.enter_context(Worker(group, subject, skip, failed)) for group in groups]:
            found |= worker.results()
    return found, True


def alone(subject: Subject, skip: Collection[str], as_json: bool) -> int:
    """Every check, shown on the terminal; exit status 0 where none fails, else 1. Starts and writes nothing."""
    report = check(subject, skip, thorough=True)
    print(report.json()) if as_json else report.print_table()
    return 0 if report.passed else 1
