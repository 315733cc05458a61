"""Chunked log-probs and entropies: OpenRLHF's numbers and gradients, less memory, the switch in a model's head."""

import pytest
import torch
from attention_kit import peak_bytes
from torch import nn

from rft.chunked_logprobs import Scoring, scores
from rft.errors import RftError

V, D = 37, 12


def make(count=21, dtype=torch.float32, vocabulary=V, width=D, seed=0):
    """hidden (N, D), weight (V, D), labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (count,), generator=generator)


def upstream(hidden, weight, labels, temperature=1.0):
    """As OpenRLHF's Actor.forward comes to log-probs and entropies."""
    from openrlhf.models.utils import compute_entropy, log_probs_from_logits

    logits = nn.functional.linear(hidden, weight)[None].to(torch.float32)
    with torch.compiler.set_stance("force_eager"):
        entropy = compute_entropy(logits)[0]
    # it divides in place, also what the entropy's backward needs: a copy where there is something to divide by
    logits = logits if temperature == 1.0 else logits.clone()
    return log_probs_from_logits(logits, labels[None], temperature=temperature)[0], entropy


@pytest.mark.parametrize("chunk", [1, 4, 21, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("entropy", [False, True])
def test_upstream_s_numbers(chunk, temperature, entropy):
    """Values, and gradients of hidden states and weight, whatever the chunk."""
    hidden, weight, labels = make()
    found = scores(hidden, weight, labels, chunk_tok=chunk, temperature=temperature, entropy=entropy)
    log_probs, entropies = upstream(hidden, weight, labels, temperature)
    wanted = torch.stack([log_probs, entropies * entropy], -1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(*(torch.autograd.grad(out, (hidden, weight), slope) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
@pytest.mark.parametrize("entropy", [False, True])
def test_gradcheck(temperature, entropy):
    hidden, weight, labels = make(5, torch.float64, 7, 3)

    def run(hidden, weight):
        return scores(hidden, weight, labels, chunk_tok=2, temperature=temperature, entropy=entropy)

    assert torch.autograd.gradcheck(run, (hidden, weight))


def test_bf16_rounds_as_whole_logits_do():
    """Forward within float32's rounding of upstream's on the same bf16 logits; gradients within bf16's."""
    hidden, weight, labels = make(dtype=torch.bfloat16)
    found = scores(hidden, weight, labels, chunk_tok=4, entropy=True)
    wanted = torch.stack(upstream(hidden, weight, labels), -1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    slope = torch.ones_like(found)
    for a, b in zip(*(torch.autograd.grad(out, (hidden, weight), slope) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_logits_of_any_size():
    """A logit of 10,000 and a label whose probability is 0 in float32: finite log-probs, entropy 0, no NaN back."""
    hidden, weight, labels = torch.tensor([[1e4, 0.0]], requires_grad=True), torch.eye(2), torch.tensor([1])
    found = scores(hidden, weight, labels, chunk_tok=1, entropy=True)
    assert found.tolist() == [[-1e4, 0.0]]
    assert torch.autograd.grad(found.sum(), hidden)[0].tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
def test_memory_is_of_a_chunk(backward, entropy):
    """Far below one (T, V) tensor, and not more for twice the tokens, where whole logits take several and twice."""
    vocabulary = 4096

    def peak(count, chunk):
        hidden, weight, labels = make(count, vocabulary=vocabulary, width=4)
        weight = weight.detach()

        def run():
            if chunk:
                found = scores(hidden, weight, labels, chunk_tok=chunk, entropy=entropy)
            else:
                found = torch.stack(upstream(hidden, weight, labels), -1)
            if backward:
                found.sum().backward()

        return peak_bytes(run)

    peak(64, 0)  # what the first call alone allocates
    whole, few, many = peak(512, 0), peak(512, 32), peak(1024, 32)
    assert whole > 512 * vocabulary * 4 * 2
    assert few < 32 * vocabulary * 4 * (3.2 if backward else 2.2) < whole / 4
    assert many < 1.1 * few


class Model(nn.Module):
    """What `Scoring` asks of a model."""

    def __init__(self, bias=False):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.lm_head = nn.Embedding(V, D), nn.Linear(D, V, bias=bias)

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, ids):
        return self.lm_head(self.body(ids))


@pytest.fixture
def ids():
    return torch.randint(0, V, (3, 11), generator=torch.Generator().manual_seed(2))


def test_the_switch(ids):
    """Logits outside, scores inside, logits again; also after an error. The model's parameters are as they were."""
    model = Model()
    before, names = model(ids), list(model.state_dict())
    scoring, labels = Scoring(model, 4), torch.roll(ids, -1, 1)
    assert torch.equal(model(ids), before) and list(model.state_dict()) == names
    with pytest.raises(KeyError), scoring.of(labels):
        raise KeyError
    with scoring.of(labels, entropy=True):
        found = model(ids)
    log_probs, entropies = found.unbind(-1)
    wanted = before.log_softmax(-1)
    torch.testing.assert_close(log_probs, wanted.gather(-1, labels[..., None])[..., 0])
    torch.testing.assert_close(entropies, -(wanted.exp() * wanted).sum(-1))
    assert torch.equal(model(ids), before)


def test_only_what_counts(ids):
    """Elsewhere 0; values and gradients at actions as without the mask; with no action at all there is a graph."""
    model, labels = Model(), torch.roll(ids, -1, 1)
    scoring, action_mask = Scoring(model, 4), torch.tensor([[1, 1, 1, 0], [0, 0, 1, 0], [0, 1, 1, 1]])
    results = []
    for mask in (None, action_mask):
        with scoring.of(labels, action_mask=mask, entropy=True):
            found = model(ids)
        actions = found[:, :-1][:, -4:] * action_mask[..., None]  # as Actor.forward cuts them
        results.append((actions, torch.autograd.grad(actions.sum(), model.body.weight)[0]))
        assert mask is None or (found != 0).sum() == 2 * action_mask.sum()
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    with scoring.of(labels, action_mask=torch.zeros_like(action_mask)):
        found = model(ids)
    assert not torch.autograd.grad(found.sum(), model.body.weight)[0].any() and not found.any()


def test_the_weight_may_be_taken_away_in_between(ids):
    """As ZeRO-3 does: the parameter is empty between forward and backward, and filled again for it, elsewhere."""
    model, labels = Model(), torch.roll(ids, -1, 1)
    scoring, head = Scoring(model, 4), model.lm_head.weight.requires_grad_(False)
    whole, gradients = head.data.clone(), []
    for partitioned in (False, True):
        with scoring.of(labels, entropy=True):
            found = model(ids)
        if partitioned:
            head.data = torch.empty(0)
            found.register_hook(lambda grad: setattr(head, "data", whole.clone()))
        gradients.append(torch.autograd.grad(found.sum(), model.body.weight)[0])
    assert torch.equal(*gradients)


def test_a_wrapped_model(ids):
    """A LoRA-wrapped gpt-oss: found through PEFT, and the adapter's gradients are those of whole logits."""
    from peft import LoraConfig, get_peft_model

    from rft.tiny import model as tiny

    torch.manual_seed(0)
    model = get_peft_model(
        tiny.build_model(tiny.build_config(1, 0)), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    scoring, labels = Scoring(model, 4), torch.roll(ids, -1, 1)
    live = [p for p in model.parameters() if p.requires_grad]
    with scoring.of(labels):
        found = model(ids, use_cache=False).logits[..., 0]
    wanted = model(ids, use_cache=False).logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(out.sum(), live) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "model, chunk, found",
    [
        (Model(bias=True), 4, "lm_head is a Linear with bias, not a plain linear layer"),
        (Model(), 0, "give the tokens of a chunk"),
    ],
)
def test_refused(model, chunk, found):
    with pytest.raises(RftError, match=f"^--logprob_chunk_tok {chunk}: {found}"):
        Scoring(model, chunk)


def test_labels_of_another_shape(ids):
    model = Model()
    scoring = Scoring(model, 4)
    with scoring.of(ids[:, :5]), pytest.raises(ValueError, match="labels of shape"):
        model(ids)
