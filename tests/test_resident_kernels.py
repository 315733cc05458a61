"""The GPU kernels of resident experts in Triton's interpreter, against the plain torch that the CPU runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="this torch came without Triton")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def found() -> dict:
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "resident_kernels_probe.py"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_decoding_is_exact_for_every_code_and_scale(found):
    assert found["decode"] == {"every_code_and_scale": True, "odd_count": True}


def test_the_activation_and_its_gradient_are_the_plain_ones_clamped_values_included(found):
    for forward, backward, clamped in found["activation"].values():
        assert forward < 1e-5 and backward < 1e-4
        assert clamped > 0.1


def test_products_with_the_weight_decoded_in_the_tile_match_the_loop(found):
    assert len(found["product"]) == 16
    for name, off in found["product"].items():
        assert off < (2e-6 if "float32" in name else 1e-3), name
