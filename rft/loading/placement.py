"""Where the actor's weights can lie, what that holds on each GPU and what it moves: arithmetic, no measurement.

Three placements of a gpt-oss on `ranks` GPUs, each for experts kept as MXFP4 (``resident``) or as bf16
(``dequantised``):

whole            every GPU holds all weights; nothing but LoRA gradients moves (ZeRO stage 2)
zero3            every GPU holds 1/ranks of every parameter; a pass gathers each layer, uses it and drops it
expert_parallel  every GPU holds all attention and 1/ranks of each layer's experts; tokens travel to them and back.
                 Arithmetic only: not implemented (docs/loading.md says why)

A *pass* uses every layer once. A training micro-batch under gradient checkpointing is PASSES_TRAIN of them (forward,
recomputed forward, backward), a log-prob micro-batch one. Pure functions of whole numbers, no torch, any thread.
Source: gpt-oss's published configurations; ZeRO (arXiv:1910.02054) for what an all-gather receives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

from rft.errors import RftError

BF16_BYTES = 2
BLOCK = 32  # MXFP4: 32 weights share one scale byte, two weights a byte
PASSES_TRAIN = 3
PASSES_LOGPROBS = 1
LAYERS_GATHERED = 2  # the one that computes and the one that is fetched ahead
PLACEMENTS = ("whole", "zero3", "expert_parallel")
FORMS = ("resident", "dequantised")


@dataclass(frozen=True)
class Geometry:
    """The figures of a gpt-oss configuration that its weights' sizes follow from (counts and widths)."""

    layers: int
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def of_config(cls, config: Mapping) -> "Geometry":
        """From config.json's entries; RftError names the first one that is missing."""
        names = {
            "layers": "num_hidden_layers",
            "experts": "num_local_experts",
            "top_k": "num_experts_per_tok",
            "hidden": "hidden_size",
            "intermediate": "intermediate_size",
            "heads": "num_attention_heads",
            "kv_heads": "num_key_value_heads",
            "head_dim": "head_dim",
            "vocabulary": "vocab_size",
        }
        missing = [name for name in names.values() if name not in config]
        if missing:
            raise RftError(f"config.json has no {missing[0]}: not a gpt-oss; name the folder of a gpt-oss checkpoint")
        return cls(**{field: int(config[name]) for field, name in names.items()})

    @property
    def expert_weights(self) -> int:
        """Expert weights of one layer, without biases (a count)."""
        return 3 * self.experts * self.hidden * self.intermediate

    @property
    def expert_biases(self) -> int:
        return self.experts * (2 * self.intermediate + self.hidden)

    @property
    def attention(self) -> int:
        """Attention, norms and router of one layer: weights, biases, sinks (a count)."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        projections = (q + 2 * kv) * (self.hidden + 1) + self.hidden * (q + 1)
        return projections + self.heads + 2 * self.hidden + self.experts * (self.hidden + 1)

    @property
    def outside_layers(self) -> int:
        """Embedding, head (untied) and the last norm (a count)."""
        return 2 * self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        return self.outside_layers + self.layers * (self.attention + self.expert_weights + self.expert_biases)

    def lora_parameters(self, rank: int) -> int:
        """LoRA on q, k, v, o: rank x (in + out) of each (a count)."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.layers * rank * ((self.hidden + q) + 2 * (self.hidden + kv) + (q + self.hidden))


GPT_OSS_20B = Geometry(24, 32, 4, 2880, 2880, 64, 8, 64, 201_088)
GPT_OSS_120B = Geometry(36, 128, 4, 2880, 2880, 64, 8, 64, 201_088)


@dataclass(frozen=True)
class Placed:
    """One placement's figures for one GPU, in bytes.

    held_bytes          weights that lie there all the time
    transient_bytes     weights or tokens of other ranks that lie there for the length of a layer, at most
    pass_bytes          received by one pass
    step_bytes          received by one optimizer step: its training passes and the LoRA gradients
    """

    placement: str
    form: str
    ranks: int
    held_bytes: int
    transient_bytes: int
    pass_bytes: int
    step_bytes: int

    @property
    def needed_bytes(self) -> int:
        return self.held_bytes + self.transient_bytes


def expert_layer_bytes(geometry: Geometry, form: str) -> int:
    """One layer's experts: weights as MXFP4 (4.25 bits) or bf16, biases as bf16."""
    if form not in FORMS:
        raise RftError(f"experts {form!r}: use one of {', '.join(FORMS)}")
    weights = geometry.expert_weights
    as_kept = weights // 2 + weights // BLOCK if form == "resident" else weights * BF16_BYTES
    return as_kept + geometry.expert_biases * BF16_BYTES


def layer_bytes(geometry: Geometry, form: str) -> int:
    return expert_layer_bytes(geometry, form) + geometry.attention * BF16_BYTES


def model_bytes(geometry: Geometry, form: str) -> int:
    """All weights of the base; ``resident`` is the MXFP4 checkpoint's size but for its headers."""
    return geometry.outside_layers * BF16_BYTES + geometry.layers * layer_bytes(geometry, form)


def place(
    geometry: Geometry,
    placement: str,
    form: str,
    ranks: int,
    tokens: int,
    micro_batches: int = 1,
    lora_rank: int = 32,
    passes: int = PASSES_TRAIN,
) -> Placed:
    """What one GPU holds and receives.

    tokens         of one micro-batch on one rank, padding included
    micro_batches  of one optimizer step on one rank
    passes         of one micro-batch (PASSES_TRAIN, PASSES_LOGPROBS)
    raises         RftError for an unknown placement or form, or ranks < 1
    """
    if placement not in PLACEMENTS:
        raise RftError(f"placement {placement!r}: use one of {', '.join(PLACEMENTS)}")
    if ranks < 1:
        raise RftError(f"ranks {ranks}: at least one GPU has to hold the actor")
    whole = model_bytes(geometry, form)
    layer, outside = layer_bytes(geometry, form), geometry.outside_layers * BF16_BYTES
    if placement == "whole":
        held, transient, received = whole, 0, 0
    elif placement == "zero3":
        held = -(-whole // ranks)
        # the embedding or the head is gathered whole too, but not while two layers are
        transient = max(LAYERS_GATHERED * layer, outside // 2) * (ranks - 1) // ranks
        received = whole * (ranks - 1) // ranks
    else:
        experts = geometry.layers * expert_layer_bytes(geometry, form)
        held = whole - experts + -(-experts // ranks)
        sent = expert_parallel_layer_bytes(geometry, ranks, tokens)
        transient, received = sent, geometry.layers * sent
    lora = 2 * geometry.lora_parameters(lora_rank) * BF16_BYTES * (ranks - 1) // ranks  # reduce, then gather
    return Placed(placement, form, ranks, held, transient, received, passes * micro_batches * received + lora)


def expert_parallel_layer_bytes(geometry: Geometry, ranks: int, tokens: int) -> int:
    """Received by one rank in one layer's pass: hidden states sent to the experts, and their outputs sent back.

    A token goes once to each rank that holds one of its experts, any `top_k` of which are equally likely.
    """
    if geometry.experts % ranks:
        raise RftError(f"{geometry.experts} experts cannot be shared evenly by {ranks} ranks; use a divisor")
    others = geometry.experts - geometry.experts // ranks
    misses = comb(others, geometry.top_k) / comb(geometry.experts, geometry.top_k)  # a rank, by a token
    visited = (ranks - 1) * (1 - misses)  # ranks that a token visits, its own not counted
    return int(2 * tokens * visited * geometry.hidden * BF16_BYTES)


def break_even_tokens(geometry: Geometry, form: str, ranks: int) -> int:
    """Tokens of a micro-batch from which on gathering a layer moves no more than sending its tokens."""
    if ranks < 2:
        return 0
    a_token = expert_parallel_layer_bytes(geometry, ranks, 1_000_000) / 1_000_000
    return int(expert_layer_bytes(geometry, form) * (ranks - 1) / ranks / a_token)


def choose(geometry: Geometry, form: str, ranks: int, gpu_bytes: int, working_bytes: int, tokens: int) -> Placed | None:
    """`whole` where it fits, else `zero3` where that fits, else None.

    gpu_bytes      of one GPU that the actor may use
    working_bytes  what a step needs beside the base: activations, logits, LoRA and its optimizer, the allocator's slack
    """
    for placement in ("whole", "zero3"):
        placed = place(geometry, placement, form, ranks, tokens)
        if placed.needed_bytes + working_bytes <= gpu_bytes:
            return placed
    return None
