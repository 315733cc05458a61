"""Fills results: what is missing on disk is generated, decoded, graded and appended, as it comes.

The event loop only submits requests and takes finished ones. A thread beside it decodes, grades, writes and moves the
bar, so that the engine never waits for a slow comparison or a slow disk. A `Job` is one result: one model or adapter,
one set, one mode.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rft import rollout_seed
from rft.errors import RftError
from rft.evals import grade
from rft.evals.adapters import Adapter
from rft.evals.engine import Answer, Engine, Request
from rft.evals.modes import Mode
from rft.evals.prompts import Rendered
from rft.evals.records import Samples
from rft.evals.sets import EvalSet


@dataclass
class Job:
    """One result in the making. adapter: None is the base."""

    name: str
    adapter: Adapter | None
    set: EvalSet
    mode: Mode
    prompts: Rendered
    samples: Samples
    max_tokens: int
    seed: int
    missing: list[tuple[str, int]] = field(default_factory=list)

    def find_missing(self) -> None:
        wanted = ((p.id, number) for p in self.set.problems for number in range(self.mode.n))
        self.missing = [key for key in wanted if key not in self.samples.have]

    def requests(self, number: int) -> list[Request]:
        """What is missing, as requests of job `number`."""
        return [self._request(number, *key) for key in self.missing]

    def _request(self, job: int, problem: str, sample: int) -> Request:
        mode, seed = self.mode, None
        if mode.temperature > 0:  # as training's evaluation draws: by mode, place in the set and number of the answer
            prompt_seed = rollout_seed.derive(self.seed, f"eval-{mode.name}", self.set.by_id[problem].index)
            seed = rollout_seed.derive(prompt_seed, sample)
        ids = self.prompts.token_ids[problem]
        return Request(job, problem, sample, ids, mode.temperature, mode.top_p, self.max_tokens, seed)


class Writer:
    """The thread that turns answers into records; used as a context manager. `put` never blocks.

    decode  token ids -> text, special tokens kept
    seen    called in the thread after each record, with the job's number and the record
    """

    def __init__(self, jobs: Sequence[Job], decode: Callable, seen: Callable[[int, dict], None]):
        self.jobs, self.decode, self.seen = jobs, decode, seen
        self.error: BaseException | None = None
        self._queue: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="evals-writer", daemon=True)

    def put(self, answer: Answer) -> None:
        """raises  what the thread failed with: there is no point in generating on"""
        if self.error is not None:
            raise self.error
        self._queue.put(answer)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._queue.put(None)
        self._thread.join()  # what was generated before an interruption is written all the same
        for job in self.jobs:
            job.samples.sync()
        if self.error is not None and error is None:
            raise self.error

    def _run(self) -> None:
        try:
            while (answer := self._queue.get()) is not None:
                record = self._record(answer)
                self.jobs[answer.request.job].samples.append(record)
                self.seen(answer.request.job, record)
        except BaseException as err:
            self.error = err

    def _record(self, answer: Answer) -> dict:
        request = answer.request
        job = self.jobs[request.job]
        problem, text = job.set.by_id[request.problem], self.decode(answer.token_ids)
        return {
            "problem": problem.id,
            "index": problem.index,
            "sample": request.number,
            "response": text,
            "tokens": len(answer.token_ids),
            "finish": answer.finish,
            "grader": grade.version(),
            **grade.grade(text, problem.label, job.prompts.texts[problem.id], answer.finish),
        }


async def fill(engine: Engine, jobs: Sequence[Job], writer: Writer) -> None:
    """Generates what `jobs` miss: adapter by adapter, and of each one all sets and modes at once.

    jobs    `writer`'s own, in its order
    raises  RftError: the engine or the disk failed; everything written is kept
    """
    by_adapter: dict[str | None, list[int]] = {}
    for number, job in enumerate(jobs):
        if job.missing:
            by_adapter.setdefault(job.adapter.digest if job.adapter else None, []).append(number)
    for numbers in by_adapter.values():
        await engine.serve(jobs[numbers[0]].adapter)
        requests = [request for number in numbers for request in jobs[number].requests(number)]
        async with contextlib.aclosing(engine.generate(requests)) as answers:
            async for answer in answers:
                if answer.finish not in ("stop", "length"):
                    raise RftError(f"a request ended by {answer.finish!r}; finished samples are kept, start it again")
                writer.put(answer)


def run(
    start: Callable,
    jobs: Sequence[Job],
    decode: Callable,
    seen: Callable[[int, dict], None],
    begun: Callable[[], None] = lambda: None,
) -> None:
    """`fill` with an engine of its own, which is closed whatever happens; no engine if nothing is missing.

    start  coroutine function that returns an Engine; begun: called once it is there, before the first request
    """
    if not any(job.missing for job in jobs):
        return

    async def whole() -> None:
        engine = await start()
        try:
            begun()
            with Writer(jobs, decode, seen) as writer:
                await fill(engine, jobs, writer)
        finally:
            await engine.close()

    asyncio.run(whole())
