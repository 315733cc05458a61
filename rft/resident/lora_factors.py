"""Low-rank additions to the experts' weights: rows @ (lhs[e] @ rhs[e]) * scaling, without the dense product.

Plain autograd, so that both factors train. Called by `rft.resident.experts` with what `rft.resident.lora` holds.
"""

from typing import NamedTuple

import torch

from rft.resident import products


class Factors(NamedTuple):
    """delta[e] = scaling * lhs[e] @ rhs[e], of the orientation (in, out) that transformers' expert tensors have.

    lhs (E, in, r), rhs (E, r, out), floating, any dtype: cast to the rows' own
    """

    lhs: torch.Tensor
    rhs: torch.Tensor
    scaling: float


def product(rows: torch.Tensor, factors: Factors, route, backend: str) -> torch.Tensor:
    """scaling * (rows[s] @ lhs[e]) @ rhs[e], e = expert_of_row[s].

    rows (S, in) -> (S, out) in the dtype of rows
    """
    lhs, rhs = factors.lhs.to(rows.dtype), factors.rhs.to(rows.dtype)
    # Ranks that are no multiple of 8 break the 16-byte rule of torch's grouped product.
    if backend != "loop" and products.grouped_mm() is not None and lhs.shape[-1] % 8 == 0:
        grouped = products.grouped_mm()
        return grouped(grouped(rows, lhs.contiguous(), offs=route.ends), rhs.contiguous(), offs=route.ends) * (
            factors.scaling
        )
    parts = [rows[first:end] @ lhs[e] @ rhs[e] for e, first, end in route.spans()]
    if not parts:
        return rows @ lhs[0] @ rhs[0]  # no rows: empty, but part of the graph
    return torch.cat(parts) * factors.scaling
