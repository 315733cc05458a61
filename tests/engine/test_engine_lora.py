"""The side path of a vLLM layer, on vLLM's own linear method (rft/engine_lora.py)."""

import pytest
import torch

pytestmark = pytest.mark.engine
RANK, SCALING = 4, 2.0


@pytest.fixture(scope="module")
def engine_lora():
    from rft import engine_lora

    return engine_lora


class Layer(torch.nn.Module):
    """What SidePath needs of a vLLM linear layer."""

    def __init__(self, rows, columns, dtype):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(rows, columns).to(dtype), requires_grad=False)
        self.prefix = "model.layers.0.attn.qkv_proj"


class Attention(torch.nn.Module):
    def __init__(self, dtype=torch.bfloat16):
        super().__init__()
        self.qkv_proj, self.o_proj = Layer(32 + 16 + 16, 16, dtype), Layer(16, 32, dtype)
        self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads, self.qkv_proj.head_size = 4, 2, 8
        self.o_proj.output_size = 16


@pytest.fixture
def model(engine_lora, monkeypatch):
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    torch.manual_seed(0)
    monkeypatch.setattr(engine_lora, "get_tensor_model_parallel_rank", lambda: 0)
    monkeypatch.setattr(engine_lora, "get_tensor_model_parallel_world_size", lambda: 1)
    module = torch.nn.ModuleList([Attention(), Attention()])
    for attention in module:
        for layer in (attention.qkv_proj, attention.o_proj):
            layer.quant_method = UnquantizedLinearMethod()
    assert engine_lora.attach(module, RANK, SCALING) == 2
    for attention in module:
        for layer in (attention.qkv_proj, attention.o_proj):
            layer.quant_method.process_weights_after_loading(layer)
    return module


def geometry():
    from rft.lora_payload import Geometry

    return Geometry(layers=2, hidden=16, heads=4, kv_heads=2, head_dim=8, lora_rank=RANK, tp_size=1)


def adapter():
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{p}.lora_{kind}.weight": torch.randn(size).bfloat16()
        for layer in range(2)
        for p in ("q_proj", "k_proj", "v_proj", "o_proj")
        for kind, size in geometry().expected(p).items()
    }


def test_side_path_equals_peft(engine_lora, model):
    """Against PEFT's own LoRA layers on the same weights, in bf16: same arithmetic, same result."""
    from peft import LoraConfig, get_peft_model

    from rft import lora_payload

    tensors = adapter()
    engine_lora.apply_update(model, lora_payload.pack(tensors, 1, SCALING, geometry()))
    names = ("q_proj", "k_proj", "v_proj")
    plain = torch.nn.ModuleDict(
        {n: torch.nn.Linear(16, w, bias=False) for n, w in zip(names, (32, 16, 16), strict=True)}
    ).bfloat16()
    weights = model[1].qkv_proj.weight.split([32, 16, 16])
    wrapped = get_peft_model(plain, LoraConfig(r=RANK, lora_alpha=RANK * SCALING, target_modules=list(names)))
    x = torch.randn(5, 16).bfloat16()
    wanted = []
    for name, weight in zip(names, weights, strict=True):
        layer = wrapped.base_model.model[name]
        layer.base_layer.weight.data = weight.data
        for kind in "AB":
            tensor = tensors[f"base_model.model.model.layers.1.self_attn.{name}.lora_{kind}.weight"]
            getattr(layer, f"lora_{kind}")["default"].weight.data = tensor
        wanted.append(layer(x))
    layer = model[1].qkv_proj
    found = layer.quant_method.apply(layer, x, None)
    torch.testing.assert_close(found, torch.cat(wanted, -1), rtol=0.01, atol=0.05)
    off = layer.quant_method.inner.apply(layer, x, None)
    assert (found - off).abs().max() > 1.0


def test_side_path_of_zeros_changes_nothing(model):
    layer, x = model[0].o_proj, torch.randn(5, 32).bfloat16()
    assert torch.equal(layer.quant_method.apply(layer, x, None), layer.quant_method.inner.apply(layer, x, None))


def test_buffers_keep_their_storage_and_the_digest_is_of_what_is_held(engine_lora, model):
    from rft import lora_payload

    tensors = adapter()
    before = [b.data_ptr() for b in model.buffers()]
    certificate = engine_lora.apply_update(model, lora_payload.pack(tensors, 9, SCALING, geometry()))
    assert [b.data_ptr() for b in model.buffers()] == before
    found = lora_payload.by_layer(tensors, geometry())
    assert certificate["digest"] == lora_payload.expected_digest(found, geometry(), 0)
    assert certificate["version"] == 9
    model[0].qkv_proj.rft_lora_b[0, 0] += 1
    held = [b for a in model for layer in (a.qkv_proj, a.o_proj) for b in (layer.rft_lora_a, layer.rft_lora_b)]
    assert lora_payload.digest(held) != certificate["digest"]


@pytest.mark.parametrize("what", ["scaling", "rank", "layers", "cut"])
def test_an_update_that_does_not_fit_changes_nothing(engine_lora, model, what):
    from dataclasses import replace

    from rft import lora_payload

    shape, scaling = geometry(), SCALING
    if what == "scaling":
        scaling = 1.0
    elif what in ("rank", "layers"):
        shape = replace(shape, **{"lora_rank": 8} if what == "rank" else {"layers": 3})
    payload = lora_payload.pack(adapter(), 1, scaling, shape)
    with pytest.raises(ValueError, match="damaged" if what == "cut" else "the adapter is for"):
        engine_lora.apply_update(model, payload[:-7] if what == "cut" else payload)
    assert not any(buffer.any() for buffer in model.buffers())
