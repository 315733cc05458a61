"""Sampling seeds that depend on what is sampled, not on what the engine sampled before.

With ``--rollout_seed request`` every response has a seed of its own, derived from the run's seed, the number of the
prompt in the run and the number of the sample. A continued run then draws the same responses as an uninterrupted one,
and neither the number of engines nor the arrival order changes them. Called by the patched sample generator
(controller) and by the engine actor.
"""

import hashlib
from copy import copy


def engine_options() -> dict[str, bool]:
    """Engine arguments that per-request seeds need.

    When vLLM 0.15.1 splits a prompt over two batches it winds the request's generator back by an offset, which a CPU
    generator refuses: the engine dies, now and then, as soon as a batch's prompts exceed 2,048 tokens.
    """
    from vllm.platforms import current_platform

    return {"enable_chunked_prefill": False} if current_platform.is_cpu() else {}


def derive(*parts: int | str) -> int:
    """A 62-bit seed from `parts`; equal parts give equal seeds on every machine."""
    text = "/".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 2


def for_prompt(sampling_params, args, stream: str, ordinal: int):
    """A copy of `sampling_params` seeded for one prompt; unchanged under ``--rollout_seed engine``.

    stream   "train", or the evaluation's name and step: streams never share seeds
    ordinal  number of the prompt in its stream, from 0
    """
    if args.rollout_seed != "request":
        return sampling_params
    seeded = copy(sampling_params)
    seeded.seed = derive(args.seed, stream, ordinal)
    return seeded


def for_sample(sampling_params, index: int):
    """A copy seeded for sample `index` of its prompt; unchanged where the prompt has no seed."""
    if sampling_params.seed is None:
        return sampling_params
    seeded = copy(sampling_params)
    seeded.seed = derive(sampling_params.seed, index)
    return seeded
