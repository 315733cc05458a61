"""Processes that look like a run's, for the doctor's tests: Ray's and vLLM's titles, real stacks, one run folder."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rft import runs

IDLE = "import queue\ndef run_busy_loop():\n    queue.Queue().get()\nrun_busy_loop()"
REWARD = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
def reward_func():
    while True:
        time.sleep(1)
pool = ThreadPoolExecutor(2, thread_name_prefix="reward")
pool.submit(int).result()
pool.submit(reward_func)
threading.Event().wait()
"""


def process(title: str, code: str, run_id: str = "r-1") -> subprocess.Popen:
    """A Python process with another name, as setproctitle leaves it; it carries the run's id."""
    env = {**os.environ, "RFT_RUN_ID": run_id, "PYTHONPATH": ""}
    child = subprocess.Popen([title, "-c", code], executable=sys.executable, env=env)
    wait_until(lambda: b"RFT_RUN_ID" in Path(f"/proc/{child.pid}/environ").read_bytes())
    return child


def wait_until(true, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def run_folder(parent: Path, run_id: str = "r-1", **record) -> Path:
    """A run under way whose launcher is this process; its metrics say three steps."""
    folder = parent / run_id
    for name in ("metrics", "samples", "ckpt"):
        (folder / name).mkdir(parents=True)
    paths = {key: str(folder / key) for key in ("metrics", "samples", "ckpt", "save")}
    paths |= {"run_dir": str(folder), "log": str(folder / "log.txt")}
    value = {"id": run_id, "name": "t", "status": "running", "start": time.time(), "paths": paths}
    value |= {"pid": os.getpid(), "pid_started": runs.process_start(os.getpid())}
    (folder / "run.json").write_text(json.dumps({**value, **record}))
    (folder / "log.txt").write_text("hello\n")
    lines = [{"event": "train", "step": step, "step_s": 2.0, "time": time.time()} for step in (1, 2, 3)]
    (folder / "metrics" / "training_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
