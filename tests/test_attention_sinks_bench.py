"""benchmarks/attention.py, on shapes of a few kilobytes: every way is measured, what it compares is the same work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import allocated, attention  # noqa: E402

TINY = {"heads": 4, "groups": 2, "dim": 8, "window": 4, "vocabulary": 50, "hidden": 16}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(attention, "SMALL", TINY)


def test_the_last_line(tiny, capsys):
    assert attention.main(["--lengths", "24", "12", "--repeats", "1", "--chunk_tok", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {(row["what"], row["way"], row["tokens"]) for row in found["rows"]}
    ways = {"full": ("eager", "sinks_tiled"), "log p": ("whole", "chunked")}
    ways |= {"sliding": ways["full"], "log p, entropy": ways["log p"]}
    assert rows == {(what, way, tokens) for what in ways for way in ways[what] for tokens in (12, 24)}
    assert all(row["peak_bytes"] > 0 and row["both_s"] >= 0 for row in found["rows"])
    assert found["errors"].keys() == {"full sinks_tiled", "sliding sinks_tiled"}
    assert all(0 < value <= 1.5 for part in found["errors"].values() for value in part.values())


@pytest.mark.parametrize("window", [None, 4])
def test_ways_compute_the_same(tiny, window):
    """Outputs in float32; the masks are those that transformers would make."""
    inputs = attention.attention_inputs(TINY, 19, "cpu", torch.float32)
    eager, tiled = (attention.attend(name, inputs, TINY, window, 19, "cpu")() for name in ("eager", "sinks_tiled"))
    torch.testing.assert_close(tiled, eager, rtol=1e-5, atol=1e-5)
    other = attention.attend("eager", inputs, TINY, 9, 19, "cpu")()
    assert not torch.allclose(other, eager, atol=1e-3)  # the window is in it


def test_both_ways_of_log_probs_are_the_same(tiny):
    args = attention.parse(["--chunk_tok", "5"])
    for entropy in (False, True):
        (whole, gradient), (chunked, other) = attention.logprob_ways(TINY, 13, entropy, args).values()
        torch.testing.assert_close(chunked(), whole(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other()[0], gradient()[0], rtol=2e-2, atol=2e-2)


def test_peak_bytes():
    """Two tensors of 400,000 bytes at a time, not the third that comes when one is gone, nor what was there before."""
    before = torch.ones(100_000)

    def run():
        first = before * 2
        del first
        second = before * 3
        return second + before

    assert 800_000 <= allocated.peak_bytes(run) < 810_000


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu(capsys):
    assert attention.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "error: no GPU here; leave --device out for the small CPU shapes\n"


def test_help_without_torch():
    code = "import sys; from benchmarks import attention\ntry: attention.parse(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)
