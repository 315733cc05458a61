"""gpt-oss's clamped SwiGLU with its bias: (up + 1) * gate * sigmoid(alpha * gate).

gate and up are the even and the odd columns of the gate_up projection; gate is clamped from above, up from both
sides. Only the projection's result is kept for backward. The arithmetic is float32 whatever the dtype of the rows
(float64 for float64), in slices of rows on the CPU so that the float32 copies stay small, in one kernel on a GPU.
Source: transformers 4.57.6, ``modeling_gpt_oss.GptOssExperts``.
"""

import torch

SLICE_ROWS = 1024  # float32 copies of 1024 rows of gpt-oss: 24 MB


def swiglu(
    gate_up: torch.Tensor, bias: torch.Tensor, expert_of_row: torch.Tensor, alpha: float, limit: float
) -> torch.Tensor:
    """The experts' activation.

    gate_up        (S, 2I): without its bias
    bias           (E, 2I), frozen
    expert_of_row  (S,) int64
    returns        (S, I) in the dtype of gate_up
    """
    return _SwiGLU.apply(gate_up, bias, expert_of_row, alpha, limit)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up, bias, expert_of_row, alpha, limit):
        ctx.save_for_backward(gate_up, bias, expert_of_row)
        ctx.alpha, ctx.limit = alpha, limit
        if fused(gate_up):
            from rft.resident import kernels

            return kernels.swiglu(gate_up, bias, expert_of_row, alpha, limit)
        hidden = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2)
        for part in _slices(gate_up.shape[0]):
            gate, up = _gate_and_up(gate_up[part], bias, expert_of_row[part])
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            hidden[part] = (up + 1) * gate * torch.sigmoid(alpha * gate)
        return hidden

    @staticmethod
    def backward(ctx, d_hidden):
        gate_up, bias, expert_of_row = ctx.saved_tensors
        if fused(gate_up):
            from rft.resident import kernels

            return kernels.swiglu_backward(d_hidden, gate_up, bias, expert_of_row, ctx.alpha, ctx.limit), *[None] * 4
        d_gate_up = torch.empty_like(gate_up, memory_format=torch.contiguous_format)
        for part in _slices(gate_up.shape[0]):
            gate, up = _gate_and_up(gate_up[part], bias, expert_of_row[part])
            d = d_hidden[part].to(gate.dtype)
            open_gate, open_up = gate <= ctx.limit, up.abs() <= ctx.limit
            gate, up = gate.clamp(max=ctx.limit), up.clamp(-ctx.limit, ctx.limit)
            sigmoid = torch.sigmoid(ctx.alpha * gate)
            slope = sigmoid * (1 + ctx.alpha * gate * (1 - sigmoid))
            d_gate_up[part, 0::2] = d * (up + 1) * slope * open_gate
            d_gate_up[part, 1::2] = d * gate * sigmoid * open_up
        return d_gate_up, *[None] * 4


def fused(rows: torch.Tensor) -> bool:
    """Whether the kernels of a GPU take these rows."""
    return rows.is_cuda and rows.dtype != torch.float64


def _gate_and_up(gate_up, bias, expert_of_row):
    wide = torch.float64 if gate_up.dtype == torch.float64 else torch.float32
    sums = gate_up.to(wide) + bias.index_select(0, expert_of_row).to(wide)
    return sums[:, 0::2], sums[:, 1::2]


def _slices(rows: int):
    return (slice(first, min(first + SLICE_ROWS, rows)) for first in range(0, rows, SLICE_ROWS))
