"""Attention with sinks that trains: the names that ``--attn_implementation`` takes, and what transformers is told.

``sinks_tiled`` (`rft.attention_tiled`) is plain torch for any device, ``sinks_flex`` (`rft.attention_flex`) torch's
flex_attention on a GPU; both have exact gradients for queries, keys, values and sinks, and memory linear in length.
``eager`` is the reference. `register` is called by `rft.model_load` before ``from_pretrained``, in every ZeRO rank;
this module imports torch and transformers only there, so that `rft.inputs` can ask for the names at once.
"""

from rft.errors import RftError

#: implementations that keep gpt-oss's sinks in forward and backward
SINK_SAFE = ("eager", "sinks_tiled", "sinks_flex", "flex_attention")
OURS = ("sinks_tiled", "sinks_flex")
MODEL_TYPE = "gpt_oss"


def register() -> None:
    """Makes `OURS` known to transformers, for ``attn_implementation=`` and for the masks; again is harmless."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register("sinks_tiled", _tiled)
    AttentionMaskInterface.register("sinks_tiled", _span_mask)
    AttentionInterface.register("sinks_flex", _flex)
    AttentionMaskInterface.register("sinks_flex", _block_mask)


def check(attn_implementation: str, device: str) -> None:
    """Whether this implementation runs on a device of type "cuda" or "cpu".

    raises  RftError if it drops the sinks, or is for the other device
    """
    flag = f"--attn_implementation {attn_implementation}"
    if attn_implementation not in SINK_SAFE:
        raise RftError(f"{flag}: drops gpt-oss's attention sinks or their gradient; use one of: {', '.join(SINK_SAFE)}")
    if device == "cpu" and "flex" in attn_implementation:
        raise RftError(f"{flag}: has no backward on a CPU; use sinks_tiled or eager")


def _span_mask(batch_size, cache_position, kv_length, kv_offset=0, attention_mask=None, config=None, **kwargs):
    """transformers' mask function: `rft.attention_spans.Keys` of the batch."""
    from rft.attention_spans import Keys

    _check_model("sinks_tiled", config)
    if kv_length != len(cache_position) and kv_offset + kv_length != int(cache_position[-1]) + 1:
        raise RftError("--attn_implementation sinks_tiled: a cache with unused slots is not supported; use eager")
    return Keys.from_mask(attention_mask, batch_size, kv_length, kv_offset)


def _block_mask(batch_size, cache_position, *args, config=None, **kwargs):
    """transformers' mask function: a ``BlockMask``, which the fused kernel reads."""
    from transformers.masking_utils import flex_attention_mask

    _check_model("sinks_flex", config)
    check("sinks_flex", cache_position.device.type)
    return flex_attention_mask(batch_size, cache_position, *args, config=config, **kwargs)


def _check_model(name: str, config) -> None:
    """Other models' masks have parts (packing, overlays) that would be dropped here without a word."""
    if getattr(config, "model_type", None) != MODEL_TYPE:
        found = getattr(config, "model_type", None)
        raise RftError(f"--attn_implementation {name} is for {MODEL_TYPE}, not for {found}; use eager")


def _arguments(name: str, keys, dropout: float, mask_type: type) -> None:
    if dropout:
        raise RftError(f"--attn_implementation {name}: attention_dropout {dropout} is not supported; use eager")
    if keys is not None and not isinstance(keys, mask_type):
        what = f"a prepared mask ({type(keys).__name__})"
        raise RftError(
            f"--attn_implementation {name}: {what} is not supported; pass a mask of (batch, tokens), or eager"
        )


def _tiled(module, query, key, value, attention_mask, scaling, dropout=0.0, sliding_window=None, s_aux=None, **kwargs):
    """transformers' attention function: ((B, Q, H, D), None)."""
    from rft.attention_spans import Keys
    from rft.attention_tiled import sink_attention

    _arguments("sinks_tiled", attention_mask, dropout, Keys)
    return sink_attention(query, key, value, s_aux, attention_mask, window=sliding_window, scale=scaling), None


def _flex(module, query, key, value, attention_mask, scaling, dropout=0.0, sliding_window=None, s_aux=None, **kwargs):
    """transformers' attention function: ((B, Q, H, D), None); the window is in the block mask."""
    from torch.nn.attention.flex_attention import BlockMask

    from rft.attention_flex import flex_sink_attention

    _arguments("sinks_flex", attention_mask, dropout, BlockMask)
    return flex_sink_attention(query, key, value, s_aux, attention_mask, scaling), None
