"""Small gpt-oss checkpoints for the loader's tests: several shards, an odd number of experts, random weights."""

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.synthetic_model import Shape, make

SMALL = Shape(2, 5, 2, 64, 96, 4, 2, 16, 80, sliding_window=8)
_made: list[Path] = []


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Made once a session; to be read only."""
    if not _made:
        _made.append(make(tmp_path_factory.mktemp("small") / "model", SMALL))
    return _made[0]


@pytest.fixture
def copied(small, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small, tmp_path / "model"))


def shard(folder: Path, index: int) -> Path:
    """0: embedding, head and last norm; n: layer n - 1."""
    return sorted(folder.glob("*.safetensors"))[index]


def edit_header(path: Path, change) -> None:
    """Rewrite a shard with `change` applied to its header (a dict), its data as they are."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def edit_json(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
