"""The tables that stand in the README and docs/plan.md, printed by ``rft plan --table NAME``: a test compares them.

All figures are computed (no GPU has measured them); `sizes` is exact.
"""

from rft.plan import advice, node, seconds
from rft.plan.geometry import Geometry, find
from rft.plan.render import gb, gib, markdown
from rft.plan.setting import Setting
from rft.plan.terms import Pool, total

INITIALIZE = "deepspeed.initialize"
GATHERED = ("gathered weights", "gather buffer", "dequantised experts")
WORK = ("attention scores", "attention inputs", "expert activations", "layer inputs", "attention masks")

CARDS_GIB = (16, 24, 48, 80)
#: what "stock", "offload" and "resident" stand for: fields of Setting
WAYS = {
    "stock": {"experts": "dequantised", "streamed": False, "offload": False, "adam_offload": False},
    "dequantised + offload": {"experts": "dequantised", "streamed": False, "offload": True, "adam_offload": True},
    "the same, streamed loading": {
        "experts": "dequantised",
        "streamed": True,
        "offload": True,
        "adam_offload": True,
    },
    "resident MXFP4": {"experts": "resident", "streamed": True, "offload": False, "adam_offload": False},
    "resident, sinks_flex, chunked log-probs": {
        "experts": "resident",
        "streamed": True,
        "offload": False,
        "adam_offload": False,
        "attention": "sinks_flex",
        "logprob_chunk_tok": 1024,
    },
}


def sizes() -> str:
    """engine-facts 4: parameters and bytes of both models."""
    models = [find("20b"), find("120b")]

    def row(name: str, of) -> list[str]:
        return [name, *(of(model) for model in models)]

    def lora(rank: int):
        def of(g: Geometry) -> str:
            count = g.lora_parameters(rank)
            return f"{count / 1e6:.2f} M, {2 * count / 1e6:.1f} MB"

        return of

    rows = [
        row("parameters", lambda g: f"{g.parameters / 1e9:.3f} B"),
        row("MXFP4 checkpoint", lambda g: gb(g.mxfp4_bytes)),
        row("bf16", lambda g: f"{g.bf16_bytes / 1e9:.1f} GB"),
        row("attention q, k, v, o, bf16", lambda g: f"{2 * g.attention_weights / 1e9:.3f} GB"),
        row("LoRA r=32: parameters, bf16", lora(32)),
        row("LoRA r=64: parameters, bf16", lora(64)),
        row("KV cache of 4,096 tokens, bf16", lambda g: f"{g.kv_bytes(4096) / 1e6:.0f} MB"),
    ]
    return markdown(["", *(model.name for model in models)], rows)


def _training(pool: Pool) -> Pool:
    """The pool without the moment of ``deepspeed.initialize``."""
    moments = {name: terms for name, terms in pool.moments.items() if name != INITIALIZE}
    return Pool(pool.name, pool.static, moments, pool.limit)


def _part(pool: Pool, *names: str) -> str:
    amount = sum(term.bytes for term in pool.terms() if term.name in names)
    return f"{amount / node.GIB:.1f}"


def ways(s: Setting) -> str:
    """One row a way to hold the actor's weights; GiB of one actor GPU and of the host."""
    columns = ["", "base weights", "gathered, decoded", "attention, experts", "logits", "peak in training"]
    columns += ["peak while starting", f"fits {s.gpu_bytes / node.GIB:.0f} GiB", "host", "seconds a step (estimate)"]
    rows = []
    for name, fields in WAYS.items():
        planned = node.plan(s.changed(**fields))
        gpu, host = planned.pools[0], planned.pools[-1]
        training = _training(gpu)
        parts = [_part(training, "base weights"), _part(training, *GATHERED), _part(training, *WORK)]
        parts += [_part(training, "logits"), f"{training.peak / node.GIB:.1f}"]
        start = total([*gpu.static, *gpu.moments[INITIALIZE]]) if INITIALIZE in gpu.moments else total(gpu.static)
        fits = "yes" if gpu.fits else "no"
        step = f"{seconds.step_s(planned.setting):.0f}" if gpu.fits else "-"
        rows.append([name, *parts, f"{start / node.GIB:.1f}", fits, f"{host.peak / node.GIB:.0f}", step])
    return markdown(columns, rows)


def cards(s: Setting, sizes_gib: tuple[int, ...] = CARDS_GIB) -> str:
    """One GPU for actor and engine: per card and form of the base, whether it fits, and the cheapest change."""
    columns = ["card", "base", "peak", "at", "largest term", "fits", "cheapest change"]
    rows = []
    forms = {
        "resident MXFP4": {"experts": "resident", "streamed": True, "offload": False},
        "bf16, offloaded": {"experts": "dequantised", "streamed": True, "offload": True, "adam_offload": True},
        "bf16": {"experts": "dequantised", "streamed": True, "offload": False},
    }
    for size in sizes_gib:
        for name, fields in forms.items():
            planned = node.plan(s.changed(gpu_bytes=size << 30, **fields))
            pool, change = planned.worst, advice.cheapest(planned.setting)
            fits = "yes" if planned.fits else "no"
            remedy = "" if planned.fits else change.flags if change else "a larger card"
            at = pool.fullest or "always"
            rows.append([f"{size} GiB", name, gib(pool.peak), at, pool.largest.name, fits, remedy])
    return markdown(columns, rows)
