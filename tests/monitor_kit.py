"""Run folders for the tests of the monitor: real lines, written as the trainer writes them."""

import json
import time
from pathlib import Path

from rft import metrics_file, runs

DIGESTS = ["aa" * 16, "bb" * 16]


def train_line(step: int, total: int = 40, at: float | None = None, **figures) -> dict:
    """A training step; 4 s after the one before, the last one now."""
    at = time.time() - 4.0 * (total - step) if at is None else at
    usual = {"reward_mean": 0.4 + step / 100, "correctness": 0.5, "has_boxed": 0.95, "grad_norm": 0.07}
    usual |= {"entropy_mean": 1.5, "truncated": 0.1, "response_length_mean": 900.0, "dlogp_abs_mean": 0.012}
    spent = {"generate_s": 1.0, "old_logprob_s": 0.5, "train_s": 2.0, "sync_s": 0.25, "other_s": 0.25, "step_s": 4.0}
    tokens = {"tokens_in_rollout": 2000, "tokens_in_batch": 1000}
    about = {"event": "train", "time": at, "step": step, "total_steps": total, "episode": 0}
    return {**about, **usual, **tokens, **spent, **figures}


def eval_line(step: int, accuracy: float, mode: str = "greedy_pass@1", n: int = 1, problems: int = 100) -> dict:
    temperature = 0.0 if mode.startswith("greedy") else 1.0
    about = {"event": "eval", "time": time.time(), "step": step, "mode": mode, "temperature": temperature, "n": n}
    return {**about, "n_problems": problems, "dataset": "data/heldout.jsonl", "accuracy": accuracy, "eval_s": 1.0}


def sync_line(version: int, digests: list[str] | None = None) -> dict:
    ranks = [{"rank": i, "version": version, "digest": d} for i, d in enumerate(digests or DIGESTS)]
    canary = {"dlogp_mean": 0.0012, "dlogp_max": 0.04, "served": 0.99}
    engines = [{"ranks": ranks, "prefix_cache_reset": True}]
    about = {"time": time.time(), "version": version, "digests": DIGESTS, "engines": engines, "sync_s": 0.014}
    return {**about, "canary": canary}


def write(path: Path, records: list[dict], end: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(metrics_file.line, records)) + end)
    return path


def make_run(folder: Path, steps: int = 12, total: int = 40, **record) -> Path:
    """A run on this machine, with metrics; its launcher is this process."""
    folder.mkdir(parents=True, exist_ok=True)
    import os
    import socket

    paths = {
        key: str(folder / name) for key, name in (("metrics", "metrics"), ("samples", "samples"), ("ckpt", "ckpt"))
    }
    paths |= {"run_dir": str(folder), "log": str(folder / "log.txt"), "save": str(folder / "final")}
    about = {"id": folder.name, "status": "running", "start": time.time() - 200, "end": None, "error": None}
    about |= {"pid": os.getpid(), "pid_started": runs.process_start(os.getpid()), "paths": paths}
    about |= {"machine": {"host": socket.gethostname()}, "argv": []}
    (folder / "run.json").write_text(json.dumps({**about, **record}))
    now = time.time()
    lines = [train_line(step, total, at=now - 4.0 * (steps - step)) for step in range(1, steps + 1)]
    if steps:
        write(folder / "metrics" / runs.METRICS_FILE, lines)
    return folder


def tree(folder: Path) -> dict[str, tuple]:
    """Everything below a folder: content, size and time of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.stat()
        found[str(path)] = (path.read_bytes() if path.is_file() else b"", stat.st_mtime_ns, stat.st_mode)
    return found
