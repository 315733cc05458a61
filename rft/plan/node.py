"""All pools of a planned run: actor GPUs, engine GPUs (or the one that they share), the host, the disk.

Bytes; pure arithmetic on a `Setting`. The host is one pool: all processes of the node together.
"""

from dataclasses import dataclass, field

from rft.plan import actor, engine
from rft.plan import constants as c
from rft.plan.geometry import BF16, FP32
from rft.plan.setting import Setting
from rft.plan.terms import Pool, Term

GIB = 1 << 30


@dataclass
class Plan:
    """What `plan` found. pools: GPUs first, the host last; disk: bytes by what they are for; notes: what to know."""

    setting: Setting
    pools: list[Pool]
    disk: dict[str, int]
    notes: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return all(pool.fits for pool in self.pools)

    @property
    def worst(self) -> Pool:
        """The pool that exceeds its limit most, or comes nearest to it."""
        bounded = [pool for pool in self.pools if pool.limit]
        return max(bounded or self.pools, key=lambda pool: pool.peak / (pool.limit or 1))


def shared_gpu(s: Setting) -> Pool:
    """One GPU for an actor rank and an engine rank: what is there while one works is the other's idle share."""
    pool = actor.gpu(s)
    pool.name = f"shared GPU (1 of {max(s.ranks, s.engines * s.tensor_parallel)})"
    awake = [*engine.fixed_terms(s), Term("KV cache", engine.cache(s).bytes)]
    if not s.sleeps:
        pool.add(*awake)
        return pool
    for moment, terms in list(pool.moments.items()):
        pool.at(moment, *terms, *engine.asleep_terms(s))
    pool.at("rollout", *awake)
    return pool


def host(s: Setting) -> Pool:
    """Every process of the node. On a GPU machine an engine's weights pass through the page cache, which gives way."""
    always, loading = actor.host_terms(s)
    extra = 0 if s.cpu else c.RANK_GPU_HOST_BYTES
    processes = s.engines * (s.tensor_parallel + 1)
    pool = Pool("host", limit=s.host_bytes)
    pool.add(*always, Term("engine processes", processes * (c.ENGINE_BASE_BYTES + extra), basis="assumed"))
    pool.add(Term("Ray, trainer, launcher", c.OTHER_BASE_BYTES, basis="assumed"))
    pool.add(Term("adapter transport", 3 * BF16 * s.adapter_parameters))
    if s.sleeps:
        pool.add(Term("weights of sleeping engines", s.engines * s.tensor_parallel * engine.weight_bytes(s)))
    if s.cpu:
        pool.add(Term("engine weights", s.engines * s.tensor_parallel * engine.weight_bytes(s)))
        held = s.ranks * (0 if s.offload else actor.weights_held(s))
        pool.add(Term("base weights", held), Term("adapter and gradients", 2 * BF16 * s.adapter_parameters * s.ranks))
        for moment, terms in actor.gpu(s).moments.items():
            if moment != "deepspeed.initialize":
                pool.at(moment, *[Term(t.name, s.ranks * t.bytes, t.block, t.basis) for t in terms])
    rows = s.answers * (s.tokens * (2 * 8 + 4 * FP32))
    pool.at("experiences of a rollout", Term("experiences", rows))
    pool.at("loading", *loading)
    return pool


def disk(s: Setting) -> dict[str, int]:
    """One checkpoint by part, those that are kept (one more is there while the next is written), the model's files."""
    adapter = BF16 * s.adapter_parameters
    resume = c.RESUME_BYTES_PER_PARAMETER * s.adapter_parameters
    one = adapter + resume + c.TOKENIZER_BYTES
    return {
        "adapter": adapter,
        "resume state": resume,
        "tokenizer": c.TOKENIZER_BYTES,
        "one checkpoint": one,
        "checkpoints kept": (s.max_ckpt_num + 1) * one,
        "model files": s.geometry.mxfp4_bytes,
    }


def plan(s: Setting) -> Plan:
    """Every pool of the setting, with notes on what fits but hurts."""
    notes = []
    if s.cpu:
        pools = [host(s)]
    elif s.colocated:
        pools = [shared_gpu(s), host(s)]
    else:
        pools = [actor.gpu(s), *([engine.gpu(s)] if s.engines else []), host(s)]
    if s.engines and not s.cpu:
        room = engine.cache(s)
        if 0 < room.sequences < room.wanted:
            notes.append(f"an engine has room for {room.sequences:.0f} of its {room.wanted:.0f} answers at full length")
    if s.host_bytes is None:
        notes.append("host memory is not judged: give --host_gib")
    return Plan(s, pools, disk(s), notes)
