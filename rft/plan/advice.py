"""The cheapest change that makes a plan fit.

Every change is a flag, or two, that a user can set. Each is planned as a whole; of those that fit the one with the
fewest seconds a step wins, and of equals the one that changes least of what is trained: shorter answers and lower LoRA
ranks come last. Where no single change helps, pairs are tried. Pure arithmetic.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from rft.plan import node, seconds
from rft.plan.setting import Setting


@dataclass(frozen=True)
class Change:
    """`flags`: what to add to the command; `fields`: of `Setting`; `rank`: 0 same training, 1 shorter, 2 another."""

    flags: str
    fields: tuple[tuple[str, object], ...]
    rank: int = 0

    def of(self, s: Setting) -> Setting:
        return s.changed(**dict(self.fields))


@dataclass(frozen=True)
class Advice:
    """`flags` to add; step_s: seconds of the changed step against `before_s` (0.0 where there is no estimate)."""

    flags: str
    step_s: float
    before_s: float
    peak_bytes: int

    @property
    def text(self) -> str:
        if not self.step_s:
            return self.flags
        return f"{self.flags}  (a step {self.step_s / self.before_s:.2f} x as long, by the estimate)"


def changes(s: Setting) -> Iterator[Change]:
    """What could be changed about `s`, one thing at a time."""
    if not s.streamed:
        yield Change("--stream_load", (("streamed", True),))
    if s.experts == "dequantised":
        yield Change("--experts resident", (("experts", "resident"), ("streamed", True)))
    if s.attention == "eager":
        name = "sinks_tiled" if s.cpu else "sinks_flex"
        yield Change(f"--attn_implementation {name}", (("attention", name),))
    if not s.logprob_chunk_tok:
        yield Change("--logprob_chunk_tok 1024", (("logprob_chunk_tok", 1024),))
    if not s.checkpointing:
        flags = "--gradient_checkpointing --gradient_checkpointing_use_reentrant"
        yield Change(flags, (("checkpointing", True),))
    for name, value in (("micro_train", s.micro_train), ("micro_rollout", s.micro_rollout)):
        if value > 1:
            yield Change(f"--{name}_batch_size 1", ((name, 1),))
    if not s.adam_offload:
        yield Change("--adam_offload", (("adam_offload", True),))
    if not s.offload:
        yield Change("--offload --adam_offload", (("offload", True), ("adam_offload", True)))
    if s.colocated and not s.sleeps:
        yield Change("--vllm_enable_sleep", (("sleeps", True),))
    yield from _engine_changes(s)
    if s.answer_tok > 512:
        yield Change(f"--generate_max_len {s.answer_tok // 2}", (("answer_tok", s.answer_tok // 2),), 1)
    if s.lora_rank > 8:
        yield Change(f"--lora_rank {s.lora_rank // 2}", (("lora_rank", s.lora_rank // 2),), 2)


def _engine_changes(s: Setting) -> Iterator[Change]:
    for share in (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        if abs(share - s.utilisation) > 0.04:
            yield Change(f"--vllm_gpu_memory_utilization {share}", (("utilisation", share),))
    if s.engines > 1 and s.engines % 2 == 0:
        tp = 2 * s.tensor_parallel
        flags = f"--vllm_num_engines {s.engines // 2} --vllm_tensor_parallel_size {tp}"
        yield Change(flags, (("engines", s.engines // 2), ("tensor_parallel", tp)))


def _key(changed: Setting, parts: tuple[Change, ...]) -> tuple:
    return max(part.rank for part in parts), seconds.step_s(changed), sum(part.rank for part in parts)


def cheapest(s: Setting, most: int = 3) -> Advice | None:
    """The cheapest set of at most `most` changes that fits; None if `s` fits already or nothing helps."""
    if node.plan(s).fits:
        return None
    possible = list(changes(s))
    for count in range(1, most + 1):
        found = []
        for parts in combinations(possible, count):
            names = [name for part in parts for name, _ in part.fields if name != "streamed"]
            if len(names) != len(set(names)):
                continue  # two values of one flag
            changed = s
            for part in parts:
                changed = part.of(changed)
            planned = node.plan(changed)
            if planned.fits:
                found.append((_key(changed, parts), parts, planned))
        if found:
            _, parts, planned = min(found, key=lambda item: item[0])
            flags = " ".join(part.flags for part in parts)
            step, before = seconds.step_s(planned.setting), seconds.step_s(s)
            return Advice(flags, step, before, planned.worst.peak)
    return None
