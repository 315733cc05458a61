"""Shared by the engine tier: one tiny model, one tiny run."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# As the launcher does, for tests that start DeepSpeed themselves.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(ROOT / ".venv" / "torch_extensions"))


@pytest.fixture(scope="session")
def tiny_dir() -> Path:
    """The tiny gpt-oss of the default seed, made if it does not stand yet."""
    folder = ROOT / "data" / "tiny" / "seed0"
    command = [ROOT / ".venv" / "bin" / "python", "-m", "rft.tiny.cli", "make", "--out", folder, "--quiet"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


@pytest.fixture(scope="session")
def run(tiny_dir, tmp_path_factory) -> Path:
    """The folder of a finished default run of train_grpo_tiny.sh; read only. $RFT_TINY_RUN names one that is there."""
    if given := os.environ.get("RFT_TINY_RUN"):
        return Path(given)
    runs = tmp_path_factory.mktemp("runs")
    env = {**os.environ, "RFT_RUNS_DIR": str(runs), "RFT_SKIP_SETUP": "1"}
    done = subprocess.run(["bash", "train_grpo_tiny.sh"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (folder,) = [path.parent for path in runs.glob("*/run.json")]
    return folder
