"""MXFP4 as gpt-oss keeps it on disk: quantise, pack, unpack.

A block is 32 neighbouring inputs of one output row: 32 four-bit E2M1 codes and one E8M0 scale byte, value = code *
2**(scale - 127). On disk an expert tensor is ``<name>_blocks`` (E, out, in/32, 16) uint8, two codes a byte with the
even element in the low nibble, and ``<name>_scales`` (E, out, in/32) uint8; transformers holds the dequantised tensor
transposed, (E, in, out). Every code times every scale that a finite checkpoint uses is exact in bf16, so dequantising
loses nothing.

`dequantise` checks what it is given; `decode` is the same arithmetic without the checks, for tensors that were checked
when they were loaded. Used by the tiny checkpoint's writer, ``rft/dequantise.py``, the loaders and
``rft/resident``; pure functions, any thread.
Source: OCP Microscaling Formats (MX) v1.0, sections 5.3.3, 5.4.1 and 6.3; ties go to the even code, the largest code
saturates.
"""

import functools

import torch

from rft.errors import RftError

BLOCK = 32
SCALE_BIAS = 127
SCALE_NAN = 255  # E8M0 keeps this one byte for NaN: no sound checkpoint holds it
CODE_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
# Halfway points between neighbouring magnitudes. A code is even if its mantissa bit is 0, so a tie between k and k+1
# goes up where k is odd and stays where k is even.
_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """codes (..., 2n) uint8 in 0..15 -> bytes (..., n); element 2i in the low nibble, 2i+1 in the high one."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """bytes (..., n) uint8 -> codes (..., 2n) uint8 in 0..15; the inverse of `pack`."""
    return torch.stack((packed & 0x0F, packed >> 4), dim=-1).flatten(-2)


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest MXFP4 of each block of 32 along the last dimension.

    weight   (..., out, in) floating; 32 divides in
    returns  blocks (..., out, in/32, 16) uint8 and scales (..., out, in/32) uint8
    raises   ValueError if 32 does not divide the last dimension, or a value is not finite
    """
    if weight.shape[-1] % BLOCK:
        raise ValueError(f"the last dimension {weight.shape[-1]} is not a multiple of {BLOCK}")
    if not torch.isfinite(weight).all():
        raise ValueError("a weight is not finite: MXFP4 has no code for it")
    values = weight.to(torch.float64).unflatten(-1, (-1, BLOCK))  # (..., out, in/32, 32)
    largest = values.abs().amax(-1)
    # frexp: x = m * 2**e with m in [0.5, 1), so floor(log2 x) = e - 1; E2M1's own largest exponent is 2.
    exponent = torch.where(largest > 0, torch.frexp(largest).exponent - 1 - 2, 0).clamp(-SCALE_BIAS, SCALE_BIAS)
    magnitude = torch.ldexp(values.abs(), -exponent[..., None]).contiguous()
    midpoints = torch.tensor(_MIDPOINTS, dtype=torch.float64, device=weight.device)
    below = torch.bucketize(magnitude, midpoints, right=False)  # a tie counts as below the midpoint ...
    tied_from_odd = (below % 2 == 1) & (magnitude == midpoints[below.clamp(max=6)])
    codes = below + tied_from_odd.to(below.dtype)  # ... and moves up where the code below is odd
    codes = codes | torch.where(torch.signbit(values), 8, 0)
    return pack(codes.to(torch.uint8)), (exponent + SCALE_BIAS).to(torch.uint8)


def dequantise(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """The values that blocks and scales stand for, in the layout they are packed in.

    blocks   (..., out, in/32, 16) uint8; scales (..., out, in/32) uint8
    returns  (..., out, in) of `dtype`; exact in bf16 for every scale up to 252
    raises   RftError if the shapes disagree or a scale is E8M0's NaN
    """
    check(blocks, scales)
    return decode(blocks, scales, dtype)


def check(blocks: torch.Tensor, scales: torch.Tensor) -> None:
    """RftError if the shapes of blocks and scales disagree or a scale is E8M0's NaN (waits for the device)."""
    if blocks.shape[:-1] != scales.shape or blocks.shape[-1] != BLOCK // 2:
        raise RftError(
            f"MXFP4 blocks {tuple(blocks.shape)} do not match scales {tuple(scales.shape)}; the checkpoint is damaged"
        )
    if bool((scales == SCALE_NAN).any()):
        raise RftError(f"an MXFP4 scale is {SCALE_NAN} (NaN in E8M0): the checkpoint is damaged, fetch it again")


def decode(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """`dequantise` without its checks; while it runs, bf16 takes twice the result's bytes.

    blocks   (..., out, in/32, 16) uint8; scales (..., out, in/32) uint8
    returns  (..., out, in) of `dtype`: bfloat16, float32 or float64; float16 is exact within its range only
    """
    pairs, powers = _tables(dtype, blocks.device)
    # index_select over bytes is the fastest gather that torch has on a CPU: 5 times `table[codes]`.
    values = pairs.index_select(0, blocks.reshape(-1).to(torch.int32)).view(dtype)
    values = values.view(*scales.shape, BLOCK)
    values *= powers.index_select(0, scales.reshape(-1).to(torch.int32)).view(*scales.shape, 1)
    return values.flatten(-2)


@functools.cache
def _tables(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What each byte's two codes are worth, as one number of twice the width (256,); 2**(scale - 127) (256,)."""
    byte = torch.arange(256, device=device)
    values = torch.tensor(CODE_VALUES, dtype=dtype, device=device)
    pairs = torch.stack((values[byte & 0x0F], values[byte >> 4]), dim=-1)  # (256, 2)
    wide = {2: torch.int32, 4: torch.int64, 8: torch.complex128}[dtype.itemsize]
    powers = torch.ldexp(torch.ones(256, dtype=torch.float64, device=device), byte - SCALE_BIAS)
    return pairs.view(wide).reshape(256), powers.to(dtype)


def quantise_expert(parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' expert tensor (E, in, out) -> gpt-oss's blocks (E, out, in/32, 16), scales (E, out, in/32)."""
    return quantise(parameter.transpose(1, 2))


def dequantise_expert(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """gpt-oss's blocks and scales -> transformers' expert tensor (E, in, out), contiguous."""
    return dequantise(blocks, scales, dtype).transpose(1, 2).contiguous()
