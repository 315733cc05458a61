"""Random MXFP4 experts, a routing, and a float64 reference written as loops over tokens and experts."""

from types import SimpleNamespace

import torch

from rft import mxfp4
from rft.resident.experts import PROJECTIONS, ResidentExperts


def geometry(experts=4, hidden=64, inter=32, top_k=2) -> SimpleNamespace:
    return SimpleNamespace(
        num_local_experts=experts, hidden_size=hidden, intermediate_size=inter, num_experts_per_tok=top_k
    )


def tensors(config, seed=0, dtype=torch.bfloat16, spread=0.3) -> dict[str, torch.Tensor]:
    """The checkpoint's six tensors of one layer's experts."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {
        "gate_up_proj": (2 * config.intermediate_size, config.hidden_size),
        "down_proj": (config.hidden_size, config.intermediate_size),
    }
    made = {}
    for name in PROJECTIONS:
        weight = torch.randn(config.num_local_experts, *sizes[name], generator=generator) * spread
        made[f"{name}_blocks"], made[f"{name}_scales"] = mxfp4.quantise(weight)
        bias = torch.randn(config.num_local_experts, sizes[name][0], generator=generator) * spread
        made[f"{name}_bias"] = bias.to(dtype)
    return made


def resident(config, seed=0, dtype=torch.bfloat16, spread=0.3) -> ResidentExperts:
    made = ResidentExperts(config, device="meta", dtype=dtype)
    made.load_tensors(tensors(config, seed, dtype, spread))
    return made


def stock(experts: ResidentExperts, config, dtype):
    """transformers' experts with the same weights."""
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    made = GptOssExperts(config).to(dtype)
    with torch.no_grad():
        for name in PROJECTIONS:
            blocks, scales = getattr(experts, f"{name}_blocks"), getattr(experts, f"{name}_scales")
            getattr(made, name).copy_(mxfp4.dequantise_expert(blocks, scales, dtype))
            getattr(made, f"{name}_bias").copy_(getattr(experts, f"{name}_bias"))
    return made.requires_grad_(False)


def routing(tokens, config, seed=0, dtype=torch.float64, among=None):
    """(router_indices (T, K), logits (T, K) leaf): experts drawn from `among` (all of them)."""
    generator = torch.Generator().manual_seed(seed + 1)
    among = torch.tensor(range(config.num_local_experts) if among is None else among)
    picks = [among[torch.randperm(len(among), generator=generator)] for _ in range(tokens)]
    indices = torch.stack(picks)[:, : config.num_experts_per_tok]
    logits = torch.randn(tokens, config.num_experts_per_tok, generator=generator, dtype=torch.float64)
    return indices, logits.to(dtype).requires_grad_()


def weights_of(indices, logits, experts: int) -> torch.Tensor:
    """The router's (T, E) scores, as transformers' router makes them."""
    zeros = torch.zeros(len(indices), experts, dtype=logits.dtype)
    return zeros.scatter(1, indices, logits.softmax(-1))


def reference(experts: ResidentExperts, x, indices, weights) -> torch.Tensor:
    """Token by token, expert by expert, float64; x (T, H), weights (T, E) -> (T, H)."""

    def weight(name, e):
        blocks, scales = getattr(experts, f"{name}_blocks")[e], getattr(experts, f"{name}_scales")[e]
        return mxfp4.dequantise(blocks, scales, torch.float64), getattr(experts, f"{name}_bias")[e].double()

    rows = []
    for t, chosen in enumerate(indices.tolist()):
        row = torch.zeros(x.shape[1], dtype=torch.float64)
        for e in chosen:
            w, b = weight("gate_up_proj", e)
            gate_up = w @ x[t].double() + b
            gate, up = gate_up[0::2].clamp(max=experts.limit), gate_up[1::2].clamp(-experts.limit, experts.limit)
            w, b = weight("down_proj", e)
            row = row + weights[t, e].double() * (w @ ((up + 1) * gate * torch.sigmoid(1.702 * gate)) + b)
        rows.append(row)
    return torch.stack(rows)


def run(experts, x, indices, logits, seed=3):
    """Output and the gradients of x and of the router's logits, for a fixed random gradient of the output."""
    count = getattr(experts, "num_experts", None)
    x = x.detach().requires_grad_()
    logits = logits.detach().requires_grad_()
    y = experts(x, router_indices=indices, routing_weights=weights_of(indices, logits, count))
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, (x, logits), dy)


def run_reference(experts, x, indices, logits, seed=3):
    """The same three in float64 by `reference`, from the same (rounded) inputs."""
    flat = x.detach().double().reshape(-1, x.shape[-1]).requires_grad_()
    logits = logits.detach().double().requires_grad_()
    y = reference(experts, flat, indices, weights_of(indices, logits, experts.num_experts))
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    dx, d_logits = torch.autograd.grad(y, (flat, logits), dy.to(x.dtype).double().reshape(y.shape))
    return y.detach().view(x.shape), dx.view(x.shape), d_logits
