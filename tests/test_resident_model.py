"""A whole gpt-oss with resident experts against the same model dequantised: log-probs, checkpointing, training."""

import copy

import pytest
import torch

from rft.resident.experts import ResidentExperts, replace_experts


@pytest.fixture(scope="module")
def models():
    """A tiny gpt-oss of random MXFP4 weights, float64, and its twin with resident experts."""
    from rft.tiny.model import build_config, build_model, round_experts

    torch.manual_seed(0)
    model = build_model(build_config(1, 0))
    round_experts(model)
    model = model.bfloat16().float()  # so that casting to bfloat16 below rounds no weight
    twin = copy.deepcopy(model)
    assert replace_experts(twin) == model.config.num_hidden_layers
    return model.double().eval(), twin.double().eval()


def log_probs(model, ids):
    return torch.log_softmax(model(ids).logits.double(), -1)


def test_a_model_with_resident_experts_gives_the_dequantised_models_log_probs(models):
    model, twin = models
    ids = torch.randint(0, model.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = log_probs(model, ids)
        assert (log_probs(twin, ids) - exact).abs().max() < 1e-9
        dequantised, resident = (log_probs(copy.deepcopy(m).bfloat16(), ids) for m in (model, twin))
    # Medians: where two experts' scores are near, rounding anywhere in the model picks the other one, in either form.
    rounding, apart = ((dequantised - other).abs().median() for other in (exact, resident))
    assert 0 < apart <= 2 * rounding
    assert (resident - exact).abs().median() <= 1.5 * rounding


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(models, reentrant):
    twin = copy.deepcopy(models[1]).train()
    ids = torch.randint(0, twin.config.vocab_size, (1, 12), generator=torch.Generator().manual_seed(1))
    query = twin.model.layers[0].self_attn.q_proj.weight

    def gradient():
        twin.zero_grad()
        log_probs(twin, ids)[..., 0].sum().backward()
        return query.grad.clone()

    expected = gradient()
    twin.gradient_checkpointing_enable({"use_reentrant": reentrant})
    twin.enable_input_require_grads()
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(), expected, rtol=1e-10, atol=1e-12)


def test_training_an_adapter_follows_the_dequantised_models_curve(models):
    from peft import LoraConfig, get_peft_model

    ids = torch.randint(0, 320, (4, 24), generator=torch.Generator().manual_seed(2))
    curves = []
    for model in models:
        torch.manual_seed(5)
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
        actor = get_peft_model(copy.deepcopy(model), lora).double().train()
        optimizer = torch.optim.AdamW([p for p in actor.parameters() if p.requires_grad], lr=1e-2)
        losses = []
        for _ in range(6):
            loss = -log_probs(actor, ids)[:, :-1].gather(-1, ids[:, 1:, None]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.95 * curves[0][0]  # it learns
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)


def test_on_the_meta_device_only_shapes_are_made():
    from transformers import GptOssForCausalLM

    from rft.tiny.model import build_config

    with torch.device("meta"):
        model = GptOssForCausalLM(build_config(1, 0))
    assert replace_experts(model) == 4
    experts = model.model.layers[3].mlp.experts
    assert isinstance(experts, ResidentExperts) and experts.down_proj_blocks.shape == (8, 128, 2, 16)
    assert {p.device.type for p in model.parameters()} == {"meta"}
