"""Memory of one rollout engine's GPU: MXFP4 weights, activations, CUDA graphs, adapter buffers, the KV cache.

vLLM takes `utilisation` of the GPU and gives the KV cache what the rest leaves; it refuses to start where not even one
sequence of full length has room. Bytes, per tensor-parallel rank; pure arithmetic on a `Setting`.
"""

from dataclasses import dataclass

from rft.plan import constants as c
from rft.plan.geometry import BF16, FP32
from rft.plan.setting import Setting
from rft.plan.terms import Pool, Term, total


@dataclass(frozen=True)
class Cache:
    """`bytes` for KV a rank; `sequences` of full length that have room at once; `wanted`: what one engine is sent."""

    bytes: int
    sequences: float
    wanted: float


def weight_bytes(s: Setting) -> int:
    """One rank's share: MXFP4 experts with their intermediate size rounded up, the rest bf16. On a CPU bf16 alone."""
    g, tp = s.geometry, s.tensor_parallel
    if s.cpu:
        return -(-g.bf16_bytes // tp)
    share = -(-g.intermediate // tp)
    padded = -(-share // c.ENGINE_PADDING) * c.ENGINE_PADDING
    experts = g.layers * (g.experts_module_bytes("resident"))
    dense = g.mxfp4_bytes - experts
    return -(-dense // tp) + experts * padded // g.intermediate


def fixed_terms(s: Setting) -> list[Term]:
    """Everything but the KV cache."""
    g, tp = s.geometry, s.tensor_parallel
    batched = min(c.ENGINE_BATCHED_TOK, max(s.tokens, c.ENGINE_SEQUENCES))
    layer = batched * (4 * g.hidden + 2 * (g.q + 2 * g.kv) // tp + g.top_k * (3 * g.intermediate // tp + g.hidden))
    logits = c.ENGINE_SEQUENCES * g.vocabulary * (BF16 + FP32)
    terms = [
        Term("engine weights", weight_bytes(s)),
        Term("engine activations", BF16 * layer + logits, basis="read"),
        Term("engine context, NCCL", c.GPU_CONTEXT_BYTES, basis="assumed"),
        Term("adapter buffers", BF16 * s.adapter_parameters),
    ]
    if s.merged_lora:
        terms.append(Term("pristine attention weights", BF16 * g.attention_weights // tp))
    if not s.enforce_eager:
        terms.append(Term("CUDA graphs", c.CUDA_GRAPH_BYTES, basis="assumed"))
    return terms


def budget(s: Setting) -> int:
    return int(s.utilisation * s.gpu_bytes)


def cache(s: Setting) -> Cache:
    """Room for keys and values; kv heads are shared out over the ranks, one each at the least."""
    share = max(1, s.geometry.kv_heads // s.tensor_parallel) / s.geometry.kv_heads
    one = s.geometry.kv_bytes(s.tokens) * share
    left = budget(s) - total(fixed_terms(s))
    return Cache(max(left, int(one)), max(0, left) / one, s.answers / s.engines)


def gpu(s: Setting) -> Pool:
    """The GPU of one tensor-parallel rank; limit: vLLM's share of it."""
    pool = Pool(f"engine GPU (1 of {s.engines * s.tensor_parallel})", limit=budget(s))
    pool.count = s.engines * s.tensor_parallel
    pool.add(*fixed_terms(s), Term("KV cache", cache(s).bytes))
    return pool


def asleep_terms(s: Setting) -> list[Term]:
    """What a sleeping engine leaves on the GPU: context and graphs. Weights go to the host, the cache is dropped."""
    keep = ("engine context, NCCL", "CUDA graphs", "adapter buffers")
    return [term for term in fixed_terms(s) if term.name in keep]
