"""gpt-oss in GGUF's terms: names, hyper-parameters, vocabulary, and the layout of MXFP4 blocks.

What llama.cpp expects of the architecture ``gpt-oss`` (its loader and its converter): gate and up are apart where
transformers interleaves their rows; a block as its scale byte and 16 bytes in which element j is the low
nibble of byte j and element j + 16 the high one. Values are the same bits as in the checkpoint. The file is written by
the `gguf` library. Main thread.
"""

import json
import re
from pathlib import Path

from rft.errors import RftError

ARCH = "gpt-oss"
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.o_proj.bias": "attn_output.bias",
    "self_attn.sinks": "attn_sinks.weight",
    "mlp.router.weight": "ffn_gate_inp.weight",
    "mlp.router.bias": "ffn_gate_inp.bias",
}
OTHER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
PRE_TOKENIZER = "gpt-4o"  # llama.cpp's name for the splitting rule of gpt-oss's vocabulary (o200k)
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType
# llama.cpp wants a merge table even of a vocabulary without merges; these two bytes never meet in UTF-8.
NO_MERGES = ["ÿ ÿ"]


def name_of(tensor: str) -> str | None:
    """GGUF's name of a tensor of the checkpoint; None for experts, which are taken apart."""
    if tensor in OTHER_NAMES:
        return OTHER_NAMES[tensor]
    match = _LAYER.fullmatch(tensor)
    if match and match[2] in LAYER_NAMES:
        return f"blk.{match[1]}.{LAYER_NAMES[match[2]]}"
    return None


def repack(blocks, scales):
    """The checkpoint's blocks (rows, in/32, 16) and scales (rows, in/32) as GGUF's (rows, in/32 * 17), all uint8."""
    import torch

    from rft.mxfp4 import unpack

    codes = unpack(blocks)  # (rows, in/32, 32)
    packed = codes[..., :16] | (codes[..., 16:] << 4)
    return torch.cat((scales[..., None], packed), dim=-1).flatten(-2).contiguous()


def writer(path: Path, config: dict, name: str):
    """A GGUFWriter of gpt-oss with its hyper-parameters.

    raises  RftError: a rope scaling that llama.cpp's gpt-oss does not have
    """
    import gguf

    made = gguf.GGUFWriter(path, ARCH)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) != "yarn":
        raise RftError(f"rope_scaling {scaling!r}: llama.cpp's gpt-oss knows YaRN only; serve the model with vLLM")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    made.add_name(name)
    made.add_context_length(config["max_position_embeddings"])
    made.add_embedding_length(config["hidden_size"])
    made.add_block_count(config["num_hidden_layers"])
    made.add_feed_forward_length(config["intermediate_size"])
    made.add_expert_feed_forward_length(config["intermediate_size"])
    made.add_head_count(config["num_attention_heads"])
    made.add_head_count_kv(config["num_key_value_heads"])
    made.add_key_length(head_dim)
    made.add_value_length(head_dim)
    made.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-5))
    made.add_expert_count(config["num_local_experts"])
    made.add_expert_used_count(config["num_experts_per_tok"])
    made.add_sliding_window(config["sliding_window"])
    made.add_rope_dimension_count(head_dim)
    made.add_rope_freq_base(config.get("rope_theta", 150000.0))
    made.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    made.add_rope_scaling_factor(scaling["factor"])
    made.add_rope_scaling_orig_ctx_len(scaling.get("original_max_position_embeddings", 4096))
    made.add_rope_scaling_yarn_beta_fast(scaling.get("beta_fast", 32.0))
    made.add_rope_scaling_yarn_beta_slow(scaling.get("beta_slow", 1.0))
    made.add_vocab_size(config["vocab_size"])
    return made


def add_tokenizer(made, folder: Path, config: dict, template: str, stops: list[int]) -> None:
    """Vocabulary, merges, special tokens and the chat template, from tokenizer.json.

    stops   ids that end an answer, the closing one first
    raises  RftError: no byte-level BPE
    """
    path = folder / "tokenizer.json"
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        model, added = read["model"], read["added_tokens"]
        vocabulary = {index: text for text, index in model["vocab"].items()}
    except (OSError, ValueError, KeyError, AttributeError) as err:
        raise RftError(f"{path}: not readable as a tokenizer ({err!r}); fetch the base again") from err
    if model.get("type") != "BPE":
        raise RftError(f"{path}: a {model.get('type')} tokenizer; gpt-oss has a byte-level BPE, fetch the base again")
    size = config["vocab_size"]
    texts = [vocabulary.get(index, f"[PAD{index}]") for index in range(size)]
    types = [NORMAL if index in vocabulary else UNUSED for index in range(size)]
    for token in added:
        texts[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    made.add_tokenizer_model("gpt2")
    made.add_tokenizer_pre(PRE_TOKENIZER)
    made.add_token_list(texts)
    made.add_token_types(types)
    made.add_token_merges(merges or NO_MERGES)
    made.add_eos_token_id(stops[0])
    if config.get("pad_token_id") is not None:
        made.add_pad_token_id(config["pad_token_id"])
    made.add_add_bos_token(False)
    made.add_chat_template(template)


def stop_ids(folder: Path, config: dict) -> list[int]:
    """generation_config.json's end tokens, config.json's first."""
    found = [config.get("eos_token_id")]
    path = folder / "generation_config.json"
    if path.is_file():
        found.append(json.loads(path.read_text(encoding="utf-8")).get("eos_token_id"))
    ids = [one for item in found for one in (item if isinstance(item, list) else [item]) if one is not None]
    if not ids:
        raise RftError(f"{folder}: no eos_token_id in config.json; fetch the base again")
    return list(dict.fromkeys(ids))
