"""Which weights of a base an adapter changes, and the changed weights: W + s B A in float32, then the base's own type.

`plan` holds every shape against the base before anything is written. Experts come one at a time, in transformers'
layout (in, out), so that memory does not grow with their number. Any thread; float32 on the CPU.

Letters: r rank, E experts, in/out sizes of a weight.
"""

from dataclasses import dataclass

from rft.errors import RftError
from rft.export.adapter import CONFIG, EXPERT_PARAMETERS, WEIGHTS, Adapter, Pair, load
from rft.export.base import Base
from rft.export.safetensors_file import Entry

# The PEFT release from which on A of an expert target meets the last dimension. It matters only for an adapter of
# down_proj alone where hidden and expert sizes are equal; everywhere else shapes tell.
LAST_DIMENSION_SINCE = (0, 19)


@dataclass(frozen=True)
class Change:
    """pair: A and B; stem: the weight's name (no _blocks); experts: how many, 0 for a matrix; last: see above."""

    pair: Pair
    stem: str
    experts: int = 0
    last: bool = False

    @property
    def layer(self) -> int | None:
        parts = self.stem.split(".")
        at = parts.index("layers") + 1 if "layers" in parts else 0
        return int(parts[at]) if at and parts[at].isdigit() else None


def plan(adapter: Adapter, base: Base) -> dict[str, Change]:
    """Changes by the weight's name (`<module>.weight`, or an experts' stem).

    raises  RftError: a target that the base lacks, or shapes or ranks that do not fit
    """
    tensors, found = base.tensors, {}
    by_module: dict[str, list[Pair]] = {}
    for pair in adapter.pairs:
        by_module.setdefault(pair.module, []).append(pair)
    for module, pairs in by_module.items():
        weight = tensors.get(f"{module}.weight")
        if weight is not None and len(pairs) == 1:
            found[weight.name] = _matrix(adapter, pairs[0], weight)
        elif any(f"{module}.{name}{form}" in tensors for name in EXPERT_PARAMETERS for form in ("", "_blocks")):
            found |= {change.stem: change for change in _experts(adapter, pairs, module, tensors)}
        else:
            raise RftError(f"{adapter.path}: it changes {module}, which {base.folder} does not have; name its own base")
    return found


def _misfit(adapter: Adapter, pair: Pair, what: str) -> RftError:
    return RftError(
        f"{adapter.path / WEIGHTS}: {pair.module} has A {pair.a.shape} and B {pair.b.shape} at rank {pair.rank} "
        f"({CONFIG}), {what}; name the base that it was trained on, and a whole checkpoint"
    )


def _matrix(adapter: Adapter, pair: Pair, weight: Entry) -> Change:
    out, in_ = weight.shape if len(weight.shape) == 2 else (0, 0)
    if pair.a.shape != (pair.rank, in_) or pair.b.shape != (out, pair.rank):
        raise _misfit(adapter, pair, f"{weight.name} of the base is {weight.shape}")
    if weight.dtype not in ("BF16", "F16", "F32"):
        raise _misfit(adapter, pair, f"{weight.name} of the base is {weight.dtype}, which cannot be merged into")
    return Change(pair, weight.name)


def expert_shape(tensors: dict[str, Entry], stem: str) -> tuple[int, int, int] | None:
    """(E, in, out) of an experts' weight, however it is kept; None where there is none."""
    if f"{stem}_blocks" in tensors:
        experts, out, blocks, half = tensors[f"{stem}_blocks"].shape
        return experts, blocks * half * 2, out
    return tensors[stem].shape if stem in tensors else None


def _experts(adapter: Adapter, pairs: list[Pair], module: str, tensors: dict[str, Entry]) -> list[Change]:
    fits: list[tuple[Pair, str, int, list[bool]]] = []
    for pair in pairs:
        for name in EXPERT_PARAMETERS:
            shape = expert_shape(tensors, f"{module}.{name}")
            if shape is None:
                continue
            experts, in_, out = shape
            rows = pair.rank * experts
            ways = [
                last
                for last, a, b in ((True, out, in_), (False, in_, out))
                if pair.a.shape == (rows, a) and pair.b.shape == (b, rows)
            ]
            if ways:
                fits.append((pair, f"{module}.{name}", experts, ways))
    stems = [stem for _, stem, _, _ in fits]
    unfit = [pair for pair in pairs if pair not in [fit[0] for fit in fits]]
    if unfit or len(set(stems)) != len(pairs):
        raise _misfit(adapter, (unfit or pairs)[0], f"which fits not one weight of {module} in the base")
    told = {ways[0] for _, _, _, ways in fits if len(ways) == 1}
    if not told:
        numbers = [int(part) for part in adapter.peft_version.split(".")[:2] if part.isdigit()]
        if len(numbers) != 2:
            raise _misfit(
                adapter, pairs[0], f"and peft_version {adapter.peft_version!r} does not tell which side is in"
            )
        told = {tuple(numbers) >= LAST_DIMENSION_SINCE}
    if len(told) != 1:
        raise _misfit(adapter, pairs[0], "whose two weights are laid out in different ways")
    last = told.pop()
    return [Change(pair, stem, experts, last) for pair, stem, experts, _ in fits]


def merged_matrix(change: Change, weight):
    """The weight (out, in), any float type -> W + s B A in the same type; the sum is taken in float32."""
    a, b = load(change.pair.a), load(change.pair.b)  # (r, in), (out, r)
    return (weight.float() + (b @ a) * change.pair.scaling).to(weight.dtype)


class ExpertDeltas:
    """The updates of one experts' weight, one expert at a time."""

    def __init__(self, change: Change):
        rank = change.pair.rank
        a, b = load(change.pair.a), load(change.pair.b)
        self._a = a.view(change.experts, rank, a.shape[1])  # (E, r, ·)
        self._b = b.view(b.shape[0], rank, change.experts)  # (·, r, E)
        self._change = change

    def of(self, expert: int):
        """(in, out) float32, contiguous."""
        delta = (self._b[:, :, expert] @ self._a[expert]) * self._change.pair.scaling
        return delta if self._change.last else delta.T.contiguous()
