"""The resident experts' kernels compile for the GPUs they are for. Minutes of one core where nothing is cached."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="this torch came without Triton")
ROOT = Path(__file__).resolve().parents[2]
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}  # CUDA C programming guide, table of compute capabilities


@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_to_tensor_core_products_that_spill_no_register(capability):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "engine" / "resident_compile_probe.py", str(capability)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(case["machine_code"] > 0 for case in found.values())
    assert all(case["shared_bytes"] <= SHARED_BYTES[capability] for case in found.values())
    assert {name: case["spilled_bytes"] for name, case in found.items()} == dict.fromkeys(found, 0)
    assert {name for name, case in found.items() if case["tensor_cores"]} == {"product", "product_back"}
