"""vLLM's asynchronous engine in a process of ours, without Ray: one start for every set, mode and adapter of a model.

Adapters go the way of training: rft.engine_plugin attaches them, rft.engine_host hands a frame to every tensor-parallel
rank, each answers with a digest of what it then holds, and the prefix cache is reset. The base alone is an adapter of
zeros, which adds nothing, bit for bit.

All requests of a call are submitted at once, one task each, so that the scheduler always has a full queue; vLLM does
not detokenise (rft/evals/work.py does, beside it). One event loop.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from rft.errors import RftError
from rft.evals import adapters
from rft.evals.engine import PROGRAM, Answer, Request
from rft.provenance import gpus

# What the tiny run sets: one thread a rank, no compilation that would hold up the first batch.
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}


class VllmEngine:
    """See `rft.evals.engine.Engine`."""

    def __init__(self, llm, host, shape: adapters.Shape | None, tp_size: int):
        self.llm, self.host, self.shape, self.tp_size = llm, host, shape, tp_size
        self.version = 0

    async def serve(self, adapter: adapters.Adapter | None) -> None:
        if self.shape is None:
            if adapter is not None:
                raise RftError(f"{adapter.path}: this engine was started without an adapter's shape")
            return
        self.version += 1
        config = self.llm.model_config.hf_text_config
        frame, wanted = adapters.frame(adapter, self.shape, config, self.tp_size, self.version)
        try:
            answer = await self.host.update(frame)
        except Exception as err:
            raise RftError(
                f"{_name(adapter)}: the engine did not take it ({_cause(err)}); nothing was generated with it"
            ) from err
        held = {rank["rank"]: rank["digest"] for rank in answer["ranks"]}
        if held != dict(enumerate(wanted)) or answer["prefix_cache_reset"] is not True:
            raise RftError(f"{_name(adapter)}: the engine's ranks hold something else; nothing was generated with it")

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Answer]:
        for together in batches(requests, cpu=not gpus()):
            async with contextlib.aclosing(self._together(together)) as answers:
                async for answer in answers:
                    yield answer

    async def _together(self, requests: Sequence[Request]) -> AsyncIterator[Answer]:
        done: asyncio.Queue = asyncio.Queue()
        tasks = [asyncio.create_task(self._one(number, request, done)) for number, request in enumerate(requests)]
        try:
            for _ in tasks:
                answer = await done.get()
                if isinstance(answer, Exception):
                    raise RftError(
                        f"the engine died or refused a request ({_cause(answer)}); finished samples are kept, give the "
                        "same command again to go on"
                    ) from answer
                yield answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int, request: Request, done: asyncio.Queue) -> None:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=request.max_tokens,
            min_tokens=1,
            seed=request.seed,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = TokensPrompt(prompt_token_ids=list(request.token_ids))
        try:
            last = None
            async for output in self.llm.generate(prompt, params, request_id=f"{self.version}-{number}"):
                last = output.outputs[0]
            await done.put(Answer(request, list(last.token_ids), last.finish_reason))
        except asyncio.CancelledError:
            raise
        except Exception as err:  # whatever vLLM raises is the caller's to report, once
            await done.put(err)

    async def close(self) -> None:
        self.llm.shutdown()


def batches(requests: Sequence[Request], cpu: bool) -> list[Sequence[Request]]:
    """What may be in the engine at the same time: everything, but on a CPU seeded requests by themselves.

    vLLM 0.15.1's CPU sampler forgets all seeds of a batch in which one request has none (``forward_cpu`` of
    v1/sample/ops/topk_topp_sampler.py), and greedy ones have none.
    """
    if not cpu:
        return [requests]
    kinds = [[r for r in requests if r.seed is not None], [r for r in requests if r.seed is None]]
    return [kind for kind in kinds if kind]


async def start(
    folder: Path,
    shape: adapters.Shape | None,
    lora_apply: str,
    tp_size: int,
    max_model_len: int,
    memory: float,
    eager: bool,
    verbose: bool,
) -> VllmEngine:
    """Loads the model; the caller closes the engine.

    folder         rft/evals/models.py's `engine_folder`
    shape          of the adapters it will serve, None for none; lora_apply: sidepath or merge
    max_model_len  tokens of the longest prompt and answer together
    memory         share of a GPU's memory
    raises         RftError: it does not start; vLLM's own lines stand above (verbose: all of them)
    """
    cpu = not gpus()
    for key, value in CPU_ENVIRONMENT.items() if cpu else ():
        os.environ.setdefault(key, value)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if verbose else "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ[PROGRAM] = str(os.getpid())
    import vllm
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    from rft import rollout_seed
    from rft.engine_host import EngineHost
    from rft.engine_plugin import engine_config

    extra = engine_config(shape.rank, shape.alpha, lora_apply) if shape else {}
    options = {"dtype": "bfloat16", "enforce_eager": cpu or eager, "gpu_memory_utilization": memory}
    try:
        arguments = vllm.AsyncEngineArgs(
            model=str(folder),
            tensor_parallel_size=tp_size,
            max_model_len=max_model_len,
            additional_config=extra,
            worker_extension_cls="rft.evals.worker.EvalWorker",
            disable_log_stats=True,
            enable_log_requests=False,
            use_tqdm_on_load=verbose,
            **options,
            **rollout_seed.engine_options(),
        )
        with _children_print_to_stderr():
            # Its own context would run 128 requests at a time; that of offline generation 256, on an H100 1,024.
            llm = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    except Exception as err:
        raise RftError(
            f"{folder}: the engine did not start ({_cause(err)}); see above, or again with --verbose"
        ) from err
    return VllmEngine(llm, EngineHost(llm, extra), shape, tp_size)


@contextlib.contextmanager
def _children_print_to_stderr() -> Iterator[None]:
    """Processes that are started here have stderr as their stdout: Gloo prints there, and ours is for results."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)


def version() -> str:
    """``vllm 0.15.1``: of the installed package, without importing it."""
    import importlib.metadata

    return f"vllm {importlib.metadata.version('vllm')}"


def _name(adapter: adapters.Adapter | None) -> str:
    return "base model" if adapter is None else str(adapter.path)


def _cause(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
