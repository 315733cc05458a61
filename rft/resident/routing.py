"""Which row goes to which expert: tokens out to their experts, results back to their tokens.

Rows are sorted by expert, stable in token order. Both directions are permutations written as gathers, forward and
backward, so that no sum depends on the order in which a GPU's threads arrive. Called by `rft.resident.experts`.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Route:
    """S = T*K rows sorted by expert.

    token_of_row   (S,) int64: the token whose copy a row is
    expert_of_row  (S,) int64, ascending
    row_of_slot    (T, K) int64: where slot k of token t went
    ends           (E,) int32: rows of expert e are [ends[e-1], ends[e])
    host_ends      the same as a list, or None where nobody on the host needs it (asking would wait for the device)
    """

    token_of_row: torch.Tensor
    expert_of_row: torch.Tensor
    row_of_slot: torch.Tensor
    ends: torch.Tensor
    host_ends: list[int] | None

    @classmethod
    @torch.no_grad()
    def of(cls, router_indices: torch.Tensor, num_experts: int, on_host: bool) -> "Route":
        """router_indices (T, K) int64 in [0, E)."""
        expert_of_slot = router_indices.reshape(-1)  # (S,)
        expert_of_row, slot_of_row = torch.sort(expert_of_slot, stable=True)
        row_of_slot = torch.empty_like(slot_of_row)
        row_of_slot[slot_of_row] = torch.arange(slot_of_row.numel(), device=slot_of_row.device)
        experts = torch.arange(num_experts, device=slot_of_row.device)
        ends = torch.searchsorted(expert_of_row, experts, right=True).to(torch.int32)
        return cls(
            token_of_row=slot_of_row // router_indices.shape[1],
            expert_of_row=expert_of_row,
            row_of_slot=row_of_slot.view(router_indices.shape),
            ends=ends,
            host_ends=ends.tolist() if on_host else None,
        )

    def spans(self) -> list[tuple[int, int, int]]:
        """(expert, first row, row after the last) of each expert that has rows; needs `host_ends`."""
        starts = [0, *self.host_ends[:-1]]
        return [(e, a, b) for e, (a, b) in enumerate(zip(starts, self.host_ends, strict=True)) if b > a]


def dispatch(x: torch.Tensor, route: Route) -> torch.Tensor:
    """x (T, H) -> rows (S, H): each token's copy for each of its experts."""
    return _Dispatch.apply(x, route)


def collect(out: torch.Tensor, top_weights: torch.Tensor, bias: torch.Tensor, route: Route) -> torch.Tensor:
    """Each token's weighted sum over its experts, products and sum in float32 (or wider), rounded once.

    out          (S, H): rows of the down projection, without its bias
    top_weights  (T, K), in the dtype of `out`
    bias         (E, H): of the down projection
    returns      (T, H)
    """
    experts = route.expert_of_row[route.row_of_slot]  # (T, K)
    # The biases' part as one small product, so that no (S, H) tensor of biases is made.
    dense = top_weights.new_zeros(top_weights.shape[0], bias.shape[0]).scatter(1, experts, top_weights)  # (T, E)
    return _Collect.apply(out, top_weights, dense @ bias.to(out.dtype), route)


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, route):
        ctx.route = route
        return x.index_select(0, route.token_of_row)

    @staticmethod
    def backward(ctx, d_rows):
        slots = ctx.route.row_of_slot
        return d_rows.index_select(0, slots.reshape(-1)).view(*slots.shape, d_rows.shape[1]).sum(1), None


class _Collect(torch.autograd.Function):
    """y[t] = base[t] + sum over k of w[t, k] * out[row_of_slot[t, k]]"""

    @staticmethod
    def forward(ctx, out, top_weights, base, route):
        ctx.save_for_backward(out, top_weights)
        ctx.route = route
        slots = _by_slot(out, route)  # (T, K, H)
        return torch.baddbmm(base[:, None], top_weights[:, None], slots)[:, 0]

    @staticmethod
    def backward(ctx, dy):
        out, top_weights = ctx.saved_tensors
        route = ctx.route
        d_out = d_weights = None
        if ctx.needs_input_grad[0]:
            weight_of_row = torch.empty_like(top_weights).view(-1)
            weight_of_row[route.row_of_slot.reshape(-1)] = top_weights.reshape(-1)
            d_out = dy.index_select(0, route.token_of_row).mul_(weight_of_row[:, None])
        if ctx.needs_input_grad[1]:
            d_weights = torch.bmm(_by_slot(out, route), dy[:, :, None])[:, :, 0]
        return d_out, d_weights, dy if ctx.needs_input_grad[2] else None, None


def _by_slot(out: torch.Tensor, route: Route) -> torch.Tensor:
    """Rows (S, H) in token order: (T, K, H)."""
    return out.index_select(0, route.row_of_slot.reshape(-1)).view(*route.row_of_slot.shape, out.shape[1])
