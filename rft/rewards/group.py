"""What becomes of rewards between the plug-in and the trainer: the worker threads, and the hook for whole groups.

Called by the patched ``LLMRayActor.generate_responses`` in an engine's process, on its event loop. OpenRLHF scores each
answer by itself; a plug-in that must treat all answers to one prompt alike (one judge model for a group, exact match
for all of them when it fails) also exports ``finish_group(results) -> results``.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from rft.errors import RftError

#: Rewards at once in one engine process. They wait for a judge or a sandbox; asyncio's own pool has six on two cores.
THREADS = 128
LIMIT_S = 1800.0  # RFT_REWARD_S: a reward that has not returned by then is an error, not a wait without end
FIGURES = ("rewards", "scores", "extra_logs")


@cache
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="reward")


async def in_thread(function, *args):
    """`function(*args)` in a reward thread. raises TimeoutError past $RFT_REWARD_S"""
    limit = float(os.environ.get("RFT_REWARD_S") or LIMIT_S)
    future = asyncio.get_running_loop().run_in_executor(pool(), function, *args)
    try:
        return await asyncio.wait_for(future, limit)
    except TimeoutError:
        if future.cancelled():
            raise TimeoutError(f"no result after {limit:.0f} s (RFT_REWARD_S)") from None
        raise  # the reward's own


async def finish(executor, outputs: list[dict]) -> list[dict]:
    """`outputs` of one prompt's answers with the figures that the plug-in's ``finish_group`` settles on.

    executor  the patched ``SingleTurnAgentExecutor``; one without a ``finish_group`` leaves everything as it is
    outputs   its results, each with ``query`` (prompt and answer, special tokens kept), which is taken out
    raises    RftError if the hook fails or returns other than one result for each answer
    """
    queries = [output.pop("query", "") for output in outputs]
    hook = getattr(executor, "finish_group", None)
    if hook is None:
        return outputs
    results = [
        {
            "prompt": output["prompt"],
            "label": output["label"],
            "query": query,
            "rewards": output["reward"],
            "scores": output["scores"],
            "extra_logs": output["extra_logs"],
        }
        for output, query in zip(outputs, queries, strict=True)
    ]
    name = executor.reward_endpoints[0]
    try:
        settled = await in_thread(hook, results)
        if len(settled) != len(outputs) or not all(key in result for result in settled for key in FIGURES):
            raise ValueError(
                f"finish_group returned {len(settled)} results for {len(outputs)} answers, or not whole ones"
            )
    except Exception as error:
        raise RftError(f"reward {name} failed on the group of label {outputs[0]['label']!r}: {error!r}") from error
    for output, result in zip(outputs, settled, strict=True):
        output["reward"], output["scores"], output["extra_logs"] = (result[key] for key in FIGURES)
    return outputs
