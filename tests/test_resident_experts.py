"""Experts that stay MXFP4 against transformers' own and a float64 reference: values, gradients, errors."""

import pytest
import resident_kit as kit
import torch

from rft.errors import RftError
from rft.resident import products
from rft.resident.experts import PROJECTIONS, ResidentExperts, replace_experts


def close(found, expected, tolerance=1e-10):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b.double()).abs().max() <= tolerance * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_transformers_own_in_train_and_in_eval(training):
    config = kit.geometry()
    ours = kit.resident(config, dtype=torch.float64).train(training)
    theirs = kit.stock(ours, config, torch.float64).train(training)
    indices, logits = kit.routing(10, config)
    x = torch.randn(2, 5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    close(kit.run(ours, x, indices, logits), kit.run(theirs, x, indices, logits))


def test_train_eval_grad_and_no_grad_agree_to_the_bit():
    config = kit.geometry()
    experts = kit.resident(config)
    indices, logits = kit.routing(9, config, dtype=torch.bfloat16)
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    trained, *_ = kit.run(experts.train(), x, indices, logits)
    with torch.no_grad():
        scored = experts.eval()(x, indices, kit.weights_of(indices, logits, 4))
    assert torch.equal(trained, scored)


def test_gradcheck():
    config = kit.geometry(hidden=32)
    experts = kit.resident(config, dtype=torch.float64)
    experts.limit = 0.8  # so that both clamps are at work
    indices, logits = kit.routing(2, config)
    x = torch.randn(1, 2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def call(x, logits):
        return experts(x, indices, kit.weights_of(indices, logits, 4))

    free = kit.reference(experts, x[0], indices, kit.weights_of(indices, logits, 4))
    experts.limit = 7.0
    assert not torch.allclose(free, kit.reference(experts, x[0], indices, kit.weights_of(indices, logits, 4)))
    experts.limit = 0.8
    assert torch.autograd.gradcheck(call, (x, logits))


@pytest.mark.parametrize("backend", ["loop", "grouped"])
@pytest.mark.parametrize(
    ("tokens", "shape", "among"),
    [
        (1, {}, None),  # one token
        (7, {"experts": 3, "top_k": 3, "hidden": 32}, None),  # every expert for every token
        (33, {"experts": 16, "top_k": 4, "inter": 96}, None),
        (12, {"experts": 8}, [1, 2, 6]),  # empty experts at both ends and between
        (20, {"top_k": 1}, [2]),  # all tokens to one expert
        (5, {"experts": 1, "top_k": 1}, None),
    ],
)
def test_any_shape_and_routing_matches_the_reference(backend, tokens, shape, among):
    config = kit.geometry(**shape)
    dtype = torch.float64 if backend == "loop" else torch.float32  # torch's grouped product has no float64
    experts = kit.resident(config, seed=tokens, dtype=dtype)
    experts.backend = backend
    indices, logits = kit.routing(tokens, config, seed=tokens, dtype=dtype, among=among)
    x = torch.randn(1, tokens, config.hidden_size, dtype=dtype, generator=torch.Generator().manual_seed(tokens))
    found = kit.run(experts, x, indices, logits)
    close(found, kit.run_reference(experts, x, indices, logits), 1e-10 if backend == "loop" else 2e-5)


def test_grouped_products_in_chunks_of_experts_are_the_same(monkeypatch):
    config = kit.geometry(experts=7)
    experts = kit.resident(config)
    indices, logits = kit.routing(30, config, dtype=torch.bfloat16, among=[0, 1, 2, 5, 6])
    x = torch.randn(2, 15, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    experts.backend = "grouped"
    whole = kit.run(experts, x, indices, logits)
    monkeypatch.setattr(products, "CHUNK_EXPERTS", 3)
    for a, b in zip(kit.run(experts, x, indices, logits), whole, strict=True):
        assert torch.equal(a, b)


def test_strides_do_not_matter():
    config = kit.geometry()
    experts = kit.resident(config, dtype=torch.float64)
    indices, logits = kit.routing(12, config)
    wide = torch.randn(4, 64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = wide.permute(2, 0, 1)  # (3, 4, 64), strides (1, 192, 3)
    assert not x.is_contiguous()
    close(kit.run(experts, x, indices, logits), kit.run(experts, x.contiguous(), indices, logits))
    # A gradient that arrives expanded, as that of a sum does, and indices that are a view.
    y = experts(x.requires_grad_(), indices.t().contiguous().t(), kit.weights_of(indices, logits, 4))
    (dx,) = torch.autograd.grad(y.sum(), x)
    expected = torch.autograd.grad(
        kit.reference(experts, x.reshape(12, 64), indices, kit.weights_of(indices, logits, 4)).sum(), x
    )
    close([dx], expected)


def test_no_tokens_give_an_empty_result_that_has_a_gradient():
    experts = kit.resident(kit.geometry())
    x = torch.zeros(1, 0, 64, dtype=torch.bfloat16, requires_grad=True)
    y = experts(x, torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.bfloat16))
    y.sum().backward()
    assert y.shape == x.grad.shape == (1, 0, 64)


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_bfloat16_is_at_least_as_near_to_float64_as_the_dequantised_experts(backend):
    config = kit.geometry(experts=8, hidden=256, inter=128, top_k=4)
    ours = kit.resident(config, spread=0.1)
    ours.backend = backend
    theirs = kit.stock(ours, config, torch.bfloat16)
    indices, logits = kit.routing(64, config, dtype=torch.bfloat16)
    x = torch.randn(1, 64, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = kit.run_reference(ours, x, indices, logits)
    for name, found, stock, true in zip(
        ("output", "input gradient", "router gradient"),
        kit.run(ours, x, indices, logits),
        kit.run(theirs, x, indices, logits),
        exact,
        strict=True,
    ):
        ours_off, stock_off = (found.double() - true).norm(), (stock.double() - true).norm()
        assert 0 < ours_off <= stock_off, f"{name}: {ours_off:.3e} against {stock_off:.3e}"


def test_weights_may_be_taken_away_between_forward_and_backward():
    """As ZeRO-3 does: it empties a parameter's data after forward and fills the same parameter before backward."""
    config = kit.geometry()
    experts = kit.resident(config, dtype=torch.float64)
    indices, logits = kit.routing(6, config)
    x = torch.randn(1, 6, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = kit.run(experts, x, indices, logits, seed=5)[1]
    y = experts(x, indices, kit.weights_of(indices, logits, 4))
    held = {name: p.data for name, p in experts.named_parameters()}
    for p in experts.parameters():
        p.data = torch.empty(0, dtype=p.dtype)
    for name, p in experts.named_parameters():
        p.data = held[name].clone()
        held[name].zero_()  # whoever kept the old bytes sees zeros
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    close(torch.autograd.grad(y, x, dy), [expected])


def test_names_and_dtypes_are_the_checkpoints_and_survive_a_cast():
    config = kit.geometry()
    experts = kit.resident(config, dtype=torch.float32).to(torch.bfloat16)
    kinds = {name: tensor.dtype for name, tensor in experts.state_dict().items()}
    assert kinds == {
        **{f"{n}_{kind}": torch.uint8 for n in PROJECTIONS for kind in ("blocks", "scales")},
        **{f"{n}_bias": torch.bfloat16 for n in PROJECTIONS},
    }
    assert not any(p.requires_grad for p in experts.parameters())
    assert all(torch.equal(experts.state_dict()[n], t) for n, t in kit.tensors(config).items() if "bias" not in n)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_bad_input_is_one_line_and_changes_nothing():
    config = kit.geometry()
    good = kit.tensors(config)
    experts = kit.resident(config)
    nan = good["down_proj_scales"].clone()
    nan[0, 0, 0] = 255
    cases = [
        ({k: v for k, v in good.items() if k != "down_proj_bias"}, "down_proj_bias is missing"),
        (good | {"down_proj_blocks": good["down_proj_blocks"][:2]}, r"down_proj_blocks is torch.uint8 \(2, 64"),
        (good | {"down_proj_blocks": good["down_proj_blocks"].float()}, "does not belong to this config"),
        (good | {"down_proj_scales": nan}, "damaged"),
    ]
    for bad, words in cases:
        before = experts.down_proj_blocks
        with pytest.raises(RftError, match=words) as caught:
            experts.load_tensors({k: v.clone() for k, v in bad.items()})
        assert "\n" not in str(caught.value) and experts.down_proj_blocks is before
    with pytest.raises(RftError, match="no multiple of 32"):
        ResidentExperts(kit.geometry(hidden=48))
    with pytest.raises(RftError, match="no gpt-oss experts"):
        replace_experts(torch.nn.Linear(2, 2))
    experts.backend = "fast"
    with pytest.raises(RftError, match="loop, grouped, triton"):
        experts(torch.zeros(1, 1, 64), torch.tensor([[0, 1]]), torch.ones(1, 4))


def test_weights_that_mxfp4_cannot_hold_are_not_rounded_in_silence():
    config = kit.geometry()
    theirs = kit.stock(kit.resident(config), config, torch.float32)
    assert torch.equal(
        ResidentExperts.from_experts(theirs, config).down_proj_scales, kit.resident(config).down_proj_scales
    )
    theirs.down_proj.data[1, 3, 5] += 1e-3
    with pytest.raises(RftError, match="trained or merged"):
        ResidentExperts.from_experts(theirs, config)
