"""One numerics for scoring and for training.

Called around the no-grad log-prob passes of actor and reference. In ``eval()`` transformers' gpt-oss experts run a
dense path on a GPU: every expert for every token (8x the FLOPs for 20b, 32x for 120b) with other rounding than the
training path, so that the first optimizer step's ratio is not 1. Here everything is in ``eval()`` (no dropout) except
the experts.
"""

from contextlib import contextmanager

from torch import nn


def is_experts(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Experts")


@contextmanager
def logprob_mode(model: nn.Module):
    """``model.eval()`` with the expert modules left in ``train()``; the model's modes are restored afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for module in modes:
        if is_experts(module):
            module.training = True
    try:
        yield model
    finally:
        for module, training in modes.items():
            module.training = training
