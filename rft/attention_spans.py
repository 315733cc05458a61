"""Which keys a query sees, as a few integers a row instead of a (Q, S) mask, and the tiles that cover them.

Made once a forward pass from the (B, S) mask of real tokens (one device synchronisation), read by every layer's
`rft.attention_tiled`. A row's tiles start at its first real token: what a row comes to depends neither on how it is
padded nor on the rows beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Keys:
    """The real keys of each row of a batch.

    spans  for each row [first, past the last) real key; (0, 0) where there is none
    holes  (B, S) bool, True = a real key, where some row has padding between real keys; else None
    """

    spans: tuple[tuple[int, int], ...]
    holes: torch.Tensor | None = None

    @classmethod
    def all(cls, batch: int, length: int) -> "Keys":
        return cls(((0, length),) * batch)

    @classmethod
    def from_mask(cls, mask: torch.Tensor | None, batch: int, length: int, offset: int = 0) -> "Keys":
        """mask  (B, >= offset) bool, True = a real token; the keys are its columns offset to offset + length, those
        that it lacks count as padding. None: every key is real."""
        if mask is None:
            return cls.all(batch, length)
        real = torch.nn.functional.pad(mask.bool(), (0, max(0, offset + length - mask.shape[1])))
        real = real[:, offset : offset + length]  # (B, S)
        places = torch.arange(1, length + 1, device=real.device)
        count = real.sum(-1)
        last = (real * places).amax(-1)
        first = torch.where(count > 0, length + 1 - (real * places.flip(0)).amax(-1), 1) - 1
        rows = torch.stack([first, last, count], -1).tolist()
        holes = real if any(end - start != number for start, end, number in rows) else None
        return cls(tuple((start, end) for start, end, _ in rows), holes)


@dataclass(frozen=True)
class Blocks:
    """Tile sizes in tokens. The scores of one tile are all that exists at a time: heads x queries x keys numbers, 67 MB
    in float32 for gpt-oss's 64 heads at 256 x 1024."""

    queries: int = 256
    keys: int = 1024


#: full layers; sliding layers, where a wider block of queries would compute more masked scores than counted ones
FULL, SLIDING = Blocks(256, 1024), Blocks(128, 1024)


def query_tiles(span: tuple[int, int], offset: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, end) of the blocks of queries of one row, in the numbering of its keys.

    offset  the first query's number: 0, or as many as a cache holds
    """
    for start in range(max(span[0], offset), span[1], size):
        yield start, min(start + size, span[1])


def key_tiles(queries: tuple[int, int], first: int, window: int | None, size: int) -> Iterator[tuple[int, int]]:
    """[start, end) of the blocks of keys that some query of the block sees: not after it, within the window."""
    start, end = queries
    begin = first if window is None else max(first, start - window + 1)
    for at in range(begin, end, size):
        yield at, min(at + size, end)


def hidden_in(
    queries: tuple[int, int], keys: tuple[int, int], window: int | None, real: torch.Tensor | None, device
) -> torch.Tensor | None:
    """(queries, keys) bool, True where this query must not see this key; None where the tile has no such pair.

    real  (S,) bool, of the row, or None
    """
    (first, past), (low, high) = queries, keys
    after = high - 1 > first
    before = window is not None and past - 1 - low >= window
    if not (after or before or real is not None):
        return None
    ago = torch.arange(first, past, device=device)[:, None] - torch.arange(low, high, device=device)  # (q, k)
    result = ago < 0
    if window is not None:
        result = result | (ago >= window)
    if real is not None:
        result = result | ~real[low:high]
    return result
