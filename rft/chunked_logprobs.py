"""Log-probabilities of given tokens and entropies, without the (B, T, V) logits.

`Scoring` is made by the patched ``openrlhf.models.actor.Actor`` and asked around its forward pass: inside
``Scoring.of`` the model's ``lm_head`` computes the logits of `chunk_tok` tokens at a time, reduces them to two numbers
a token and throws them away; backward computes them again. It happens inside the module's own forward, once a pass:
under ZeRO-3 the head is gathered once, as for a plain forward, on every rank alike, however many chunks a rank has.

Numbers are those of OpenRLHF's ``log_probs_from_logits`` and ``compute_entropy`` on the same logits: logits in the
head's dtype, then float32; log-probs at `temperature`, the entropy at temperature 1. Nats.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from rft.errors import RftError


def scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    chunk_tok: int,
    temperature: float = 1.0,
    entropy: bool = False,
) -> torch.Tensor:
    """Differentiable in the first two.

    hidden     (N, D)
    weight     (V, D), of the head; no bias
    labels     (N,) int64 in [0, V)
    chunk_tok  tokens at a time; of chunk_tok * V float32 numbers exist two tensors, in backward with entropy three
    returns    (N, 2) float32 (float64 for float64 inputs): log p of the label, entropy (0 unless `entropy`)
    """
    return _Scores.apply(hidden, weight, labels, chunk_tok, temperature, entropy)


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, labels, chunk_tok, temperature, with_entropy):
        exact = torch.promote_types(hidden.dtype, torch.float32)
        result = torch.zeros(len(hidden), 2, dtype=exact, device=hidden.device)
        sums = torch.zeros_like(result)  # log of the sum of exponentials: at `temperature`, and at 1 for the entropy
        for at in _chunks(len(hidden), chunk_tok):
            _score(_logits(hidden[at], weight, exact), labels[at], temperature, with_entropy, result[at], sums[at])
        ctx.save_for_backward(hidden, weight, labels, sums, result)
        ctx.options = chunk_tok, temperature, with_entropy
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, labels, sums, result = ctx.saved_tensors
        chunk_tok, temperature, with_entropy = ctx.options
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=result.dtype) if needs_weight else None
        for at in _chunks(len(hidden), chunk_tok):
            logits = _logits(hidden[at], weight, result.dtype)
            change = _slope(logits, labels[at], temperature, with_entropy, result[at], sums[at], grad[at])
            del logits
            change = change.to(weight.dtype)
            if needs_hidden:
                grad_hidden[at] = change @ weight
            if needs_weight:
                grad_weight += change.T @ hidden[at]
            del change  # or it would stand beside the next chunk's
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None


def _score(logits, labels, temperature, with_entropy, result, sums) -> None:
    """logits (c, V), spent; labels (c,); result and sums (c, 2) are filled in."""
    if with_entropy:
        sums[:, 1:], weights = _log_sum(logits)
        result[:, 1] = sums[:, 1] - weights.mul_(logits).sum(-1)
        del weights
    if temperature != 1.0:
        logits.div_(temperature)
    sums[:, :1] = sums[:, 1:] if with_entropy and temperature == 1.0 else _log_sum(logits)[0]
    result[:, :1] = logits.gather(-1, labels[:, None]) - sums[:, :1]


def _slope(logits, labels, temperature, with_entropy, result, sums, grad) -> torch.Tensor:
    """(c, V), d loss / d logits; spends the logits.

    d log p / d x_j = (1[j = label] - p_j) / temperature;  d entropy / d x_j = -p_j (log p_j + entropy)
    """
    change = None
    if with_entropy:
        change = (logits - sums[:, 1:]).exp_()
        change.mul_((logits - (sums[:, 1:] - result[:, 1:])).mul_(-grad[:, 1:]))
    slope = grad[:, :1] / temperature
    weights = logits.div_(temperature).sub_(sums[:, :1]).exp_().mul_(-slope)
    change = weights if change is None else change.add_(weights)
    return change.scatter_add_(-1, labels[:, None], slope)


def _chunks(length: int, size: int):
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _logits(hidden: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(c, V), rounded to the head's dtype first as the whole logits are; a tensor of its own."""
    return torch.nn.functional.linear(hidden, weight).to(dtype)


def _log_sum(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log of the sum of exponentials (c, 1) and the probabilities (c, V); one tensor of the logits' size."""
    top = logits.amax(-1, keepdim=True)
    weights = (logits - top).exp_()
    total = weights.sum(-1, keepdim=True)
    return top + total.log(), weights.div_(total)


@dataclass(frozen=True)
class _Request:
    labels: torch.Tensor
    counted: torch.Tensor | None
    options: dict


class _ScoringHead(nn.Linear):
    """An ``lm_head`` that answers with scores while it is asked to; else an ``nn.Linear`` like any other.

    A head becomes one by its class alone: parameters, names and hooks stay.
    """

    request: _Request | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, V), or (B, T, 2) float32 while asked."""
        if self.request is None:
            return super().forward(hidden)
        labels, counted = self.request.labels, self.request.counted
        if labels.shape != hidden.shape[:-1]:
            raise ValueError(f"labels of shape {tuple(labels.shape)} for hidden states {tuple(hidden.shape)}")
        flat, labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
        if counted is None:
            return scores(flat, self.weight, labels, **self.request.options).view(*hidden.shape[:-1], 2)
        rows = counted.reshape(-1).nonzero()[:, 0]
        found = scores(flat[rows], self.weight, labels[rows], **self.request.options)
        return found.new_zeros(len(flat), 2).index_copy(0, rows, found).view(*hidden.shape[:-1], 2)


class Scoring:
    """The switch in a model's head. Not an ``nn.Module``: a module that holds it does not list the head twice.

    model      with ``get_output_embeddings``, PEFT-wrapped or not, before ``deepspeed.initialize``
    chunk_tok  tokens of which logits exist at a time, at least 1
    raises     RftError if the head is not a plain linear layer without bias, or chunk_tok is not positive
    """

    def __init__(self, model: nn.Module, chunk_tok: int):
        head = model.get_output_embeddings()
        if chunk_tok < 1:
            raise RftError(f"--logprob_chunk_tok {chunk_tok}: give the tokens of a chunk, 1 or more; 0: whole logits")
        if type(head) not in (nn.Linear, _ScoringHead) or head.bias is not None:
            what = f"lm_head is a {type(head).__name__}" + (" with bias" if type(head) is nn.Linear else "")
            raise RftError(f"--logprob_chunk_tok {chunk_tok}: {what}, not a plain linear layer; leave the flag out")
        head.__class__ = _ScoringHead
        self.head, self.chunk_tok = head, chunk_tok

    @contextmanager
    def of(self, labels: torch.Tensor, *, temperature: float = 1.0, entropy: bool = False, action_mask=None):
        """Inside, the model's ``logits`` are (B, T, 2) float32: log-probs, entropies. Not re-entrant, one thread.

        labels       (B, T) int64: the token after each position
        entropy      False: the entropies are 0
        action_mask  (B, A), not 0 where a token counts, of the last A of the T - 1 tokens that follow another: the
                     others' scores are 0 and cost nothing; None: all count
        """
        counted = None
        if action_mask is not None:
            counted = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)  # (B, T)
            counted[:, -1 - action_mask.shape[1] : -1] = action_mask.bool()
        options = {"chunk_tok": self.chunk_tok, "temperature": temperature, "entropy": entropy}
        self.head.request = _Request(labels, counted, options)
        try:
            yield
        finally:
            self.head.request = None
