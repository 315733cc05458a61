"""The resident experts' arithmetic on a GPU: dequantise, activation, grouped product with the weight dequantised in the
tile. Triton; imported only where a GPU's tensors are at hand (or under TRITON_INTERPRET=1, as the tests do on a CPU).

Speed of these kernels: not measured on a GPU.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rft.mxfp4 import BLOCK

DECODE_BYTES = 1024  # packed bytes a program
ACTIVATION_COLUMNS = 512


class Tile(NamedTuple):
    """A product's tile: rows, columns, depth of a step; warps and pipeline stages of a program."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# By bytes of an element. The largest that spill no register (tests/engine/test_resident_compile.py); gpt-oss's 2880 and
# 5760 are multiples of the depth.
TILES = {2: Tile(128, 128, 64, 8, 3), 4: Tile(32, 64, 32, 4, 2)}


@triton.jit
def _code_value(code):
    """E2M1 code 0..15 -> float32, exact: from 1.0 (code 2) on, its bits are float32's top bits with another bias."""
    magnitude = code & 7
    bits = tl.where(magnitude < 2, magnitude * 0x3F000000, (magnitude << 22) + 0x3F000000)
    return (bits | ((code & 8) << 28)).to(tl.float32, bitcast=True)


@triton.jit
def _scale_value(scale):
    """E8M0 byte as int32 -> float32 2**(scale - 127); 0 is the subnormal 2**-127, 255 infinite."""
    return tl.where(scale == 0, 0x00400000, scale << 23).to(tl.float32, bitcast=True)


@triton.jit
def _decode_kernel(blocks, scales, out, size, COUNT: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * COUNT + tl.arange(0, COUNT)
    inside = at < size
    byte = tl.load(blocks + at, mask=inside, other=0).to(tl.int32)
    scale = _scale_value(tl.load(scales + at // 16, mask=inside, other=0).to(tl.int32))
    low = (_code_value(byte & 15) * scale).to(tl.int32, bitcast=True)
    high = (_code_value(byte >> 4) * scale).to(tl.int32, bitcast=True)
    # Two bf16, the even element first: a float32's upper half is its bf16, exactly, for every value here.
    word = ((low >> 16) & 0xFFFF) | (high & -65536)
    tl.store(out + at, word, mask=inside)


def decode(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """`rft.mxfp4.decode` to bfloat16 in one pass: blocks (..., in/32, 16), scales (..., in/32) -> (..., in)."""
    out = torch.empty(*scales.shape[:-1], scales.shape[-1] * BLOCK, dtype=torch.bfloat16, device=blocks.device)
    grid = (triton.cdiv(blocks.numel(), DECODE_BYTES),)
    with torch.cuda.device_of(blocks):
        _decode_kernel[grid](
            blocks.contiguous(), scales.contiguous(), out.view(torch.int32), blocks.numel(), COUNT=DECODE_BYTES
        )
    return out


@triton.jit
def _gate_and_up(gate_up, bias, row, expert, column, inside, size):
    left = row * 2 * size + 2 * column
    right = expert * 2 * size + 2 * column
    gate = tl.load(gate_up + left, mask=inside, other=0).to(tl.float32)
    gate += tl.load(bias + right, mask=inside, other=0).to(tl.float32)
    up = tl.load(gate_up + left + 1, mask=inside, other=0).to(tl.float32)
    up += tl.load(bias + right + 1, mask=inside, other=0).to(tl.float32)
    return gate, up


@triton.jit
def _swiglu_kernel(gate_up, bias, experts, hidden, size, alpha, limit, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < size
    gate, up = _gate_and_up(gate_up, bias, row, tl.load(experts + row), column, inside, size)
    gate = tl.minimum(gate, limit)
    up = tl.minimum(tl.maximum(up, -limit), limit)
    value = (up + 1) * gate * tl.sigmoid(alpha * gate)
    tl.store(hidden + row * size + column, value.to(hidden.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward_kernel(d_hidden, gate_up, bias, experts, d_gate_up, size, alpha, limit, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < size
    gate, up = _gate_and_up(gate_up, bias, row, tl.load(experts + row), column, inside, size)
    d = tl.load(d_hidden + row * size + column, mask=inside, other=0).to(tl.float32)
    open_gate, open_up = gate <= limit, tl.abs(up) <= limit
    gate = tl.minimum(gate, limit)
    up = tl.minimum(tl.maximum(up, -limit), limit)
    sigmoid = tl.sigmoid(alpha * gate)
    d_gate = tl.where(open_gate, d * (up + 1) * sigmoid * (1 + alpha * gate * (1 - sigmoid)), 0.0)
    d_up = tl.where(open_up, d * gate * sigmoid, 0.0)
    at = d_gate_up + row * 2 * size + 2 * column
    tl.store(at, d_gate.to(d_gate_up.dtype.element_ty), mask=inside)
    tl.store(at + 1, d_up.to(d_gate_up.dtype.element_ty), mask=inside)


def swiglu(gate_up, bias, expert_of_row, alpha: float, limit: float) -> torch.Tensor:
    """`rft.resident.swiglu.swiglu`, forward: gate_up (S, 2I), bias (E, 2I), expert_of_row (S,) -> (S, I)."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    hidden = gate_up.new_empty(rows, size)
    if rows:
        with torch.cuda.device_of(gate_up):
            _swiglu_kernel[(rows, triton.cdiv(size, ACTIVATION_COLUMNS))](
                gate_up.contiguous(), bias.contiguous(), expert_of_row, hidden, size, alpha, limit,
                COLUMNS=ACTIVATION_COLUMNS,
            )  # fmt: skip
    return hidden


def swiglu_backward(d_hidden, gate_up, bias, expert_of_row, alpha: float, limit: float) -> torch.Tensor:
    """Gradient (S, 2I) of gate_up for d_hidden (S, I)."""
    rows, size = d_hidden.shape
    d_gate_up = gate_up.new_empty(rows, 2 * size)
    if rows:
        with torch.cuda.device_of(gate_up):
            _swiglu_backward_kernel[(rows, triton.cdiv(size, ACTIVATION_COLUMNS))](
                d_hidden.contiguous(), gate_up.contiguous(), bias.contiguous(), expert_of_row, d_gate_up, size,
                alpha, limit, COLUMNS=ACTIVATION_COLUMNS,
            )  # fmt: skip
    return d_gate_up


@triton.jit
def _weight_tile(
    blocks, scales, row, first, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr
):
    """(ROWS, COLUMNS) of one expert's weight (rows, columns), from column `first` on; zero outside.

    Offsets within an expert fit into 32 bits, and a scale is loaded once for its 32 weights: both spare registers.
    """
    row_inside = (row < rows)[:, None]
    byte_at = first // 2 + tl.arange(0, COLUMNS // 2)
    byte = tl.load(blocks + (row[:, None] * (columns // 2) + byte_at[None, :]),
                   mask=row_inside & (byte_at < columns // 2)[None, :], other=0).to(tl.int32)  # fmt: skip
    values = tl.interleave(_code_value(byte & 15), _code_value(byte >> 4))
    group = first // 32 + tl.arange(0, COLUMNS // 32)
    scale = tl.load(scales + (row[:, None] * (columns // 32) + group[None, :]),
                    mask=row_inside & (group < columns // 32)[None, :], other=0)  # fmt: skip
    scale = tl.broadcast_to(_scale_value(scale.to(tl.int32))[:, :, None], (ROWS, COLUMNS // 32, 32))
    return (values * scale.reshape(ROWS, COLUMNS)).to(DTYPE)


@triton.jit
def _product_kernel(
    rows, blocks, scales, out, ends, tile_expert, tile_row, experts, depth, columns,
    TRANSPOSED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    expert = tl.load(tile_expert + tile).to(tl.int64)
    if expert < experts:
        first_row = tl.load(tile_row + tile)
        rows += first_row.to(tl.int64) * depth
        out += first_row.to(tl.int64) * columns
        blocks += expert * columns * (depth // 2)  # depth times columns is the weight's size either way round
        scales += expert * columns * (depth // 32)
        row = tl.arange(0, ROWS)
        row_inside = (row < tl.load(ends + expert) - first_row)[:, None]
        column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
        for first in range(0, depth, DEPTH):
            deep = first + tl.arange(0, DEPTH)
            left = tl.load(rows + (row[:, None] * depth + deep[None, :]), mask=row_inside & (deep < depth)[None, :],
                           other=0)  # fmt: skip
            if TRANSPOSED:  # the weight's rows are summed over
                right = _weight_tile(blocks, scales, deep, tl.program_id(1) * COLUMNS, depth, columns,
                                     DEPTH, COLUMNS, left.dtype)  # fmt: skip
            else:
                right = tl.trans(
                    _weight_tile(blocks, scales, column, first, columns, depth, COLUMNS, DEPTH, left.dtype)
                )
            total = tl.dot(left, right, total, input_precision="ieee")
        at = out + (row[:, None] * columns + column[None, :])
        tl.store(at, total.to(out.dtype.element_ty), mask=row_inside & (column < columns)[None, :])


def grouped_product(rows, blocks, scales, route, transposed: bool) -> torch.Tensor:
    """`rft.resident.products`: rows (S, in) -> (S, out), or, transposed, (S, out) -> (S, in).

    No expert's floating weight is ever in memory, and the host learns nothing of the routing.
    """
    experts, weight_rows, groups, _ = blocks.shape
    depth, columns = (weight_rows, groups * BLOCK) if transposed else (groups * BLOCK, weight_rows)
    out = rows.new_empty(rows.shape[0], columns)
    tile = TILES[rows.element_size()]
    tile_expert, tile_row = _tiles(route.ends, rows.shape[0], tile.rows)
    with torch.cuda.device_of(rows):
        _product_kernel[(tile_expert.numel(), triton.cdiv(columns, tile.columns))](
            rows.contiguous(), blocks, scales, out, route.ends, tile_expert, tile_row, experts, depth, columns,
            TRANSPOSED=transposed, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


def _tiles(ends: torch.Tensor, rows: int, tile_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Expert and first row of each tile of rows. As many tiles as any routing could need, so that the host need not
    ask; those not needed carry the expert number E, and their programs return at once."""
    starts = torch.cat((ends.new_zeros(1), ends[:-1]))
    tile_ends = ((ends - starts + tile_rows - 1) // tile_rows).cumsum(0)
    tile = torch.arange(triton.cdiv(rows, tile_rows) + ends.numel(), device=ends.device)
    expert = torch.searchsorted(tile_ends, tile, right=True)  # (tiles,)
    known = expert.clamp(max=ends.numel() - 1)
    before = torch.where(known > 0, tile_ends[(known - 1).clamp(min=0)], 0)
    return expert, starts[known] + (tile - before) * tile_rows
