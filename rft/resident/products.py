"""Rows times the weight of each row's expert, the weight kept as MXFP4: forward and the gradient of the rows.

Nothing of the weight's floating form outlives a call: backward dequantises again. Three ways to the same product:

loop     expert by expert in plain torch; one expert's floating weight at a time; the CPU's way and the reference
grouped  torch's grouped matrix product on weights dequantised for `CHUNK_EXPERTS` experts at a time
triton   one kernel that dequantises each tile of the weight in registers (`rft.resident.kernels`)

Called by `rft.resident.experts`.
"""

import torch

from rft import mxfp4
from rft.errors import RftError
from rft.resident.memory import CHUNK_EXPERTS  # gpt-oss, both models: 1.06 GB of bf16 gate_up weights at a time

BACKENDS = ("loop", "grouped", "triton")


def choose(rows: torch.Tensor) -> str:
    """The backend for these rows: by device, dtype and what torch can do there."""
    if not rows.is_cuda or rows.dtype == torch.float64:
        return "loop"
    hopper = torch.cuda.get_device_capability(rows.device) >= (9, 0)
    if rows.dtype == torch.bfloat16 and hopper and grouped_mm() is not None:
        return "grouped"
    return "triton"


def grouped_mm():
    """torch's grouped matrix product, or None in a torch without one."""
    return getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def host_offsets_needed(experts, backend: str) -> bool:
    """Whether the host must know where each expert's rows end, which on a GPU waits for the device once a layer."""
    if backend == "loop" or any(experts.adapters.values()):
        return True
    return backend == "grouped" and experts.num_experts > CHUNK_EXPERTS


def frozen_product(rows, blocks, scales, route, backend: str) -> torch.Tensor:
    """rows[s] @ weight[expert_of_row[s]].T

    rows     (S, in) floating
    blocks   (E, out, in/32, 16) uint8 and scales (E, out, in/32) uint8: frozen, not checked
    returns  (S, out) in the dtype of rows
    raises   RftError for a backend that is none
    """
    if backend not in BACKENDS:
        raise RftError(f"experts backend {backend!r}: use one of {', '.join(BACKENDS)}")
    return _FrozenProduct.apply(rows, blocks, scales, route, backend)


class _FrozenProduct(torch.autograd.Function):
    """The parameters themselves are saved, not views of them: ZeRO-3 empties them after forward and fills the same
    objects again before backward; a view would keep the gathered bytes alive."""

    @staticmethod
    def forward(ctx, rows, blocks, scales, route, backend):
        ctx.save_for_backward(blocks, scales)
        ctx.route, ctx.backend = route, backend
        return _product(rows, blocks, scales, route, backend, transposed=False)

    @staticmethod
    def backward(ctx, d_out):
        blocks, scales = ctx.saved_tensors
        return _product(d_out, blocks, scales, ctx.route, ctx.backend, transposed=True), *[None] * 4


def _product(rows, blocks, scales, route, backend, transposed: bool) -> torch.Tensor:
    """rows (S, in) @ W.T -> (S, out), or, transposed, rows (S, out) @ W -> (S, in)."""
    size = blocks.shape[-2] * mxfp4.BLOCK if transposed else blocks.shape[1]
    if rows.shape[0] == 0:
        return rows.new_zeros(0, size)
    if backend == "loop":
        return _loop(rows, blocks, scales, route, transposed, size)
    if backend == "grouped":
        return _grouped(rows, blocks, scales, route, transposed, size)
    from rft.resident import kernels

    return kernels.grouped_product(rows, blocks, scales, route, transposed)


def _loop(rows, blocks, scales, route, transposed, size):
    out = rows.new_empty(rows.shape[0], size)
    for expert, first, end in route.spans():
        # Bound to no name, so that the next expert's weight is not made while this one is there.
        torch.mm(rows[first:end], _expert(blocks, scales, expert, rows.dtype, transposed), out=out[first:end])
    return out


def _expert(blocks, scales, expert: int, dtype, transposed: bool) -> torch.Tensor:
    weight = mxfp4.decode(blocks[expert], scales[expert], dtype)  # (out, in)
    return weight if transposed else weight.t()


def _grouped(rows, blocks, scales, route, transposed, size):
    rows = rows.contiguous()
    if blocks.shape[0] <= CHUNK_EXPERTS:
        return _grouped_part(rows, blocks, scales, route.ends, transposed)
    out = rows.new_empty(rows.shape[0], size)
    starts = [0, *route.host_ends[:-1]]
    for first in range(0, blocks.shape[0], CHUNK_EXPERTS):
        chunk = slice(first, min(first + CHUNK_EXPERTS, blocks.shape[0]))
        begin, end = starts[chunk.start], route.host_ends[chunk.stop - 1]
        if end > begin:
            ends = route.ends[chunk] - begin
            out[begin:end] = _grouped_part(rows[begin:end], blocks[chunk], scales[chunk], ends, transposed)
    return out


def _grouped_part(rows, blocks, scales, ends, transposed):
    weight = _decode(blocks, scales, rows.dtype)  # (E, out, in)
    return grouped_mm()(rows, weight if transposed else weight.transpose(1, 2), offs=ends)


def _decode(blocks, scales, dtype):
    if blocks.is_cuda and dtype == torch.bfloat16:
        from rft.resident import kernels

        return kernels.decode(blocks, scales)
    return mxfp4.decode(blocks, scales, dtype)
