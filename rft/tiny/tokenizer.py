"""Tokenizer of the tiny model: bytes, a few whole words, and Harmony's special tokens by their exact strings.

Ids: 0-255 the bytes, then `WORDS`, then the special tokens, then reserved ones up to `VOCAB_SIZE`. Any text round-trips
through the bytes; the words only keep prompts and answers short (about 20 and 8-18 tokens). The chat template is
Harmony's form with a short system message and no date, so prompts are reproducible.
"""

from pathlib import Path

VOCAB_SIZE = 320
WORDS = (
    "\\boxed{",
    " + ",
    "What is ",
    "Reasoning: ",
    "\n\n# Valid channels: analysis, commentary, final.",
    "low",
    "medium",
    "high",
    "system",
    "developer",
    "user",
    "assistant",
    "analysis",
    "commentary",
    "final",
)
SPECIAL_TOKENS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)
CHAT_TEMPLATE = """\
{%- set effort = reasoning_effort if reasoning_effort is defined and reasoning_effort else "medium" -%}
{{- "<|start|>system<|message|>Reasoning: " + effort -}}
{{- "\\n\\n# Valid channels: analysis, commentary, final.<|end|>" -}}
{%- for message in messages -%}
{%- if message.role == "assistant" -%}
{{- "<|start|>assistant<|channel|>final<|message|>" + message.content -}}
{{- "<|return|>" if loop.last and not add_generation_prompt else "<|end|>" -}}
{%- else -%}
{{- "<|start|>" + ("developer" if message.role == "system" else message.role) + "<|message|>" + message.content -}}
{{- "<|end|>" -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "<|start|>assistant" -}}{%- endif -%}
"""


def build_tokenizer():
    """The tokenizer as a `PreTrainedTokenizerFast`; eos is <|return|>, pad is <|endoftext|>, padding on the left."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    letters = bytes_to_unicode()
    core = Tokenizer(models.BPE(vocab={letters[byte]: byte for byte in range(256)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_tokens([AddedToken(word, normalized=False, special=False) for word in WORDS])
    used = 256 + len(WORDS) + len(SPECIAL_TOKENS)
    reserved = [f"<|reserved_{number}|>" for number in range(used, VOCAB_SIZE)]
    core.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in (*SPECIAL_TOKENS, *reserved)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|startoftext|>",
        eos_token="<|return|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(tokenizer, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
