"""A trained LoRA adapter as PEFT keeps it, checked, as the list of base weights that it changes.

Linear targets come as ``base_model.model.<module>.lora_A.weight`` (r, in) and ``lora_B.weight`` (out, r), and change
``<module>.weight``. Expert targets (``target_parameters``) come nested, ``<module>.base_layer.lora_A.weight``, with the
experts folded into the rank: A (E*r, ·), B (·, r*E); which of the module's parameters a level belongs to is told by
its shapes, and by them too whether A meets the parameter's last dimension or its middle one (PEFT changed that).

Main thread; torch is imported where tensors are read. Source: peft 0.21, tuners/lora/layer.py (`ParamWrapper`).
"""

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError
from rft.export.safetensors_file import Entry, read_header
from rft.provenance import sha256

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What a merge of B A alone would lose; peft writes the falsy ones into every file.
REFUSED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication")
REFUSED += ("use_qalora", "use_bdlora", "fan_in_fan_out", "alora_invocation_tokens", "kasa_config", "velora_config")
EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
_NAME = re.compile(r"(?:base_model\.model\.)?(?P<module>.+?)(?P<nested>(?:\.base_layer)*)\.lora_(?P<kind>[AB])\.weight")


@dataclass(frozen=True)
class Pair:
    """A and B of one target. module: in the base model; level: how often `base_layer` stands before lora_ (experts)."""

    module: str
    level: int
    a: Entry
    b: Entry
    rank: int
    scaling: float


@dataclass(frozen=True)
class Adapter:
    """digest: sha256 of the weights and of what scales them; base: what adapter_config.json names, None if nothing."""

    path: Path
    rank: int
    alpha: float
    targets: tuple[str, ...]
    digest: str
    base: str | None
    peft_version: str
    pairs: tuple[Pair, ...]


def read(folder: Path) -> Adapter:
    """raises  RftError: no adapter, damaged, a kind of LoRA that cannot be merged, or ranks that disagree"""
    config = _config(folder)
    where = folder / CONFIG
    if config.get("peft_type") not in (None, "LORA"):
        raise RftError(f"{where}: peft_type is {config['peft_type']!r}; only LORA can be merged")
    set_ = [key for key in REFUSED if config.get(key)]
    if set_ or config.get("bias", "none") != "none":
        raise RftError(f"{where}: {set_[0] if set_ else 'bias'} is set, which an export cannot merge; train without it")
    try:
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (KeyError, TypeError, ValueError) as err:
        raise RftError(f"{where}: r and lora_alpha are not both numbers ({err!r}); save the adapter again") from err
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise RftError(f"{folder}: {WEIGHTS} is missing; the checkpoint is not whole, name another")
    problem = _changed(folder)
    if problem:
        raise RftError(f"{folder}: {problem}; name a whole checkpoint")
    pairs = _pairs(weights, config, rank, alpha)
    scales = sorted(f"{pair.module} {pair.level} {pair.rank} {pair.scaling!r}" for pair in pairs)
    digest = hashlib.sha256("\n".join([sha256(weights), *scales]).encode()).hexdigest()
    targets = {pair.module.rpartition(".")[2] for pair in pairs}
    return Adapter(
        folder,
        rank,
        alpha,
        tuple(sorted(targets)),
        digest,
        config.get("base_model_name_or_path"),
        str(config.get("peft_version") or "unknown"),
        tuple(pairs),
    )


def _config(folder: Path) -> dict:
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise RftError(f"{folder}: no {CONFIG}, so it is no adapter; name a run's final/ or global_step*_hf") from err
    except (OSError, ValueError) as err:
        raise RftError(f"{folder / CONFIG}: not readable JSON ({err}); save the adapter again") from err
    if not isinstance(found, dict):
        raise RftError(f"{folder / CONFIG}: no JSON object; save the adapter again")
    return found


def _changed(folder: Path) -> str | None:
    """What is wrong with the files that a checkpoint's digests.json names; None where it has none."""
    path = folder / "digests.json"
    if not path.is_file():
        return None
    try:
        digests = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        return f"no readable digests.json ({err})"
    for name in (CONFIG, WEIGHTS, "base.json"):
        if name in digests and (not (folder / name).is_file() or sha256(folder / name) != digests[name]):
            return f"{name} is not what was written (its digest differs)"
    return None


def _pairs(weights: Path, config: dict, rank: int, alpha: float) -> list[Pair]:
    halves: dict[tuple[str, int], dict[str, Entry]] = {}
    for entry in read_header(weights):
        match = _NAME.fullmatch(entry.name)
        if match is None:
            raise RftError(f"{weights}: {entry.name} is no LoRA A or B; an export merges nothing else")
        key = (match["module"], match["nested"].count(".base_layer"))
        halves.setdefault(key, {})[match["kind"]] = entry
    if not halves:
        raise RftError(f"{weights}: no tensor in it; the checkpoint is damaged, name another")
    found = []
    for (module, level), half in sorted(halves.items()):
        if half.keys() != {"A", "B"}:
            raise RftError(f"{weights}: {module} has lora_{next(iter(half))} only; the checkpoint is damaged")
        a, b = half["A"], half["B"]
        own_rank = int(_pattern(config.get("rank_pattern"), module, rank))
        own_alpha = float(_pattern(config.get("alpha_pattern"), module, alpha))
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or a.shape[0] % own_rank:
            raise RftError(
                f"{weights}: {module} has A {a.shape} and B {b.shape}, {CONFIG} says rank {own_rank}; "
                "the two files are not of one adapter, name a whole checkpoint"
            )
        scaling = own_alpha / (math.sqrt(own_rank) if config.get("use_rslora") else own_rank)
        found.append(Pair(module, level, a, b, own_rank, scaling))
    return found


def _pattern(patterns: dict | None, module: str, default):
    """PEFT's rule: the first key that is a regular expression for the end of the module's name."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(?:.*\.)?(?:{key})$", module):
            return value
    return default


def load(entry: Entry):
    """An A or B as a float32 tensor (rows, columns)."""
    import torch

    from rft.export.safetensors_file import read as read_bytes

    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    if entry.dtype not in kinds:
        raise RftError(f"{entry.path}: {entry.name} is {entry.dtype}; an adapter is BF16, F16 or F32, save it again")
    tensor = torch.frombuffer(read_bytes(entry), dtype=kinds[entry.dtype]).view(entry.shape).float()
    if not bool(torch.isfinite(tensor).all()):
        raise RftError(f"{entry.path}: {entry.name} holds a value that is not finite; export an earlier checkpoint")
    return tensor
