"""The floor under a training run: warns, stops with room for one more checkpoint; on a real small file system."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rft import inputs, runlog
from rft.disk.floor import STOP_SHARE, TOKENIZER_BYTES, DiskFloor
from rft.disk.usage import Counter
from rft.errors import RftError

ROOT = Path(__file__).resolve().parent.parent


def args(ckpt, **more):
    return argparse.Namespace(ckpt_path=str(ckpt), pretrain=None, lora_rank=8, **more)


def floor(tmp_path, free_share: float) -> DiskFloor:
    """A floor whose warning line stands at a share of what is free now."""
    free = shutil.disk_usage(tmp_path).free
    return DiskFloor(args(tmp_path / "ckpt"), {"RFT_MIN_FREE_GB": str(free * free_share / 1e9), "RFT_RUN_ID": "r-1"})


def test_room_enough(tmp_path, capsys):
    one = floor(tmp_path, 0.5)
    assert one.look() == [] and not one.reached() and capsys.readouterr().out == ""
    one.stop(3)  # does nothing


def test_warns_once_below_the_floor(tmp_path, capsys):
    one = floor(tmp_path, 1.5)
    assert not one.reached() and not one.reached()
    said = capsys.readouterr().out
    assert said.count("warning: ") == 1 and f"{tmp_path}" in said and "the run saves and stops below" in said


def test_stops_below_a_quarter_of_it(tmp_path):
    one = floor(tmp_path, 1.5 / STOP_SHARE)
    assert one.reached() and one.reached()
    with pytest.raises(
        RftError, match=r"GB free, under the floor of .*stopped with a checkpoint of step 7.*--resume r-1"
    ):
        one.stop(7)


def test_size_of_the_next_checkpoint(tmp_path):
    one = floor(tmp_path, 0.5)
    assert one.checkpoint_bytes() == TOKENIZER_BYTES  # the model's geometry is not at hand
    one.args.pretrain = str(tmp_path)
    geometry = {"hidden_size": 2880, "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64}
    (tmp_path / "config.json").write_text(json.dumps({**geometry, "num_hidden_layers": 24}))
    assert one.checkpoint_bytes() == inputs.checkpoint_bytes(one.args, ROOT) + TOKENIZER_BYTES > 50e6
    kept = tmp_path / "ckpt" / "global_step10_hf"
    kept.mkdir(parents=True)
    (kept / "adapter_model.safetensors").write_bytes(os.urandom(3_000_000))
    assert one.checkpoint_bytes() == Counter().tree(kept) > 3_000_000


TRAIN = """
import argparse, os, sys
from pathlib import Path
from rft.disk.floor import DiskFloor
disk = Path(sys.argv[1])
os.environ["TMPDIR"] = str(disk)
args = argparse.Namespace(ckpt_path=str(disk / "ckpt"), pretrain=None, lora_rank=8)
floor = DiskFloor(args, {"RFT_MIN_FREE_GB": "0.008", "METRICS_LOG_DIR": str(disk), "RFT_RUN_ID": "r"})
def save(step):
    folder = disk / "ckpt" / f"global_step{step}_hf"
    folder.mkdir(parents=True)
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(os.urandom(4_000_000)); file.flush(); os.fsync(file.fileno())
save(0)
for step in range(1, 1000):
    (disk / f"samples_step{step}").write_bytes(os.urandom(500_000))
    if floor.reached():
        save(step)
    floor.stop(step)
"""


def test_the_last_checkpoint_fits_on_a_small_disk(tmp_path):
    """40 MB of tmpfs in a mount namespace of its own, which half a megabyte a step fills."""
    disk = tmp_path / "disk"
    disk.mkdir()
    inner = 'mount -t tmpfs -o size=40m none "$1" && exec "$2" -c "$3" "$1"'
    probe = subprocess.run(["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none "$1"', "sh", disk], capture_output=True)
    if probe.returncode:
        pytest.skip(f"no mount namespace here: {probe.stderr.decode().strip()}")
    command = ["unshare", "-rm", "sh", "-c", inner, "sh", disk, sys.executable, TRAIN]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "OSError" not in done.stderr, done
    assert done.stdout.count("warning: ") >= 1, done
    log = tmp_path / "log.txt"
    log.write_text(done.stdout + done.stderr)
    assert "stopped with a checkpoint of step " in runlog.cause(log, 1) and "rft disk --prune" in runlog.cause(log, 1)
