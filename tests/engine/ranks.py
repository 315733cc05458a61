"""Starts a probe on two ranks, as torchrun would, and gives back what each wrote."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run_ranks(probe: str, out: Path, *arguments: object) -> list[dict]:
    """``probe ARGUMENTS``, a script of this folder, on ranks 0 and 1; their rank0.json and rank1.json in `out`."""
    env = {
        **os.environ,
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "METRICS_LOG_DIR": str(out),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
    }
    command = [sys.executable, str(Path(__file__).with_name(probe)), *map(str, arguments)]
    with open(out / "log.txt", "w") as log:
        ranks = [
            subprocess.Popen(command, env={**env, "RANK": str(rank)}, cwd=ROOT, stdout=log, stderr=log)
            for rank in (0, 1)
        ]
        try:
            codes = [rank.wait(timeout=600) for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
    assert codes == [0, 0], (out / "log.txt").read_text()[-4000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
