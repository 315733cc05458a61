"""Causal attention with sinks by torch's flex_attention, for a GPU.

flex_attention does not know sinks. It returns the log of each query's sum of exponentials, and the sink's share comes
off afterwards: out * sum / (sum + exp(sink)) = out * sigmoid(lse - sink). That is in float32: transformers'
``flex_attention`` casts the log-sum-exp to bf16 first, an error of up to 2^-9 of it in every weight. flex_attention's
backward takes the gradient of the log-sum-exp, so that queries' and keys' are exact.
"""

import functools

import torch

from rft.errors import RftError

#: without it short batches would take another kernel (split over the keys), with other rounding than long ones
KERNEL_OPTIONS = {"FORCE_USE_FLEX_ATTENTION": True}


def flex_sink_attention(query, key, value, sinks, block_mask, scale: float, compiled: bool = True) -> torch.Tensor:
    """As `rft.attention_tiled.sink_attention`, but causality, window and padding are in the block mask.

    query       (B, H, Q, D) bf16 or float32 on a GPU
    key, value  (B, K, S, D), K divides H
    sinks       (H,) logits
    block_mask  ``BlockMask`` of (B, 1, Q, S), or None: every query sees every key
    compiled    False: torch's own slow form, which has all scores in memory; for tests
    returns     (B, Q, H, D), the query's dtype
    raises      RftError where torch.compile is switched off
    """
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    attend = _compiled() if compiled else flex_attention
    out, aux = attend(
        query,
        key,
        value,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=KERNEL_OPTIONS,
        return_aux=AuxRequest(lse=True),
    )
    return fold_sinks(out, aux.lse, sinks).transpose(1, 2).contiguous()


def fold_sinks(out: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
    """Attention without sinks -> with them.

    out      (B, H, Q, D)
    lse      (B, H, Q), natural logarithm, at least float32; -inf of a query that sees no key
    sinks    (H,)
    returns  (B, H, Q, D), of `out`'s dtype
    """
    share = torch.sigmoid(lse - sinks.to(lse.dtype)[:, None])
    return (out * share[..., None]).to(out.dtype)


@functools.cache
def _compiled():
    """One compiled form for training and scoring: the same kernels, the same numbers."""
    from torch.nn.attention.flex_attention import flex_attention

    if torch._dynamo.config.disable:
        what = "torch.compile is switched off (TORCHDYNAMO_DISABLE), without which all scores are kept"
        raise RftError(f"--attn_implementation sinks_flex: {what}; unset it, or use sinks_tiled")
    return torch.compile(flex_attention)
