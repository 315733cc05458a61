"""Merged expert weights back to MXFP4, at the least squared error that the format allows, and that error.

Each block of 32 is tried at the scale of the OCP rule (floor of the largest value's exponent) and at its two
neighbours, and keeps the best; of equal ones the OCP rule's. `tests/test_export_experts.py` holds the choice against
all 255 scales. A block whose value the merge did not change keeps its bytes. One thread, CPU.

Letters: out rows, in inputs of a weight, 32 divides in.
"""

from dataclasses import dataclass

import torch

from rft.mxfp4 import BLOCK, CODE_VALUES, SCALE_BIAS, dequantise, pack

_MAGNITUDES = torch.tensor(CODE_VALUES[:8])
_MIDPOINTS = (_MAGNITUDES[1:] + _MAGNITUDES[:-1]) / 2
_CODE_EMAX = 2  # floor(log2 6)
ROWS = 64  # at a time: 64 rows of 2880 in float32 are 0.7 MB, so that the passes stay in the cache
SCALE_MAX = 252  # above it 6 * 2**(scale - 127) is beyond bf16


@dataclass
class Error:
    """Sums of squares over a weight: of the merged weight, of the merge itself, of what quantising adds.

    ocp: what the OCP rule's scale alone would have added
    """

    weight: float = 0.0
    update: float = 0.0
    added: float = 0.0
    ocp: float = 0.0

    def figures(self) -> dict[str, float]:
        """Roots of the ratios: what is added to the weight and to the update, and the OCP rule's to the weight."""

        def root(part: float, whole: float) -> float:
            return (part / whole) ** 0.5 if whole else 0.0

        return {
            "relative_error": root(self.added, self.weight),
            "ocp_relative_error": root(self.ocp, self.weight),
            "error_to_update": root(self.added, self.update),
        }


def codes_at(values: torch.Tensor, exponent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest codes of blocks at given scales, and the squared error of each block.

    values    (..., 32) float32; exponent (...) int32, of the scale
    returns   codes (..., 32) uint8, error (...) float64
    """
    scaled = torch.ldexp(values.abs(), -exponent[..., None])
    magnitude = torch.bucketize(scaled, _MIDPOINTS, out_int32=True)  # a tie goes down; it costs the same
    error = (_MAGNITUDES[magnitude] - scaled).double().square().sum(-1)
    codes = magnitude.to(torch.uint8) | (torch.signbit(values).to(torch.uint8) << 3)
    return codes, error * torch.ldexp(torch.ones_like(error), 2 * exponent)


def requantise(
    merged: torch.Tensor, blocks: torch.Tensor, scales: torch.Tensor, error: Error
) -> tuple[torch.Tensor, torch.Tensor]:
    """One expert's merged weight as MXFP4.

    merged   (out, in) float32
    blocks   (out, in/32, 16) uint8 and scales (out, in/32) uint8: the base's; error: is added to
    returns  the new blocks and scales
    """
    parts = [
        _rows(merged[start : start + ROWS], blocks[start : start + ROWS], scales[start : start + ROWS], error)
        for start in range(0, merged.shape[0], ROWS)
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _rows(merged, blocks, scales, error: Error) -> tuple[torch.Tensor, torch.Tensor]:
    values = merged.unflatten(-1, (-1, BLOCK))  # (out, in/32, 32)
    before = dequantise(blocks, scales, torch.float32).unflatten(-1, (-1, BLOCK))
    largest = values.abs().amax(-1)
    ocp = torch.where(largest > 0, torch.frexp(largest).exponent.int() - 1 - _CODE_EMAX, 0)
    ocp = ocp.clamp(-SCALE_BIAS, SCALE_MAX - SCALE_BIAS)
    best_codes, best_error = codes_at(values, ocp)
    best = ocp.clone()
    error.ocp += float(best_error.sum())
    for step in (1, -1):
        exponent = (ocp + step).clamp(-SCALE_BIAS, SCALE_MAX - SCALE_BIAS)
        codes, lost = codes_at(values, exponent)
        better = lost < best_error
        best_error = torch.where(better, lost, best_error)
        best = torch.where(better, exponent, best)
        best_codes = torch.where(better[..., None], codes, best_codes)
    untouched = (values == before).all(-1)
    error.weight += float(values.double().square().sum())
    error.update += float((values - before).double().square().sum())
    error.added += float(torch.where(untouched, 0.0, best_error).sum())
    return (
        torch.where(untouched[..., None], blocks, pack(best_codes)),
        torch.where(untouched, scales, (best + SCALE_BIAS).to(torch.uint8)),
    )
