"""What a memory pool holds: terms, the moments at which they are there together, and the peak.

A pool is one GPU or one process. Its `static` terms are always there; each moment adds its own. Bytes throughout; pure
arithmetic.

The peak is the fullest moment. A process under glibc's default settings holds more than that: an allocation is given
back at once only if it got pages of its own, and the threshold for that rises to `KEPT_BLOCK` as such blocks are freed;
smaller ones come from the heap, which does not shrink below its highest level while anything lies on top, and whose
holes are not filled evenly. With a `kept_share` the peak is the largest sum of big blocks, plus the largest sum of
small ones, whenever each was, and that share of the latter once more.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

KEPT_BLOCK = 32 << 20  # glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64 bits (malloc/malloc.c)
KEPT_SHARE = 0.5  # measured, roughly: 0 to 1.5 (docs/plan.md)


@dataclass(frozen=True)
class Term:
    """`bytes` in all, in allocations of `block` bytes (0: one). `basis`: computed, read, measured or assumed."""

    name: str
    bytes: int
    block: int = 0
    basis: str = "computed"

    @property
    def small(self) -> bool:
        return (self.block or self.bytes) < KEPT_BLOCK


@dataclass
class Pool:
    """One GPU or one process. limit: bytes that it may hold; None where there is none of its own."""

    name: str
    static: list[Term] = field(default_factory=list)
    moments: dict[str, list[Term]] = field(default_factory=dict)
    limit: int | None = None
    kept_share: float = 0.0
    count: int = 1

    def add(self, *terms: Term) -> None:
        self.static += [term for term in terms if term.bytes]

    def at(self, moment: str, *terms: Term) -> None:
        self.moments[moment] = [term for term in terms if term.bytes]

    @property
    def fullest(self) -> str:
        """The name of the moment with the most bytes; "" where nothing is added to the static terms."""
        return max(self.moments, key=lambda name: total(self.moments[name]), default="")

    def terms(self) -> list[Term]:
        """What is there at the peak, largest first, alike names added up."""
        found = merged([*self.static, *self.moments.get(self.fullest, [])])
        kept = self.peak - total(found)
        if kept > 0:
            found.append(Term("heap kept by malloc", kept))
        return sorted(found, key=lambda term: -term.bytes)

    @property
    def peak(self) -> int:
        lists = list(self.moments.values()) or [[]]
        if not self.kept_share:
            return total(self.static) + max(map(total, lists))
        small = max(total(t for t in terms if t.small) for terms in lists)
        big = max(total(t for t in terms if not t.small) for terms in lists)
        return total(self.static) + big + small + int(self.kept_share * small)

    @property
    def largest(self) -> Term:
        return self.terms()[0]

    @property
    def fits(self) -> bool:
        return self.limit is None or self.peak <= self.limit


def total(terms: Iterable[Term]) -> int:
    return sum(term.bytes for term in terms)


def merged(terms: Iterable[Term]) -> list[Term]:
    """Terms of one name as one; the weakest basis stands for all."""
    order = ("measured", "read", "computed", "assumed")
    found: dict[str, Term] = {}
    for term in terms:
        old = found.get(term.name)
        if old is None:
            found[term.name] = term
        else:
            basis = max(old.basis, term.basis, key=order.index)
            found[term.name] = Term(term.name, old.bytes + term.bytes, max(old.block, term.block), basis)
    return list(found.values())
