"""Attention with sinks by its formula and in transformers' eager arithmetic; the peak of torch's CPU allocator."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.allocated import peak_bytes  # noqa: F401  (for the tests)
from rft.attention_spans import Keys

SCALE = 0.3


def visible(total: int, length: int, window: int | None, real: torch.Tensor) -> torch.Tensor:
    """(B, Q, S) bool: which key each of the last `length` positions sees; real (B, S) bool."""
    at = torch.arange(total - length, total)[:, None]
    ago = at - torch.arange(total)
    seen = (ago >= 0) & (ago < (window or total + 1))
    return seen[None] & real[:, None]


def by_hand(query, key, value, sinks, seen, scale=SCALE):
    """(B, Q, H, D): p_j = exp(s_j) / (exp(sink) + sum exp(s_j)), head by head, query by query. Slow."""
    group = query.shape[1] // key.shape[1]
    rows = []
    for row in range(query.shape[0]):
        for q in range(query.shape[2]):
            for head in range(query.shape[1]):
                keys, values = key[row, head // group][seen[row, q]], value[row, head // group][seen[row, q]]
                weights = (keys @ query[row, head, q] * scale).exp()
                rows.append(weights @ values / (weights.sum() + sinks[head].exp()))
    return torch.stack(rows).view(query.shape[0], query.shape[2], query.shape[1], -1)


def dense(query, key, value, sinks, seen, scale=SCALE):
    """The same with all scores at once, in the tensors' dtype: transformers' eager arithmetic."""
    group = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(group, 1) for tensor in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    scores = (
        scores + torch.zeros(seen.shape, dtype=scores.dtype).masked_fill(~seen, torch.finfo(scores.dtype).min)[:, None]
    )
    sink = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    scores = torch.cat([scores, sink], -1)
    scores = scores - scores.amax(-1, keepdim=True)
    return torch.matmul(scores.softmax(-1, dtype=scores.dtype)[..., :-1], value).transpose(1, 2)


def make(batch=2, heads=4, groups=2, length=9, total=None, dim=8, dtype=torch.float64, seed=0, grad=True):
    """query, key, value, sinks; the sinks lie around the scores, so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    total = total or length
    shapes = ((batch, heads, length, dim), (batch, groups, total, dim), (batch, groups, total, dim), (heads,))
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.requires_grad_(grad) for tensor in made]


def padded(batch: int, total: int, side: str, seed: int = 0) -> torch.Tensor:
    """(B, S) bool, True = real: rows of unequal length, the first one whole; `side` left, right, holes or none."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, total + 1, (batch,), generator=generator)
    lengths[0] = total
    place = torch.arange(total)
    if side == "none":
        return torch.ones(batch, total, dtype=torch.bool)
    if side == "holes":
        return torch.rand(batch, total, generator=generator) < 0.6
    real = place[None] < lengths[:, None]
    return real.flip(1) if side == "left" else real


def counted(real: torch.Tensor, length: int) -> torch.Tensor:
    """(B, Q) bool: queries within their row's first and last real key, whose output is defined."""
    keys, places = Keys.from_mask(real, *real.shape), torch.arange(real.shape[1])
    inside = torch.stack([(places >= start) & (places < end) for start, end in keys.spans])
    return inside[:, -length:]
