"""Bit-exact bf16 copy of an MXFP4 gpt-oss checkpoint: what vLLM's CPU build can load.

`dequantise_checkpoint` goes shard by shard (one shard in memory at a time), turns ``<name>_blocks`` and
``<name>_scales`` into ``<name>`` (E, in, out) bf16 and copies every other tensor and file unchanged. The new
config.json has no ``quantization_config`` and names its source by digest under ``rft_dequantised_from``. The target
appears complete or not at all (written beside it, then renamed). Called by ``rft dequantise SRC DST``, the tiny
model's maker and the launcher.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

from rft.errors import RftError
from rft.provenance import sha256

SOURCE_KEY = "rft_dequantised_from"
INDEX_NAME = "model.safetensors.index.json"


def list_shards(src: Path) -> list[Path]:
    """The safetensors files of a checkpoint in name order; RftError if one is missing or there is none."""
    index = src / INDEX_NAME
    if index.exists():
        names = sorted(set(_read_json(index)["weight_map"].values()))
    else:
        names = sorted(path.name for path in src.glob("*.safetensors"))
    if not names:
        raise RftError(f"{src} holds no .safetensors file; name the folder of a gpt-oss checkpoint")
    missing = [name for name in names if not (src / name).is_file()]
    if missing:
        raise RftError(f"{src}: shard {missing[0]} is named by {INDEX_NAME} but missing; fetch the checkpoint again")
    return [src / name for name in names]


def checkpoint_digest(src: Path) -> str:
    """sha256 over the names and contents of the checkpoint's safetensors files, in name order (hex)."""
    digest = hashlib.sha256()
    for shard in list_shards(src):
        digest.update(f"{shard.name} {sha256(shard)}\n".encode())
    return digest.hexdigest()


def dequantise_checkpoint(src: Path, dst: Path) -> Path:
    """Write the bf16 twin of the MXFP4 checkpoint `src` to `dst` and return `dst`.

    raises RftError if `src` is no complete MXFP4 checkpoint, or `dst` exists and is not this very twin
    """
    src, dst = Path(src), Path(dst)
    config = _read_json(src / "config.json")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method != "mxfp4":
        raise RftError(
            f"{src / 'config.json'}: quant_method is {method!r}, not 'mxfp4': there is nothing to dequantise"
        )
    shards = list_shards(src)
    source_digest = checkpoint_digest(src)
    if dst.exists():
        if (dst / "config.json").exists() and _read_json(dst / "config.json").get(SOURCE_KEY) == source_digest:
            return dst
        raise RftError(f"{dst} exists and is not the twin of {src}; remove it or name another folder")

    partial = dst.with_name(dst.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write_shards(shards, partial, has_index=(src / INDEX_NAME).exists())
        _copy_rest(src, partial)
        config.pop("quantization_config")
        config[SOURCE_KEY] = source_digest
        config["dtype" if "dtype" in config else "torch_dtype"] = "bfloat16"
        (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        partial.rename(dst)
    except OSError as error:
        raise RftError(f"cannot write {dst}: {error.strerror or error}; free space or name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dst


def _write_shards(shards: list[Path], target: Path, has_index: bool) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    from rft.mxfp4 import dequantise_expert

    where = _tensor_homes(shards)
    weight_map, total_bytes = {}, 0
    for shard in shards:
        tensors = {}
        with safe_open(shard, framework="pt") as handle:
            for name in sorted(handle.keys()):
                if name.endswith("_scales"):
                    continue
                if not name.endswith("_blocks"):
                    tensors[name] = handle.get_tensor(name)
                    continue
                stem = name.removesuffix("_blocks")
                scales_home = where.get(stem + "_scales")
                if scales_home is None:
                    raise RftError(f"{shard}: {name} has no {stem}_scales beside it; the checkpoint is damaged")
                with safe_open(scales_home, framework="pt") as other:
                    scales = other.get_tensor(stem + "_scales")
                tensors[stem] = dequantise_expert(handle.get_tensor(name), scales)
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard.name)
        total_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if has_index:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (target / INDEX_NAME).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _tensor_homes(shards: list[Path]) -> dict[str, Path]:
    from safetensors import SafetensorError, safe_open

    homes = {}
    for shard in shards:
        try:
            with safe_open(shard, framework="pt") as handle:
                homes |= dict.fromkeys(handle.keys(), shard)
        except (SafetensorError, OSError) as error:
            raise RftError(f"{shard} cannot be read as safetensors ({error}); fetch it again") from error
    if not any(name.endswith("_blocks") for name in homes):
        raise RftError(f"{shards[0].parent}: no tensor ends in _blocks, so it holds no MXFP4 weights")
    return homes


def _copy_rest(src: Path, target: Path) -> None:
    for path in sorted(src.iterdir()):
        if path.is_file() and path.suffix != ".safetensors" and path.name not in ("config.json", INDEX_NAME):
            shutil.copyfile(path, target / path.name)


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RftError(f"{path} does not exist; name the folder of a Hugging Face checkpoint") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RftError(f"{path} is no valid JSON ({error}); fetch the checkpoint again") from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="rft dequantise", description="Write the bit-exact bf16 twin of an MXFP4 gpt-oss checkpoint."
    )
    parser.add_argument("src", type=Path, help="folder of the MXFP4 checkpoint")
    parser.add_argument("dst", type=Path, help="folder to make (about 3.4 times as large)")
    args = parser.parse_args(argv)
    try:
        print(dequantise_checkpoint(args.src, args.dst))
    except RftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
