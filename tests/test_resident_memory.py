"""What resident experts keep and need, against what rft.resident.memory reckons with."""

import itertools

import pytest
import resident_kit as kit
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rft.resident import memory, swiglu


class LargestFloat(TorchDispatchMode):
    """The largest floating tensor that any operation makes, in elements."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.largest = max(self.largest, tensor.numel())
        return out


def test_no_more_than_one_experts_weight_is_ever_floating_on_a_cpu():
    config = kit.geometry(experts=16, hidden=64, inter=64)
    experts = kit.resident(config)
    indices, logits = kit.routing(6, config, dtype=torch.bfloat16)
    with LargestFloat() as seen:
        kit.run(experts, torch.ones(1, 6, 64).bfloat16(), indices, logits)
    assert 128 * 64 <= seen.largest < 2 * 128 * 64


def test_backward_needs_no_floating_weight_to_be_kept():
    config = kit.geometry(experts=16, hidden=64, inter=64)
    experts = kit.resident(config)
    indices, logits = kit.routing(6, config, dtype=torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        experts(torch.ones(1, 6, 64).bfloat16().requires_grad_(), indices, kit.weights_of(indices, logits, 16))
    assert max(t.numel() for t in kept if t.dtype == torch.uint8) == 16 * 128 * 2 * 16
    assert max(t.numel() for t in kept if t.is_floating_point()) <= 16 * 128  # the biases; rows 12 * 128


def test_what_autograd_keeps_is_what_the_plan_reckons_with():
    tokens, config = 500, kit.geometry(experts=8, hidden=128, inter=96, top_k=4)
    experts = kit.resident(config)
    indices, logits = kit.routing(tokens, config, dtype=torch.bfloat16)
    weights = kit.weights_of(indices, logits, 8)
    kept = {}

    def keep(tensor):
        if tensor.is_floating_point() and tensor.numel() > 8 * 192:  # the biases are weights, counted there
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        experts(torch.ones(1, tokens, 128).bfloat16().requires_grad_(), indices, weights)
    found = memory.layer_bytes(tokens, 4, 8, 128, 96, "loop", gradient=True).kept
    assert found <= sum(kept.values()) <= 1.02 * found  # and the tokens' few weights


def peak_allocated(call) -> int:
    """Bytes that torch had allocated on the CPU at the most during the call, on top of what was there before."""
    from torch.profiler import ProfilerActivity, profile

    call()  # tables and gradients that stay
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns()))
    return max(held)


@pytest.mark.parametrize(("hidden", "inter"), [(256, 256), (256, 128), (128, 256)])
@pytest.mark.parametrize("gradient", [False, True])
def test_peak_memory_is_what_the_plan_reckons_with(monkeypatch, hidden, inter, gradient):
    monkeypatch.setattr(swiglu, "SLICE_ROWS", 16)  # real rows are many slices
    tokens, config = 400, kit.geometry(experts=8, hidden=hidden, inter=inter, top_k=4)
    experts = kit.resident(config)
    indices, logits = kit.routing(tokens, config, dtype=torch.bfloat16)
    weights = kit.weights_of(indices, logits, 8).detach().requires_grad_()
    x = torch.ones(1, tokens, hidden).bfloat16().requires_grad_()

    def call():
        with torch.set_grad_enabled(gradient):
            y = experts(x, indices, weights)
        if gradient:
            y.sum().backward()

    reckoned = memory.layer_bytes(tokens, 4, 8, hidden, inter, "loop", gradient).peak
    assert 0.9 < peak_allocated(call) / reckoned < 1.1
