"""A model without weights: every parameter on the meta device, every buffer real.

Buffers are computed as `from_pretrained` computes them (rotary ``inv_freq`` in fp32, on the CPU), because nothing here
runs under `zero.Init`. Called by the streamed loader, main thread, any rank.
"""

import torch
from torch import nn

from rft.errors import RftError
from rft.loading.placement import FORMS


def empty_model(config, attn_implementation: str, dtype: torch.dtype, experts: str) -> nn.Module:
    """A gpt-oss in evaluation mode.

    config   the checkpoint's; a copy without its quantisation entry is what the model keeps
    experts  ``dequantised``: weights (E, in, out) of `dtype`; ``resident``: `rft.resident`'s uint8 blocks and scales
    raises   RftError for another architecture or form
    """
    from copy import deepcopy

    from transformers import AutoModelForCausalLM
    from transformers.integrations.accelerate import init_empty_weights
    from transformers.modeling_utils import no_init_weights

    if experts not in FORMS:
        raise RftError(f"--experts {experts}: use one of {', '.join(FORMS)}")
    if config.model_type != "gpt_oss":
        raise RftError(f"model_type {config.model_type}: streamed loading knows gpt_oss only; leave --experts out")
    config = deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with no_init_weights(), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation, dtype=dtype)
        if experts == "resident":
            from rft.resident.experts import replace_experts

            replace_experts(model)
    model.tie_weights()  # each registration on meta made a parameter of its own
    return model.eval()
