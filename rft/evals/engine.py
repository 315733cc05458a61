"""The seam between evaluation and what generates: requests in, samples out, in whatever order they finish.

Its one real implementation is rft/evals/vllm_engine.py. Everything else of this package runs without an engine, on
samples from wherever. Standard library only.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

PROGRAM = "RFT_EVALS_PROGRAM"  # environment of an engine's processes: the pid of the program that they work for


@dataclass(frozen=True)
class Request:
    """One response to sample. job: which result it belongs to; seed: None at T 0."""

    job: int
    problem: str
    number: int
    token_ids: tuple[int, ...]
    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None


@dataclass(frozen=True)
class Answer:
    """The sampled ids of a request (a closing end token included), and why it ended: stop or length."""

    request: Request
    token_ids: list[int]
    finish: str


class Engine(Protocol):
    """One model, loaded once. One caller, in one event loop."""

    async def serve(self, adapter) -> None:
        """Requests from here on use this adapter (rft/evals/adapters.py); None: the base alone.

        raises  RftError: a rank does not hold what it was given
        """

    def generate(self, requests: Sequence[Request]) -> AsyncIterator[Answer]:
        """All `requests`, submitted at once.

        raises  RftError: the engine died; what came before stays valid
        """

    async def close(self) -> None:
        """Ends its processes; safe to call twice."""
