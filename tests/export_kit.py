"""What the tests of `rft export` share: adapters that PEFT saved, models merged in memory, bases cut into shards."""

import json
import shutil
from pathlib import Path

import torch

from rft.export import adapter as adapters
from rft.export import base as bases
from rft.export import checkpoint
from rft.tiny.model import load_checkpoint

PROMPTS = torch.randint(0, 256, (3, 40), generator=torch.Generator().manual_seed(5))  # longer than the sliding window


def make_adapter(model: Path, folder: Path, seed: int = 0, scale: float = 0.3, **options) -> Path:
    """An adapter that PEFT made and saved, with a B that is not zero. options: of LoraConfig."""
    from peft import LoraConfig, get_peft_model

    config = {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "r": 8, "lora_alpha": 16} | options
    torch.manual_seed(seed)
    peft = get_peft_model(load_checkpoint(model), LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, scale / parameter.shape[-1] ** 0.5)
    peft.peft_config["default"].base_model_name_or_path = str(model)
    peft.save_pretrained(folder)
    return folder


def merged_in_memory(model: Path, adapter: Path):
    """Base and adapter merged by PEFT in float32, then bf16: not by anything of ours."""
    from peft import PeftModel

    wide = load_checkpoint(model).float()
    merged = PeftModel.from_pretrained(wide, adapter).merge_and_unload()
    narrow = load_checkpoint(model)  # its rotary frequencies stay float32
    narrow.load_state_dict({name: tensor.bfloat16() for name, tensor in merged.state_dict().items()})
    return narrow.eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPTS).logits


def run_export(adapter: Path, base: Path | None, out: Path, form: str, **options) -> dict:
    found = adapters.read(adapter)
    return checkpoint.export(found, bases.find(found, base and str(base)), out, form, **options)


def shard(model: Path, folder: Path, parts: int = 3) -> Path:
    """The same checkpoint in several files with an index, a weight's blocks and scales in different ones."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True)
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    tensors, weight_map = load_file(model / "model.safetensors"), {}
    for part in range(parts):
        name = f"model-{part + 1:05d}-of-{parts:05d}.safetensors"
        mine = {key: tensor for place, (key, tensor) in enumerate(sorted(tensors.items())) if place % parts == part}
        save_file(mine, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(mine, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(path)
    return found
