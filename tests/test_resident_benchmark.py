"""benchmarks/actor.py at a size that takes seconds: it runs, and its figures are about the work that was done."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_experts_part_ends_in_one_json_line_with_every_figure():
    flags = ["--model", "tiny", "--ways", "resident", "--device", "cpu", "--tokens", "16", "--repeats", "1", "--json"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "actor.py", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    weights, biases = 3 * 8 * 128 * 64, 8 * (2 * 64 + 128)
    assert found["weights_bytes"]["resident"] == weights // 2 + weights // 32 + 2 * biases
    passes = found["ways"]["resident"]
    assert set(passes) == {"forward", "both"}
    for name, entry in passes.items():
        operations = 6 * 16 * 2 * 128 * 64 * (2 if name == "both" else 1)
        share = operations / entry["seconds"] / found["matrix_peak_flops"]
        assert abs(entry["share_of_matrix_peak"] - share) <= 1e-9 * share
        assert entry["tokens_per_s"] * entry["seconds"] > 15.99
        assert entry["peak_bytes"] > found["weights_bytes"]["resident"]
    assert "| resident | both |" in done.stdout
