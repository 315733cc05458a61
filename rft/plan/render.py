"""A plan as text, as Markdown tables and as JSON. GiB = 2^30 bytes for memory, GB = 10^9 bytes for the disk."""

from collections.abc import Sequence

from rft.plan.advice import Advice
from rft.plan.node import GIB, Plan
from rft.plan.terms import Pool


def gib(amount: float) -> str:
    return f"{amount / GIB:.1f} GiB" if amount >= GIB / 20 else f"{amount / (1 << 20):.0f} MiB"


def gb(amount: float) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e9 else f"{amount / 1e6:.0f} MB"


def head(plan: Plan) -> str:
    s = plan.setting
    engines = f"{s.engines} engines x TP {s.tensor_parallel}"
    place = f"{engines} on the same GPUs" if s.colocated else engines
    where = "CPU" if s.cpu else f"GPUs of {s.gpu_bytes / GIB:.0f} GiB"
    rows = f"{s.prompts} x {s.samples} answers of {s.prompt_tok} + {s.answer_tok} tokens"
    loaded = "streamed loading" if s.streamed else "a whole copy loaded by each rank"
    form = f"{s.experts} experts, {s.attention} attention, {loaded}"
    return f"{s.geometry.name}: {s.ranks} actor ranks, {place}, {where}; {rows}; {form}"


def verdict(plan: Plan, advice: Advice | None) -> list[str]:
    """One or two lines: fits or not, the fullest pool and its largest term, and what to change."""
    pool = plan.worst
    limit = f" of {gib(pool.limit)}" if pool.limit else ""
    moment = f" ({pool.fullest})" if pool.fullest else ""
    what = f"{pool.name}: {gib(pool.peak)}{limit}{moment}; largest: {pool.largest.name}, {gib(pool.largest.bytes)}"
    if plan.fits:
        return [f"fits: {what}"]
    remedy = (
        f"cheapest change: {advice.text}" if advice else "no set of three changes makes it fit: more or larger GPUs"
    )
    return [f"does not fit: {what}", remedy]


def pool_lines(pool: Pool, every: bool) -> list[str]:
    """The pool's peak, and under it its terms: all, or those over 2 % of the peak."""
    limit = f" of {gib(pool.limit)}" if pool.limit else ""
    moment = f", at: {pool.fullest}" if pool.fullest else ""
    lines = [f"{pool.name}: {gib(pool.peak)}{limit}{moment}"]
    shown = [term for term in pool.terms() if every or abs(term.bytes) > pool.peak * 0.02]
    lines += [f"  {gib(term.bytes):>11}  {term.name} [{term.basis}]" for term in shown]
    return lines


def text(plan: Plan, advice: Advice | None, phases: dict[str, float], every: bool = False) -> str:
    lines = [head(plan), ""]
    for pool in plan.pools:
        lines += [*pool_lines(pool, every), ""]
    parts = ", ".join(f"{name} {gb(size)}" for name, size in plan.disk.items())
    lines.append(f"disk: {parts}")
    if phases:
        step = sum(seconds for name, seconds in phases.items() if name != "save")
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items())
        lines.append(f"seconds a step, answers at full length: {step:.0f} (estimate: {parts})")
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join([*lines, "", *verdict(plan, advice)])


def as_json(plan: Plan, advice: Advice | None, phases: dict[str, float]) -> dict:
    """Bytes and seconds; ``pools`` with their terms at the peak, ``moments`` with the bytes of each."""
    pools = [
        {
            "name": pool.name,
            "count": pool.count,
            "peak_bytes": pool.peak,
            "limit_bytes": pool.limit,
            "fits": pool.fits,
            "at": pool.fullest,
            "terms": [{"name": t.name, "bytes": t.bytes, "basis": t.basis} for t in pool.terms()],
            "moments": {name: sum(t.bytes for t in terms) for name, terms in pool.moments.items()},
        }
        for pool in plan.pools
    ]
    return {
        "model": plan.setting.geometry.name,
        "fits": plan.fits,
        "largest": {"pool": plan.worst.name, "term": plan.worst.largest.name, "bytes": plan.worst.largest.bytes},
        "change": advice.flags if advice else None,
        "pools": pools,
        "disk": plan.disk,
        "phases_s": phases,
        "notes": plan.notes,
    }


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
