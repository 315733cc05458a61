"""The modes of an evaluation: what is sampled, and the name under which it is reported. No two are ever mixed.

    greedy_pass@1          T 0, n 1: the headline of one checkpoint
    sampling_pass@8        T 0.6, n 8: pass@k, avg@n, maj@n (another n or T where asked for; both stand in the settings)
    nondet_proxy_pass@8    T 0, n 8: what batching alone changes in greedy answers; diagnostics, no measure of quality

Standard library only: ``--help`` reads it.
"""

import re
from dataclasses import dataclass

from rft.errors import RftError

GREEDY, SAMPLING, NONDET = "greedy_pass@1", "sampling_pass", "nondet_proxy_pass"
SAMPLING_T, SEVERAL = 0.6, 8
DEFAULTS = ("greedy_pass@1", "sampling_pass@8", "nondet_proxy_pass@8")
_SHORT = {"greedy": GREEDY, "sampling": f"{SAMPLING}@{SEVERAL}", "nondet": f"{NONDET}@{SEVERAL}"}
_NAME = re.compile(rf"({SAMPLING}|{NONDET})@(\d+)")


@dataclass(frozen=True)
class Mode:
    """name: as reported; temperature >= 0; n answers a problem."""

    name: str
    temperature: float
    n: int
    top_p: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.name == GREEDY

    @property
    def diagnostic(self) -> bool:
        return self.name.startswith(NONDET)


def name(temperature: float, n: int) -> str:
    """The name of what is sampled n times at this temperature."""
    if temperature > 0:
        return f"{SAMPLING}@{n}"
    return GREEDY if n == 1 else f"{NONDET}@{n}"


def parse(text: str, temperature: float | None = None, top_p: float = 1.0) -> Mode:
    """A mode by name or by its first word; `temperature` is that of sampling modes (None: 0.6).

    raises  RftError: no such mode, or a temperature of 0 for a mode that samples
    """
    wanted = _SHORT.get(text, text)
    if wanted == GREEDY:
        return Mode(GREEDY, 0.0, 1)
    match = _NAME.fullmatch(wanted)
    n = int(match[2]) if match else 0
    if n < 1 or (match[1] == NONDET and n < 2):
        raise RftError(f"--mode {text}: no mode; use {', '.join(DEFAULTS)} or another n behind the @")
    if match[1] == NONDET:
        return Mode(wanted, 0.0, n)
    temperature = SAMPLING_T if temperature is None else temperature
    if not 0 < temperature <= 2:
        raise RftError(f"--temperature {temperature}: {wanted} samples, so above 0 and at most 2; for T 0 use {GREEDY}")
    if not 0 < top_p <= 1:
        raise RftError(f"--top_p {top_p}: give a value above 0, at most 1")
    return Mode(wanted, temperature, n, top_p)
