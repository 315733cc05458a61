"""What one micro-batch of the actor takes: attention, experts, logits, forward and backward.

Counts the tensors of transformers 4.57.6's gpt-oss and of OpenRLHF's `Actor.forward` (patched), one by one: which ones
autograd keeps, and which are there together at the worst places. The counts were taken from torch's own record of every
allocation on the CPU (docs/plan.md says how) and hold within 10 % of a process's peak (`rft.plan.measure`). On a GPU
they are the same but where the docstrings say so: not measured there.

n = B * T tokens (B rows of T), P = one (B, heads, T, T) bf16 tensor, V vocabulary. Bytes; pure arithmetic.
"""

from dataclasses import dataclass

from rft.plan.geometry import BF16, FP32, Geometry
from rft.plan.terms import Term

LOGSUMEXP_ROWS = 1024  # openrlhf.models.utils._logsumexp_by_chunk
INDEX = 8  # int64
TILE_QUERIES, TILE_KEYS = 256, 1024  # rft.attention_spans.FULL
SWIGLU_ROWS = 1024  # rft.resident.swiglu, plain torch


@dataclass(frozen=True)
class Shape:
    """One micro-batch, and which code runs it.

    attention       eager: (T, T) scores; tiled: some of them at a time; flex: none
    experts         dequantised: transformers' loop over experts; resident: MXFP4, recomputed in the backward pass
    logprobs        full: (n, V) logits in float32; chunked: `chunk` rows at a time
    gpu             on a GPU scatter_ needs no copy, the entropy is compiled, flash_attn's cross entropy is there
    checkpointing   keep only each layer's input, and compute the layer again
    """

    rows: int
    tokens: int
    lora_rank: int
    checkpointing: bool = True
    attention: str = "eager"
    experts: str = "dequantised"
    logprobs: str = "full"
    chunk: int = 1024
    gpu: bool = True

    @property
    def n(self) -> int:
        return self.rows * self.tokens


def scores(g: Geometry, s: Shape) -> int:
    """P: one tensor of attention scores with the sink's column, of one layer."""
    return BF16 * s.rows * g.heads * s.tokens * (s.tokens + 1) if s.attention == "eager" else 0


def masks(g: Geometry, s: Shape) -> Term:
    """The additive masks of full and sliding layers, (B, 1, T, T) each; rotary tables."""
    mask = 2 * BF16 * s.rows * s.tokens**2 if s.attention == "eager" else 0
    return Term("attention masks", mask + 2 * BF16 * s.n * g.head_dim, mask // 2)


def kept_inputs(g: Geometry, s: Shape) -> Term:
    """A checkpointed layer keeps its input; without checkpointing each keeps what its backward pass reads."""
    if s.checkpointing:
        return Term("layer inputs", g.layers * s.n * g.hidden * BF16, s.n * g.hidden * BF16)
    layer = attention_saved(g, s) + experts_saved(g, s)
    return Term("activations of all layers", g.layers * layer, max(scores(g, s), s.n * g.hidden * BF16))


def attention_saved(g: Geometry, s: Shape) -> int:
    """What autograd keeps of one layer's attention and norms.

    The two norms' float32 inputs and bf16 outputs, the residual; q, and k and v repeated for every head; the output;
    LoRA's inner products; the probabilities.
    """
    norms = 2 * s.n * g.hidden * (FP32 + BF16) + s.n * g.hidden * BF16
    repeated = g.q if s.attention == "eager" else g.kv
    heads = BF16 * s.n * (2 * g.q + 2 * repeated)
    return norms + heads + 4 * s.n * s.lora_rank * BF16 + scores(g, s)


def experts_saved(g: Geometry, s: Shape) -> int:
    """What autograd keeps of one layer's experts, of each token's `top_k` choices.

    dequantised: gate_up, the clamped gate, its sigmoid, up + 1, their product (6 I) and the output (H).
    resident: gate_up (2 I) and the output (H).
    """
    slots = s.n * g.top_k
    routing = s.n * (g.experts * BF16 * 3 + g.top_k * INDEX)
    width = (6 if s.experts == "dequantised" else 2) * g.intermediate + g.hidden
    return slots * (width * BF16 + 2 * INDEX) + routing


def attention_worst(g: Geometry, s: Shape) -> list[Term]:
    """The worst place of a layer's attention: in the backward pass, at the maximum that eager subtracts.

    There are then the gradient of the scores, a tensor of zeros and what scatter_ makes of it: on the CPU a copy in
    float32 (4 P in all); a GPU needs none, and its worst are the 3 P of the forward pass, as without gradients.
    """
    p = scores(g, s)
    count = 3 if s.gpu else 4
    extra = 3 * BF16 * s.n * g.q
    terms = [Term("attention scores", count * p, p), Term("attention inputs", attention_saved(g, s) - p + extra)]
    return [*terms, *tiles(g, s, 3)]


def tiles(g: Geometry, s: Shape, count: int) -> list[Term]:
    """What `rft.attention_tiled` computes at a time, in float32; flex_attention keeps its tiles on the chip."""
    if s.attention != "tiled":
        return []
    tile = FP32 * g.heads * min(s.tokens, TILE_QUERIES) * min(s.tokens, TILE_KEYS)
    return [Term("attention scores", count * tile, tile)]


def experts_worst(g: Geometry, s: Shape) -> list[Term]:
    """The backward pass of a layer's experts: all that the layer keeps, and the gradients of its input.

    Every expert's share of a gradient is a tensor of zeros as large as the hidden states, added to the sum. resident:
    at the activation, whose input (2 I), its gradient and the output's (3 I) are there; in float32 by `SWIGLU_ROWS` on
    a CPU, in a kernel on a GPU.
    """
    saved = attention_saved(g, s)
    work = 4 * s.n * g.hidden * BF16 + s.n * g.experts * BF16 * 2
    if s.experts == "resident":
        slots = s.n * g.top_k
        chunk = 0 if s.gpu else 11 * FP32 * min(slots, SWIGLU_ROWS) * g.intermediate
        work += slots * 5 * g.intermediate * BF16 + chunk
    else:
        work += experts_saved(g, s)
    p = scores(g, s)
    kept = [Term("attention scores", p, p), Term("attention inputs", saved - p, BF16 * s.n * g.q)]
    return [*kept, Term("expert activations", work, s.n * g.hidden * BF16)]


def logits_kept(g: Geometry, s: Shape) -> Term:
    """Until the step ends: float32 logits, and on the CPU the softmax that the logged entropy keeps."""
    if s.logprobs == "chunked":
        return Term("log-probs", 4 * FP32 * s.n)
    one = FP32 * s.n * g.vocabulary
    return Term("logits", one if s.gpu else 2 * one, one)


def logits_worst(g: Geometry, s: Shape) -> Term:
    """The worst place around the logits in a training step.

    CPU: logits, softmax, and in the backward pass of logsumexp three chunks of at most 1,024 rows, or one and the zeros
    that its gradient is put into, beside the gradient so far. GPU: logits, their float32 gradient and its bf16 copy.
    chunked: one chunk in bf16 and float32, with its gradient.
    """
    one, chunk = FP32 * s.n * g.vocabulary, FP32 * min(s.n, LOGSUMEXP_ROWS) * g.vocabulary
    if s.logprobs == "chunked":
        return Term("logits", 3 * FP32 * min(s.n, s.chunk) * g.vocabulary)
    if s.gpu:
        return Term("logits", 2 * one + one // 2, one)
    before = 0 if s.n <= LOGSUMEXP_ROWS else one  # the gradient of earlier chunks
    return Term("logits", 2 * one + before + max(3 * chunk, one + chunk, 2 * one - before), one)


def logits_scored(g: Geometry, s: Shape) -> Term:
    """Without gradients: bf16 logits and their float32 copy, or that and a chunk's logsumexp."""
    one, chunk = FP32 * s.n * g.vocabulary, FP32 * min(s.n, LOGSUMEXP_ROWS) * g.vocabulary
    if s.logprobs == "chunked":
        return Term("logits", 2 * FP32 * min(s.n, s.chunk) * g.vocabulary)
    return Term("logits", max(one + one // 2, one + (0 if s.gpu else chunk)), one)


def head_inputs(g: Geometry, s: Shape) -> Term:
    """The last hidden states in bf16, in float32 for the norm, and their gradient."""
    return Term("last hidden states", s.n * g.hidden * (FP32 + 3 * BF16), s.n * g.hidden * FP32)


def train_moments(g: Geometry, s: Shape) -> dict[str, list[Term]]:
    """Moments of a training micro-batch: the logits, a layer's attention, a layer's experts."""
    kept = [masks(g, s), kept_inputs(g, s)]
    gradient = Term("last hidden states", 2 * s.n * g.hidden * BF16)
    later = [*kept, logits_kept(g, s), gradient]
    if not s.checkpointing:  # the last layer's own share is in kept_inputs already
        p = scores(g, s)
        transient = Term("attention scores", (2 if s.gpu else 3) * p, p)
        return {
            "logits": [*kept, head_inputs(g, s), logits_worst(g, s)],
            "attention, backward": [*later, transient],
            "experts, backward": [*later, Term("expert activations", 4 * s.n * g.hidden * BF16)],
        }
    return {
        "logits": [*kept, head_inputs(g, s), logits_worst(g, s)],
        "attention, backward": [*later, *attention_worst(g, s)],
        "experts, backward": [*later, *experts_worst(g, s)],
    }


def score_moments(g: Geometry, s: Shape) -> dict[str, list[Term]]:
    """Moments of a pass without gradients (old and reference log-probs)."""
    p = scores(g, s)
    hidden = Term("last hidden states", 2 * s.n * g.hidden * FP32, s.n * g.hidden * FP32)
    heads = Term("attention inputs", BF16 * s.n * 5 * g.q, BF16 * s.n * g.q)
    slots = s.n * g.top_k
    if s.experts == "resident":
        chunk = 0 if s.gpu else 8 * FP32 * min(slots, SWIGLU_ROWS) * g.intermediate
        experts = slots * 3 * g.intermediate * BF16 + chunk
    else:
        experts = 2 * slots // g.experts * (4 * g.intermediate + g.hidden) * BF16
    return {
        "logits, scoring": [masks(g, s), hidden, logits_scored(g, s)],
        "attention, scoring": [masks(g, s), hidden, heads, Term("attention scores", 3 * p, p), *tiles(g, s, 2)],
        "experts, scoring": [masks(g, s), hidden, Term("expert activations", experts)],
    }
