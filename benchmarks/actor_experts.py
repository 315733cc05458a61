"""`actor.py --part experts`: one layer's experts, random MXFP4 weights and routing, forward and backward."""

from contextlib import nullcontext
from types import SimpleNamespace

WAYS = ["train", "eval", "resident"]


def passes(way: str) -> tuple[str, ...]:
    return ("forward",) if way == "eval" else ("forward", "both")


def material(args):
    return nullcontext([])


def operations(args, name: str) -> int:
    """Useful floating-point operations: two products of S rows forward, their two transposes backward."""
    _, top_k, hidden, inter = _geometry(args)
    return 6 * args.tokens * top_k * hidden * inter * (2 if name == "both" else 1)


def held_bytes(calls: dict) -> int:
    return sum(tensor.nbytes for tensor in calls["experts"].state_dict().values())


def prepare(args, way: str) -> dict:
    """The passes of one way as calls; the same seed gives every way the same weights, tokens and routing."""
    import torch

    experts = _experts(args, way)
    experts.train(way != "eval")
    count, top_k, hidden, _ = _geometry(args)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, args.tokens, hidden, generator=generator).bfloat16().to(args.device)
    logits = torch.randn(args.tokens, count, generator=generator).to(args.device)
    top, indices = logits.topk(top_k, dim=-1)
    weights = torch.zeros_like(logits).scatter(1, indices, top.softmax(-1)).bfloat16()
    dy = torch.ones_like(x)

    def forward():
        with torch.no_grad():
            experts(x, router_indices=indices, routing_weights=weights)

    def both():
        leaf, scores = x.detach().requires_grad_(), weights.detach().requires_grad_()
        experts(leaf, router_indices=indices, routing_weights=scores).backward(dy)

    return {"forward": forward, "both": both, "experts": experts}


def _geometry(args) -> tuple[int, int, int, int]:
    from actor import MODELS

    return MODELS[args.model]


def _experts(args, way: str):
    import torch

    from rft import mxfp4
    from rft.resident.experts import PROJECTIONS, ResidentExperts

    count, _, hidden, inter = _geometry(args)
    config = SimpleNamespace(num_local_experts=count, hidden_size=hidden, intermediate_size=inter)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, rows, columns in ((PROJECTIONS[0], 2 * inter, hidden), (PROJECTIONS[1], hidden, inter)):
        shape = (count, rows, columns // mxfp4.BLOCK)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        tensors[f"{name}_scales"] = torch.randint(119, 122, shape, dtype=torch.uint8, generator=generator)
        tensors[f"{name}_bias"] = torch.zeros(count, rows, dtype=torch.bfloat16)
    if way == "resident":
        experts = ResidentExperts(config, device="meta")
        experts.load_tensors({name: tensor.to(args.device) for name, tensor in tensors.items()})
        experts.backend = args.backend
        return experts
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    with torch.device("meta"):
        experts = GptOssExperts(config).bfloat16()
    experts = experts.to_empty(device=args.device).requires_grad_(False)
    with torch.no_grad():
        for name in PROJECTIONS:
            for e in range(count):  # one expert's floating weight at a time, so that making is not the peak
                weight = mxfp4.decode(tensors[f"{name}_blocks"][e], tensors[f"{name}_scales"][e])
                getattr(experts, name)[e].copy_(weight.t())
            getattr(experts, f"{name}_bias").copy_(tensors[f"{name}_bias"])
    return experts
