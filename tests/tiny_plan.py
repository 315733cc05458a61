"""A tiny model's folder after a warm start of a few steps: whole, but it knows nothing.

Import the fixture `tiny_dir`.
"""

from pathlib import Path

import pytest

from rft.tiny import build
from rft.tiny.warmstart import WarmStart

QUICK = WarmStart(clean_steps=2, noisy_steps=1, frozen_steps=1, batch=8)
_made: list[Path] = []


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory) -> Path:
    """Made once a session, whichever module asks first."""
    if not _made:
        out = tmp_path_factory.mktemp("made") / "tiny"
        build.make(out, seed=0, plan=QUICK, quiet=True)
        _made.append(out)
    return _made[0]
