"""LoRA on resident experts against PEFT's own on transformers' experts: names, values, gradients, files."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from rft.errors import RftError
from rft.resident import lora
from rft.resident.experts import replace_experts
from rft.tiny.model import build_config, build_model, round_experts


def config(**changes) -> LoraConfig:
    return LoraConfig(**{"r": 8, "lora_alpha": 4, "target_modules": ["q_proj"], "init_lora_weights": False} | changes)


@pytest.fixture(scope="module")
def pair():
    """(dequantised, resident): the same base, the same adapter on q and on both expert projections; float64."""
    torch.manual_seed(0)
    model = build_model(build_config(1, 0))
    round_experts(model)
    twin = copy.deepcopy(model)
    replace_experts(twin)
    dequantised = get_peft_model(model, lora.target_experts(config(), resident=False)).double()
    resident = get_peft_model(twin, lora.target_experts(config(), resident=True)).double()
    resident.load_state_dict(trainable(dequantised), strict=False)
    return dequantised, resident


def trainable(model) -> dict:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def logits(model, ids=None):
    ids = torch.randint(0, 100, (2, 12), generator=torch.Generator().manual_seed(0)) if ids is None else ids
    return model(ids).logits


def test_the_factors_bear_pefts_names_and_shapes(pair):
    shapes = [{name: p.shape for name, p in trainable(model).items()} for model in pair]
    assert shapes[0] == shapes[1]
    assert sum("experts" in name for name in shapes[0]) == 4 * 2 * 2  # layers, projections, A and B


@pytest.mark.parametrize("backend", ["loop", "grouped"])
def test_values_and_every_gradient_are_those_of_the_dequantised_model(pair, backend):
    dequantised, resident = (copy.deepcopy(model) for model in pair)
    if backend == "grouped":  # torch's grouped product has no float64
        dequantised, resident = dequantised.float(), resident.float()
    for layer in resident.base_model.model.model.layers:
        layer.mlp.experts.get_base_layer().backend = backend
    tolerance = 1e-9 if backend == "loop" else 2e-3
    outputs = [logits(model) for model in (dequantised, resident)]
    assert (outputs[0] - outputs[1]).abs().max() < tolerance
    for output in outputs:
        output.pow(2).mean().backward()
    for name, p in trainable(dequantised).items():
        found = trainable(resident)[name].grad
        assert p.grad.norm() > 0
        assert (found - p.grad).norm() <= tolerance * p.grad.norm(), name


def test_switched_off_it_is_the_base_and_on_it_is_not(pair):
    _, resident = pair
    with torch.no_grad(), resident.disable_adapter():
        off = logits(resident)
        assert torch.equal(off, logits(resident.get_base_model()))
    with torch.no_grad():
        assert (logits(resident) - off).abs().max() > 0.01


def test_an_adapter_of_one_form_loads_into_the_other(pair, tmp_path):
    dequantised, resident = pair
    lora.saved_config(copy.deepcopy(resident.peft_config["default"]))  # does not touch the live one
    saved = copy.deepcopy(resident)
    lora.saved_config(saved.peft_config["default"])
    saved.save_pretrained(tmp_path / "resident")
    dequantised.save_pretrained(tmp_path / "dequantised")
    names = [json.loads((tmp_path / form / "adapter_config.json").read_text())["target_parameters"]
             for form in ("resident", "dequantised")]  # fmt: skip
    assert sorted(names[0]) == sorted(names[1]) == ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    files = [load_file(tmp_path / form / "adapter_model.safetensors") for form in ("resident", "dequantised")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    base = copy.deepcopy(dequantised).unload()
    loaded = PeftModel.from_pretrained(base, tmp_path / "resident").double()
    with torch.no_grad():
        assert (logits(loaded) - logits(resident)).abs().max() < 1e-6  # float32 files


def test_merging_and_whole_modules_are_refused(pair):
    with pytest.raises(RftError, match="rft export"):
        copy.deepcopy(pair[1]).merge_and_unload()
    torch.manual_seed(0)
    model = build_model(build_config(1, 0))
    round_experts(model)
    replace_experts(model)
    whole = lora.target_experts(config(target_modules=["experts"]), resident=True)
    whole.target_parameters = None
    with pytest.raises(RftError, match="whole module"):
        get_peft_model(model, whole)
