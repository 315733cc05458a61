"""`sinks_tiled` and `sinks_flex` as transformers calls them: a whole tiny gpt-oss against its eager self, refusals."""

import subprocess
import sys

import pytest
import torch
from attention_kit import SCALE, dense, make, padded, visible
from torch.nn.attention.flex_attention import create_block_mask

from rft import attention
from rft.attention_flex import flex_sink_attention, fold_sinks
from rft.errors import RftError
from rft.tiny import model as tiny


@pytest.fixture(scope="module")
def gpt():
    """Fresh float32 weights, sinks as large as the scores; eager."""
    torch.manual_seed(0)
    attention.register()
    model = tiny.build_model(tiny.build_config(eos_token_id=1, pad_token_id=0)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.sinks.normal_()
    return model


def batch(side):
    """ids, mask (3, 40): longer than the window of 16 and than its padding."""
    ids = torch.randint(5, 200, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 40, dtype=torch.long)
    if side == "left":
        mask[0, :23], mask[1, :1] = 0, 0
    else:
        mask[0, 17:], mask[1, 39:] = 0, 0
    return ids * mask, mask


def log_probs_and_gradients(model, implementation, side, checkpointing=None):
    """Log-probs of the next real tokens, and the gradient of every attention parameter."""
    model.set_attn_implementation(implementation)
    ids, mask = batch(side)
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        model.enable_input_require_grads()
    model.train(checkpointing is not None)
    try:
        logits = model(ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        found = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
        found = found[(mask[:, 1:] * mask[:, :-1]).bool()]
        found.mean().backward()
        parameters = {n: p for n, p in model.named_parameters() if "self_attn" in n}
        gradients = {n: p.grad.clone() for n, p in parameters.items()}
    finally:
        model.zero_grad(set_to_none=True)
        model.gradient_checkpointing_disable()
        model.set_attn_implementation("eager")
    return found.detach(), gradients


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_trains_alike(gpt, side):
    """Log-probs and the gradients of q, k, v, o and sinks of every layer, sliding and full, as eager has them."""
    wanted, expected = log_probs_and_gradients(gpt, "eager", side)
    found, gradients = log_probs_and_gradients(gpt, "sinks_tiled", side)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert len(gradients) == 4 * 9 and all(g.abs().max() > 0 for g in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("reentrant", [True, False])
def test_with_gradient_checkpointing(gpt, reentrant):
    wanted, expected = log_probs_and_gradients(gpt, "sinks_tiled", "right")
    found, gradients = log_probs_and_gradients(gpt, "sinks_tiled", "right", checkpointing=reentrant)
    assert torch.equal(found, wanted)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_with_a_cache(gpt):
    """Prefill and then one token at a time, past the window: the logits of one pass over everything."""
    ids, mask = batch("left")
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    whole = gpt(ids, attention_mask=mask, position_ids=positions).logits
    gpt.set_attn_implementation("sinks_tiled")
    try:
        out = gpt(ids[:, :30], attention_mask=mask[:, :30], position_ids=positions[:, :30], use_cache=True)
        for at in range(30, 40):
            here = slice(at, at + 1)
            out = gpt(
                ids[:, here],
                attention_mask=mask[:, : at + 1],
                position_ids=positions[:, here],
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            torch.testing.assert_close(out.logits[:, 0], whole[:, at], rtol=1e-5, atol=1e-5)
    finally:
        gpt.set_attn_implementation("eager")


def test_selected_by_name(gpt, tmp_path):
    """``from_pretrained(attn_implementation=)``, as ``--attn_implementation`` arrives there."""
    from transformers import AutoModelForCausalLM

    gpt.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sinks_tiled")
    assert loaded.config._attn_implementation == "sinks_tiled"
    ids, mask = batch("right")
    with torch.no_grad():
        found, wanted = loaded.eval()(ids, attention_mask=mask).logits, gpt(ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], rtol=1e-5, atol=1e-5)
    assert not torch.equal(found, wanted)  # it was not eager that ran


@pytest.mark.parametrize("side, window, length", [("left", None, 21), ("right", 5, 21), ("none", 128, 129)])
def test_flex_with_the_sink_folded_in(side, window, length):
    """torch's own flex_attention and its backward, in float64: output, and gradients of q, k, v and sinks.

    Run without torch.compile, which on a CPU has no backward: the same operator, the same formulas, no fused kernel.
    """
    inputs, real = make(2, 4, 2, length, dim=4), padded(2, length, side, seed=3)
    seen = visible(length, length, window, real)
    block_mask = create_block_mask(lambda b, h, q, k: seen[b, q, k], 2, None, length, length, device="cpu")
    wanted = dense(*inputs, seen)
    found = flex_sink_attention(*inputs, block_mask, SCALE, compiled=False)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    slope = torch.randn(wanted.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for a, b in zip(*(torch.autograd.grad(out, inputs, slope) for out in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_log_sum_stays_in_float32():
    """Cast to bf16, as transformers' flex_attention does it, a sum of a few thousand keys costs a percent."""
    generator = torch.Generator().manual_seed(0)
    lse = 8 + 4 * torch.rand(1, 1, 4096, generator=generator, dtype=torch.float64)
    sinks, out = torch.tensor([9.0], dtype=torch.float64), torch.ones(1, 1, 4096, 1, dtype=torch.float64)
    wanted = fold_sinks(out, lse, sinks)
    errors = [
        (fold_sinks(out.float(), lse.to(t).float(), sinks) - wanted).abs().max()
        for t in (torch.float32, torch.bfloat16)
    ]
    assert errors[0] < 1e-6 and errors[1] > 5e-3


def test_names_without_torch():
    """The launcher asks for the names before anything heavy is imported."""
    code = "import rft.attention, sys; print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "name, device, found",
    [
        ("sdpa", "cuda", "drops gpt-oss's attention sinks"),
        ("flash_attention_3", "cpu", "drops gpt-oss's attention sinks"),
        ("sinks_flex", "cpu", "no backward on a CPU; use sinks_tiled or eager"),
        ("flex_attention", "cpu", "no backward on a CPU"),
    ],
)
def test_refused_before_the_start(name, device, found):
    with pytest.raises(RftError, match=f"^--attn_implementation {name}: .*{found}"):
        attention.check(name, device)


@pytest.mark.parametrize("name, device", [("eager", "cpu"), ("sinks_tiled", "cpu"), ("sinks_flex", "cuda")])
def test_accepted(name, device):
    attention.check(name, device)


def test_refused_in_the_model(gpt):
    """What it would compute wrongly: a prepared 4D mask, dropout, another model's masks, a cache with empty slots."""
    ids, mask = batch("left")
    gpt.set_attn_implementation("sinks_tiled")
    try:
        with pytest.raises(RftError, match="a prepared mask"):
            gpt(ids, attention_mask=torch.zeros(3, 1, 40, 40))
        gpt.train()
        layer = gpt.model.layers[0].self_attn
        layer.attention_dropout = 0.1
        with pytest.raises(RftError, match=r"attention_dropout 0\.1 is not supported"):
            gpt(ids, attention_mask=mask)
        layer.attention_dropout = 0.0
        gpt.eval()
        with pytest.raises(RftError, match="unused slots"):
            gpt.generate(
                ids, attention_mask=mask, max_new_tokens=4, cache_implementation="static", disable_compile=True
            )
        gpt.set_attn_implementation("sinks_flex")
        with pytest.raises(RftError, match="sinks_flex: has no backward on a CPU"):
            gpt(ids, attention_mask=mask)
    finally:
        gpt.set_attn_implementation("eager")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16)
    config._attn_implementation = "sinks_tiled"
    with pytest.raises(RftError, match="for gpt_oss, not for llama"):
        LlamaForCausalLM(config)(torch.tensor([[1, 2]]))
