"""Memory of one actor rank: on its GPU, and what it keeps on the host.

Weights, ZeRO-3's gathers, activations, logits, LoRA and its optimizer, at the moments when they are there together:
loading, ``deepspeed.initialize``, scoring, training. Bytes; pure arithmetic on a `Setting`.

Without ``--stream_load`` each rank reads a whole bf16 copy on the host, and ``deepspeed.initialize``
moves all of it to the GPU before it cuts it up (runtime/engine.py: ``self.module.to(self.device)`` unless the model
was partitioned while it was built). With it (`rft.loading`) a rank reads its slice only.
"""

from rft.plan import constants as c
from rft.plan.activations import score_moments, train_moments
from rft.plan.geometry import BF16, FP32
from rft.plan.setting import Setting
from rft.plan.terms import Pool, Term, total


def weights_held(s: Setting) -> int:
    """Base weights that one rank holds, on the GPU or, with --offload, on the host."""
    return -(-s.model_bytes // s.ranks) if s.partitioned else s.model_bytes


def gathered(s: Setting, training: bool = True) -> list[Term]:
    """Weights that are there whole while a layer computes.

    ZeRO-3 gathers a module into one flat buffer, of which each parameter is copied out. In training it also keeps up to
    MAX_LIVE_PARAMETERS that it will need again and fetches ahead; a pass without gradients in between breaks the trace
    that this goes by, so that scoring drops each module at once. uint8 blocks count two weights as one element.
    """
    module = s.geometry.experts_module_bytes(s.experts)
    if s.partitioned and not training:
        return [Term("gathered weights", module, basis="read"), Term("gather buffer", module, basis="read")]
    if s.partitioned:
        live = min(s.model_bytes, _live_bytes(s) + module)
        ahead = min(s.model_bytes, c.PREFETCH_ELEMENTS * (BF16 if s.experts == "dequantised" else 1))
        return [Term("gathered weights", live, basis="read"), Term("gather buffer", module + ahead, basis="read")]
    if s.offload:
        return [Term("gathered weights", min(s.model_bytes, _live_bytes(s) + module), basis="read")]
    return []


def _live_bytes(s: Setting) -> int:
    """Parameters kept besides the module at work: none where a single module exceeds the limit."""
    size = BF16 if s.experts == "dequantised" else 1
    spare = max(0, c.MAX_LIVE_PARAMETERS - s.geometry.experts_module_bytes(s.experts) // size)
    layer = s.geometry.attention * BF16
    return max(layer, min(spare * size, s.model_bytes)) if s.partitioned else layer


def dequantised_at_once(s: Setting) -> list[Term]:
    """Resident experts: bf16 gate and up weights made from MXFP4 for one product, of some experts at a time."""
    if s.experts != "resident":
        return []
    experts = 1 if s.cpu else min(s.geometry.experts, c.RESIDENT_CHUNK_EXPERTS)
    return [Term("dequantised experts", experts * 2 * s.geometry.hidden * s.geometry.intermediate * BF16)]


def adapter_terms(s: Setting) -> list[Term]:
    """LoRA's bf16 weights and gradients; the slice of its fp32 master weights and Adam moments, if on this device."""
    mine = -(-s.adapter_parameters // s.ranks)
    terms = [Term("adapter and gradients", 2 * BF16 * s.adapter_parameters)]
    if not s.adam_offload or s.cpu:
        terms.append(Term("optimizer", 3 * FP32 * mine))
    return terms


def add_steps(pool: Pool, s: Setting) -> None:
    """The moments of scoring and training: activations and logits with the gathers."""
    score, train = (
        score_moments(s.geometry, s.shape(s.micro_rollout)),
        train_moments(s.geometry, s.shape(s.micro_train)),
    )
    for name, terms in (score | train).items():
        work = [*gathered(s, name in train), *dequantised_at_once(s)]
        slack = [] if s.cpu else [Term("allocator slack", int(c.ALLOCATOR_SLACK * total(terms)), basis="assumed")]
        pool.at(name, *terms, *work, *slack)


def gpu(s: Setting) -> Pool:
    """The GPU of an actor rank; an engine that shares it is not in it."""
    pool = Pool(f"actor GPU (1 of {s.ranks})", limit=s.gpu_bytes, count=s.ranks)
    pool.add(Term("CUDA context, NCCL", c.GPU_CONTEXT_BYTES, basis="assumed"))
    if not s.offload:
        pool.add(Term("base weights", weights_held(s)))
    if s.separate_reference and not s.offload:
        pool.add(Term("reference weights", weights_held(s)))
    pool.add(Term("gradient bucket", BF16 * c.REDUCE_BUCKET_ELEMENTS, basis="read"), *adapter_terms(s))
    if not s.streamed:
        already = 0 if s.offload else weights_held(s)
        pool.at("deepspeed.initialize", Term("whole model, before it is cut up", s.model_bytes - already, basis="read"))
    add_steps(pool, s)
    return pool


def host_terms(s: Setting) -> tuple[list[Term], list[Term]]:
    """(always, while loading) of all ranks of a node together."""
    base = c.RANK_BASE_BYTES + (0 if s.cpu else c.RANK_GPU_HOST_BYTES)
    always = [Term("actor processes", s.ranks * base, basis="assumed")]
    if s.offload:
        always.append(Term("offloaded base weights", s.model_bytes))
    if s.adam_offload:
        always.append(Term("offloaded optimizer", 3 * FP32 * s.adapter_parameters))
    layer = s.geometry.experts_module_bytes("dequantised")
    if not s.streamed:
        already = s.model_bytes if s.offload else 0
        copies = s.ranks * s.model_bytes - already
        return always, [Term("whole copies while loading", copies), Term("a layer being dequantised", s.ranks * layer)]
    return always, [Term("read buffers while loading", s.ranks * layer // max(1, s.geometry.experts))]
