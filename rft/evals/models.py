"""Models by folder or hub id: where their weights lie, what they are, and whether an engine here can load them.

`locate` finds the folder, `digest` names its content (cached by size and time of its files, because 65 GB take a
minute), `engine_folder` is what vLLM gets: the folder itself, or on a CPU the bf16 twin of an MXFP4 checkpoint.
Main thread.
"""

import hashlib
import json
from pathlib import Path

from rft import runs
from rft.dequantise import SOURCE_KEY, checkpoint_digest, list_shards
from rft.errors import RftError
from rft.provenance import gpus, sha256

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_IGNORED = ["original/*", "metal/*", "*.bin", "*.pth"]


def locate(name: str, flag: str = "--model") -> Path:
    """The folder of a model: a path, relative ones against the working directory and then the repository, or a hub id.

    raises  RftError: none of these, no config.json in it, or no tokenizer
    """
    folder = next((path for path in (Path(name).expanduser(), runs.REPO / name) if path.is_dir()), None)
    if folder is None:
        if name.count("/") != 1 or name.startswith((".", "/", "~")) or (runs.REPO / name.split("/")[0]).is_dir():
            raise RftError(f"{flag} {name}: no such folder; give a model folder or a hub id")
        folder = _fetched(name, flag)
    if not (folder / "config.json").is_file():
        raise RftError(f"{flag} {name}: no config.json in that folder; give a Hugging Face checkpoint")
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise RftError(
            f"{flag} {name}: no tokenizer in that folder ({', '.join(TOKENIZER_FILES)}); copy the base's into it"
        )
    return folder


def _fetched(name: str, flag: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=_IGNORED))
    except Exception as err:  # the hub client has a dozen of its own, and those of its transport
        cause = (str(err).splitlines() or [type(err).__name__])[0][:200]
        raise RftError(
            f"{flag} {name}: neither a folder nor to be had from the hub ({cause}); download it first"
        ) from err


def config(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RftError(f"{folder / 'config.json'}: not readable JSON ({err}); fetch the model again") from err


def engine_folder(folder: Path, named: str | None = None) -> Path:
    """What the engine loads. named: --engine_model.

    raises  RftError: MXFP4 on a CPU without a twin, or a twin of another checkpoint
    """
    if named is not None:
        return locate(named, "--engine_model")
    if (config(folder).get("quantization_config") or {}).get("quant_method") != "mxfp4" or gpus():
        return folder
    twin = folder.with_name(f"{folder.name}-bf16")
    if not twin.is_dir():
        raise RftError(
            f"{folder}: vLLM's CPU build cannot load MXFP4; make a twin with: rft dequantise {folder} {twin}"
        )
    if config(twin).get(SOURCE_KEY) != checkpoint_digest(folder):
        raise RftError(f"{twin}: not the bf16 twin of {folder}; remove it and run: rft dequantise {folder} {twin}")
    return twin


def digest(folder: Path, cache: Path) -> str:
    """sha256 over weights, config.json and generation_config.json, hex.

    cache  a JSON file of digests that are known; a file counts as unchanged with the same size and time
    """
    known = {}
    if cache.is_file():
        try:
            known = json.loads(cache.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}  # it only saves time
    files = [*list_shards(folder), folder / "config.json", folder / "generation_config.json"]
    total, fresh = hashlib.sha256(), dict(known)
    for path in files:
        if path.is_file():
            state = path.stat()
            key = f"{path.resolve()} {state.st_size} {state.st_mtime_ns}"
            fresh[key] = known.get(key) or sha256(path)
            total.update(f"{path.name} {fresh[key]}\n".encode())
    if fresh != known:
        try:
            cache.parent.mkdir(parents=True, exist_ok=True)
            runs.write_json(cache, fresh)
        except OSError as err:
            raise RftError(f"{cache}: {err.strerror}; free space or set RFT_EVALS_DIR to another folder") from err
    return total.hexdigest()


def tokenizer(folder: Path):
    """The model's tokenizer, with a chat template.

    raises  RftError: it cannot be loaded, or has no template
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder)
    except Exception as err:  # transformers, tokenizers and sentencepiece raise what they like
        raise RftError(
            f"{folder}: its tokenizer cannot be loaded ({str(err).splitlines()[0][:200]}); fetch it again"
        ) from err
    if not found.chat_template:
        raise RftError(f"{folder}: its tokenizer has no chat template; copy chat_template.jinja from the base model")
    return found
