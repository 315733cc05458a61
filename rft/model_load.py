"""How the actor and the reference model are read from a checkpoint.

Called by the patched ``openrlhf.models.actor.Actor`` in every ZeRO rank. MXFP4 checkpoints (gpt-oss as published) have
to be dequantised to bf16, which is exact, and on the CPU: transformers' own default, ``quantization_config=None``,
keeps the experts quantised, and those have no backward. Nothing here runs under ``zero.Init``: with it, 2 ranks load
wrong expert weights and bf16 YaRN bands (NaN at the first forward); DeepSpeed partitions afterwards instead, so every
rank needs host memory for one whole bf16 copy (rft.loading, under --stream_load, needs one for all of them).
"""

from rft.attention import OURS, SINK_SAFE, register
from rft.errors import RftError


def checkpoint_config(pretrain: str):
    """The `transformers` configuration of a checkpoint; RftError if it cannot be read."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(pretrain, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise RftError(
            f"--pretrain {pretrain}: no readable configuration ({error}); give a folder with config.json or a hub id"
        ) from error


def is_mxfp4(config) -> bool:
    quantization = getattr(config, "quantization_config", None) or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization.quant_method
    return str(getattr(method, "value", method)) == "mxfp4"


def load_options(pretrain: str, attn_implementation: str, quantization_config=None, device_map=None) -> dict:
    """Keyword arguments for ``from_pretrained``: dequantised and on the CPU where the checkpoint is MXFP4.

    raises  RftError for an attention that drops gpt-oss's sinks without a word
    """
    config = checkpoint_config(pretrain)
    if config.model_type == "gpt_oss" and attn_implementation not in SINK_SAFE:
        raise RftError(
            f"--attn_implementation {attn_implementation} drops the attention sinks of {pretrain} in training; "
            f"use one of: {', '.join(SINK_SAFE)}"
        )
    if attn_implementation in OURS:
        register()
    if is_mxfp4(config) and quantization_config is None:
        from transformers import Mxfp4Config

        quantization_config, device_map = Mxfp4Config(dequantize=True), "cpu"
    return {"quantization_config": quantization_config, "device_map": device_map}
