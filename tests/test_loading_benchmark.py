"""benchmarks/loading.py judges what it measured by the limits it names; its model is what it says, always the same."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import subprocess
import sys
from pathlib import Path

from loading_kit import SMALL, make, small  # noqa: F401

from benchmarks import loading, synthetic_model
from rft.loading.placement import Geometry, model_bytes
from rft.provenance import sha256

ROOT = Path(__file__).resolve().parents[1]


def result(resident_load=1.0, resident_step=1.2, stock=4.5, ranks=1.05) -> dict:
    def peak(times):
        return {"anon": int(times * 1000), "rss": int(times * 1000)}

    return {
        "one": {
            "resident": {"load": peak(resident_load), "step": peak(resident_step)},
            "stock": {"load": peak(stock), "step": peak(stock)},
        },
        "ranks": {way: {"ratio": ranks} for way in ("stock", "dequantised", "resident")},
    }


def test_every_limit_is_judged_and_can_fail():
    assert len(loading.judge(result(), 1000)) == 6 and all(loading.judge(result(), 1000).values())
    for broken, count in (
        ({"resident_load": 1.31}, 1),
        ({"resident_step": 1.51}, 1),
        ({"stock": 3.9}, 2),
        ({"ranks": 1.11}, 2),
    ):
        assert list(loading.judge(result(**broken), 1000).values()).count(False) == count


def test_what_was_not_measured_is_not_judged():
    assert loading.judge({"one": {}, "ranks": {}}, 1000) == {}


def test_the_model_is_the_same_each_time(small, tmp_path):
    again = make(tmp_path / "again", SMALL)
    files = sorted(path.name for path in small.iterdir())
    assert files == sorted(path.name for path in again.iterdir())
    assert all(sha256(small / name) == sha256(again / name) for name in files)


def test_the_default_model_is_of_one_gigabyte():
    shape = synthetic_model.GB
    entries = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    geometry = Geometry.of_config(entries)
    assert 0.95e9 < model_bytes(geometry, "resident") < 1.05e9
    assert model_bytes(geometry, "dequantised") > 3.2 * model_bytes(geometry, "resident")


def test_a_folder_that_exists_is_refused(small):
    command = [sys.executable, str(ROOT / "benchmarks" / "synthetic_model.py"), str(small)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error:") and done.stderr.count("\n") == 1
