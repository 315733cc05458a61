"""Stands in for openrlhf.cli.train_ppo_ray in tests/test_launch.py; $FAKE says how it behaves.

Every variant first leaves processes behind that a careless launcher would lose: one that ignores SIGTERM, and a
daemon that was forked twice and has its own session.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rft.errors import RftError

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
how = os.environ["FAKE"]
metrics = Path(os.environ["METRICS_LOG_DIR"]) / "training_metrics.jsonl"


def daemonise() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        os._exit(0)


def step(number: int) -> None:
    line = {"event": "train", "time": time.time(), "step": number, "total_steps": 3, "reward_mean": 0.25 * number}
    with open(metrics, "a") as file:
        file.write(json.dumps({**line, "generate_s": 1.5, "step_s": 2.0}) + "\n")


subprocess.Popen([sys.executable, "-c", STUBBORN, metrics])
daemonise()
print("hello from the training process", os.getcwd(), os.environ["RAY_ADDRESS"], flush=True)
step(1)
if how == "ray":
    import ray

    ray.init(runtime_env={"env_vars": {"TOKENIZERS_PARALLELISM": "true"}})  # as train_ppo_ray does
    print("worker sees", ray.get(ray.remote(lambda: (os.getcwd(), os.environ["METRICS_LOG_DIR"])).remote()), flush=True)
if how == "wait":
    time.sleep(600)
if how == "rft_error":
    time.sleep(1.5)
    raise RftError("data/x.jsonl line 3: label 'abc' is no integer; mend it")
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "error":
    print("(Worker pid=7) ValueError: noise of a worker at shutdown", flush=True)
    {}["missing"]
step(2)
step(3)
