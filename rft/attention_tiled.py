"""Causal attention with sinks, tile by tile, with exact gradients; plain torch, any device.

A sink is a logit that takes part in the softmax and has no value: p_j = exp(s_j) / (exp(sink) + sum exp(s_j)).
Forward is FlashAttention's online softmax (arXiv:2205.14135, algorithm 1), started from the sink: running maximum =
sink, running sum = 1. Kept for backward: inputs, output and the log of the sum (B, H, Q); the scores are computed
again, tile by tile (arXiv:2307.08691, algorithm 2). The sink's gradient is -sum p_sink * delta, delta = out . dout.

Sums and softmax are in float32 (float64 for float64 inputs). On a GPU products take the inputs' dtype and add up in
float32; on a CPU tiles are converted first. Shapes: B rows, H query heads, K key and value heads, Q queries, S keys,
D dimensions of a head. Queries at padded places get 0 and give no gradient: nothing that counts depends on them.
"""

from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from rft.attention_spans import FULL, SLIDING, Blocks, Keys, hidden_in, key_tiles, query_tiles


def sink_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor,
    keys: Keys | None = None,
    *,
    window: int | None = None,
    scale: float,
    blocks: Blocks | None = None,
) -> torch.Tensor:
    """Differentiable in the first four.

    query       (B, H, Q, D), the last Q of S positions; any strides
    key, value  (B, K, S, D), K divides H
    sinks       (H,) logits, not scaled
    keys        the real keys of each row; None: all
    window      a query sees itself and the window - 1 keys before it; None: all before it
    returns     (B, Q, H, D), the query's dtype; 0 at padded queries
    raises      ValueError for shapes that do not fit
    """
    (batch, heads, length, _), (_, groups, total, _) = query.shape, key.shape
    if heads % groups or length > total or key.shape != value.shape or sinks.shape != (heads,):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, value, sinks))
        raise ValueError(f"query, key, value, sinks of shapes {shapes} do not fit each other")
    keys = keys or Keys.all(batch, total)
    blocks = blocks or (FULL if window is None else SLIDING)
    return _SinkAttention.apply(query, key, value, sinks, keys, window, scale, blocks)


class _SinkAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, sinks, keys, window, scale, blocks):
        batch, heads, length, dim = query.shape
        exact = torch.promote_types(query.dtype, torch.float32)
        plan = _Plan(keys, window, scale, blocks, heads // key.shape[1], key.shape[2] - length, exact)
        out = query.new_zeros(batch, length, heads, dim)
        lse = sinks.to(exact)[None, :, None].repeat(batch, 1, length)  # (B, H, Q): of a query that sees the sink alone
        for row, queries, at in plan.query_blocks():
            part = plan.grouped(query[row, :, at])  # (K, g, D)
            peak = plan.grouped(lse[row, :, at, None])  # (K, g, 1): the sink
            total, result = torch.ones_like(peak), torch.zeros_like(part, dtype=exact)
            for where, hidden in plan.key_blocks(row, queries, key.device):
                scores = plan.scores(part, key[row, :, where], hidden)  # (K, g, k)
                higher = torch.maximum(peak, scores.amax(-1, keepdim=True))
                weights, fade = scores.sub_(higher).exp_(), (peak - higher).exp_()
                total.mul_(fade).add_(weights.sum(-1, keepdim=True))
                result.mul_(fade).add_(_product(_narrow(weights, value), value[row, :, where], exact))
                peak = higher
            out[row, at] = plan.ungrouped(result / total).transpose(0, 1).to(out.dtype)
            lse[row, :, at] = plan.ungrouped(peak + total.log())[..., 0]
        ctx.plan = plan
        ctx.save_for_backward(query, key, value, sinks, out, lse)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, sinks, out, lse = ctx.saved_tensors
        plan, exact = ctx.plan, ctx.plan.exact
        delta = torch.stack(
            [(a.to(exact) * b.to(exact)).sum(-1).T for a, b in zip(grad, out, strict=True)]
        )  # (B, H, Q)
        grad_query = torch.zeros_like(query)
        grad_key, grad_value = (torch.zeros(t.shape, dtype=exact, device=t.device) for t in (key, value))
        for row, queries, at in plan.query_blocks():
            part, slope = plan.grouped(query[row, :, at]), plan.grouped(grad[row, at].transpose(0, 1))  # (K, g, D)
            level, mean = plan.grouped(lse[row, :, at, None]), plan.grouped(delta[row, :, at, None])  # (K, g, 1)
            result = torch.zeros_like(part, dtype=exact)
            for where, hidden in plan.key_blocks(row, queries, key.device):
                weights = plan.scores(part, key[row, :, where], hidden).sub_(level).exp_()  # (K, g, k)
                grad_value[row, :, where] += _product(_narrow(weights, value).transpose(1, 2), slope, exact)
                change = _product(slope, value[row, :, where].transpose(1, 2), exact)
                change = _narrow(change.sub_(mean).mul_(weights).mul_(plan.scale), value)
                result += _product(change, key[row, :, where], exact)
                grad_key[row, :, where] += _product(change.transpose(1, 2), part, exact)
            grad_query[row, :, at] = plan.ungrouped(result).to(query.dtype)
        grad_sinks = None
        if ctx.needs_input_grad[3]:
            grad_sinks = -((sinks.to(exact)[:, None] - lse).exp() * delta).sum((0, 2)).to(sinks.dtype)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), grad_sinks, None, None, None, None


def _product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(n, a, b) @ (n, b, c), added up and returned in `dtype`."""
    if left.is_cuda and left.dtype == right.dtype != dtype:
        return torch.bmm(left, right, out_dtype=dtype)
    return torch.bmm(left.to(dtype), right.to(dtype))


def _narrow(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """On a GPU in the inputs' dtype, whose products are the fast ones there; on a CPU as it is."""
    return tensor.to(like.dtype) if tensor.is_cuda else tensor


@dataclass(frozen=True)
class _Plan:
    """What forward and backward share beside tensors: which tiles, and how a block of queries lies in memory: the
    heads of a group beside each other as if they were queries (g = H/K * q), so that no key or value is repeated.

    group   H/K
    offset  S - Q: where the first query stands among the keys
    exact   dtype of sums and softmax
    """

    keys: Keys
    window: int | None
    scale: float
    blocks: Blocks
    group: int
    offset: int
    exact: torch.dtype

    def query_blocks(self):
        """(row, [start, end) in the numbering of the keys, the same as a slice of the queries)."""
        for row, span in enumerate(self.keys.spans):
            for start, end in query_tiles(span, self.offset, self.blocks.queries):
                yield row, (start, end), slice(start - self.offset, end - self.offset)

    def key_blocks(self, row: int, queries: tuple[int, int], device):
        """(slice of the keys, (q, k) True where hidden, or None)."""
        real = None if self.keys.holes is None else self.keys.holes[row]
        for part in key_tiles(queries, self.keys.spans[row][0], self.window, self.blocks.keys):
            yield slice(*part), hidden_in(queries, part, self.window, real, device)

    def grouped(self, block: torch.Tensor) -> torch.Tensor:
        """(H, q, x) -> (K, H/K * q, x)."""
        return block.reshape(-1, self.group * block.shape[1], block.shape[2])

    def ungrouped(self, block: torch.Tensor) -> torch.Tensor:
        """(K, H/K * q, x) -> (H, q, x)."""
        return block.reshape(-1, block.shape[1] // self.group, block.shape[2])

    def scores(self, part: torch.Tensor, tile: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        """(K, H/K * q, D), (K, k, D) -> (K, H/K * q, k), scaled; -inf where hidden."""
        result = _product(part, tile.transpose(1, 2), self.exact).mul_(self.scale)
        if hidden is not None:
            result.view(-1, self.group, *hidden.shape).masked_fill_(hidden, -torch.inf)
        return result
