"""Shared by the engine tier: one tiny model, one tiny run."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """The tiny gpt-oss of the default seed, made if it does not stand yet."""
    folder = ROOT / "data" / "tiny" / "seed0"
    command = [ROOT / ".venv" / "bin" / "python", "-m", "rft.tiny.cli", "make", "--out", folder, "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder
