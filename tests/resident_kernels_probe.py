"""Runs the GPU kernels of resident experts on a CPU, in Triton's interpreter, and prints how far off they are as JSON.

A process of its own: Triton decides at its import whether it interprets. bfloat16 is left out of the products, since
the interpreter multiplies its bit patterns as integers.
"""

# ruff: noqa: E402 (Triton reads its environment when it is imported)

import json
import os
import warnings

os.environ["TRITON_INTERPRET"] = "1"
warnings.filterwarnings("ignore")

import torch

from rft import mxfp4
from rft.resident import kernels, products, swiglu
from rft.resident.routing import Route


def bits(tensor):
    return tensor.contiguous().view(torch.int16)


def decoded() -> dict:
    """Every byte with every scale but the NaN, and a count that no program's share divides."""
    blocks = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(255, 16, 16).contiguous()
    scales = torch.arange(255, dtype=torch.uint8)[:, None].expand(255, 16).contiguous()
    whole = torch.equal(bits(kernels.decode(blocks, scales)), bits(mxfp4.decode(blocks, scales)))
    odd = torch.equal(
        kernels.decode(blocks[7:10, :3], scales[7:10, :3]), mxfp4.decode(blocks[7:10, :3], scales[7:10, :3])
    )
    return {"every_code_and_scale": whole, "odd_count": odd}


def activation() -> dict:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for rows, size in ((1, 32), (9, 544)):  # within one program's columns, and beyond them
        gate_up = (torch.randn(rows, 2 * size, generator=generator) * 6).requires_grad_()
        bias = torch.randn(3, 2 * size, generator=generator)
        experts = torch.sort(torch.randint(0, 3, (rows,), generator=generator)).values
        expected = swiglu.swiglu(gate_up, bias, experts, 1.702, 7.0)
        d_hidden = torch.randn(rows, size, generator=generator)
        (gradient,) = torch.autograd.grad(expected, gate_up, d_hidden)
        plain = gate_up.detach()
        found[f"{rows}x{size}"] = [
            (kernels.swiglu(plain, bias, experts, 1.702, 7.0) - expected).abs().max().item(),
            (kernels.swiglu_backward(d_hidden, plain, bias, experts, 1.702, 7.0) - gradient).abs().max().item(),
            (plain.abs() > 7).float().mean().item(),  # share of values that are clamped
        ]
    return found


def product() -> dict:
    """Largest error against the loop, relative to the largest value."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tokens, top_k, out_size, in_size, among in (
        ("one token", 1, 1, 64, 64, [3]),
        ("empty experts, odd sizes", 40, 2, 160, 96, [1, 2, 5]),
        ("one expert, several tiles", 140, 1, 32, 32, [0]),
        ("wider than a tile", 5, 2, 288, 64, [0, 1, 6]),
    ):
        blocks = torch.randint(0, 256, (7, out_size, in_size // 32, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(120, 127, (7, out_size, in_size // 32), dtype=torch.uint8, generator=generator)
        picks = [torch.tensor(among)[torch.randperm(len(among), generator=generator)][:top_k] for _ in range(tokens)]
        route = Route.of(torch.stack(picks), 7, True)
        for transposed in (False, True):
            for dtype in (torch.float32, torch.float16):
                rows = torch.randn(tokens * top_k, out_size if transposed else in_size, generator=generator).to(dtype)
                result = kernels.grouped_product(rows, blocks, scales, route, transposed)
                expected = products._product(rows.double(), blocks, scales, route, "loop", transposed)
                off = (result.double() - expected).abs().max() / expected.abs().max()
                found[f"{name}, {'back' if transposed else 'forward'}, {dtype}"] = off.item()
    return found


if __name__ == "__main__":
    print(json.dumps({"decode": decoded(), "activation": activation(), "product": product()}))
