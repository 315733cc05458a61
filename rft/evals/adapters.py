"""LoRA adapters as checkpoints hold them (PEFT's format), checked against the base before an engine starts.

`find` lists the adapters of a folder, `read` one of them, `frame` is what the engine takes (rft/lora_frame.py). The
scaling and rank of an engine are fixed when it starts, so that adapters of one shape share it. Main thread; torch is
imported by `check` and `frame` only.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError
from rft.provenance import sha256

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
STEP = re.compile(r"global_step(\d+)_hf")
REFUSED = ("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern", "modules_to_save")


@dataclass(frozen=True)
class Shape:
    """What an engine must be started for."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class Adapter:
    """digest: of weights, rank and alpha; base: what adapter_config.json names; step: by the folder's name."""

    path: Path
    shape: Shape
    digest: str
    base: str | None
    step: int | None


def is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def read(folder: Path) -> Adapter:
    """raises  RftError: a file is missing or damaged, or a kind of LoRA that the engines do not serve"""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except FileNotFoundError as err:
        raise RftError(f"{folder}: no {CONFIG}, so it is no adapter; name a global_step*_hf folder") from err
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise RftError(f"{folder / CONFIG}: not readable as a LoRA configuration ({err!r}); save it again") from err
    unfit = [key for key in REFUSED if config.get(key)]
    if unfit:
        raise RftError(
            f"{folder / CONFIG}: {unfit[0]} is set, which the engines do not serve; merge it, then eval-posthoc"
        )
    if not (folder / WEIGHTS).is_file():
        raise RftError(f"{folder}: {WEIGHTS} is missing; the checkpoint is not whole")
    digest = hashlib.sha256(f"{sha256(folder / WEIGHTS)} {rank} {alpha}".encode()).hexdigest()
    match = STEP.fullmatch(folder.resolve().name)
    return Adapter(
        folder, Shape(rank, alpha), digest, config.get("base_model_name_or_path"), int(match[1]) if match else None
    )


def find(folder: Path) -> list[Adapter]:
    """The adapters of a checkpoint folder in the order of their steps: itself, its global_step*_hf, a run's ckpt/.

    raises  RftError: there are none
    """
    folder = Path(folder)
    if is_adapter(folder):
        return [read(folder)]
    places = [folder, folder / "ckpt"]
    found = {path for place in places for path in place.glob("global_step*_hf") if STEP.fullmatch(path.name)}
    if not found:
        raise RftError(
            f"--checkpoint_path {folder}: neither an adapter nor global_step*_hf in it; name a run's ckpt folder"
        )
    return [read(path) for path in sorted(found, key=lambda path: int(STEP.fullmatch(path.name)[1]))]


def tensors(adapter: Adapter, model_config, tp_size: int) -> tuple[dict, object]:
    """(tensors by layer, geometry) of an adapter that fits the base.

    model_config  the base's transformers configuration
    raises        RftError: damaged, or made for another base
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from rft.lora_layout import DTYPE, Geometry, by_layer

    path = adapter.path / WEIGHTS
    try:
        loaded = load_file(path)
        geometry = Geometry.of(model_config, adapter.shape.rank, tp_size)
        return by_layer({name: tensor.to(DTYPE) for name, tensor in loaded.items()}, geometry), geometry
    except (SafetensorError, OSError) as err:
        raise RftError(f"{path}: not readable ({err}); the checkpoint is damaged") from err
    except ValueError as err:
        raise RftError(
            f"{path}: does not fit the base model ({err}); name the base it was trained on with --model"
        ) from err


def frame(adapter: Adapter | None, shape: Shape, model_config, tp_size: int, version: int):
    """(the frame, the digest that each rank must answer with); None for `adapter`: all zero, the base alone."""
    from rft.lora_frame import Frame
    from rft.lora_layout import Geometry, Layout

    found, geometry = {}, Geometry.of(model_config, shape.rank, tp_size)
    if adapter is not None:
        found, geometry = tensors(adapter, model_config, tp_size)
    layout = Layout(geometry)
    made = Frame(layout, shape.alpha / shape.rank)
    made.write(found, version)
    return made.array, layout.expected_digests(found)
