#!/usr/bin/env python
"""What the live monitor costs beside a long run: seconds to its first screen, share of a core while it follows.

    python benchmarks/monitor.py --steps 100000 --json

Makes a run folder of --steps steps with every figure of rft.metrics, evaluations every 10, a sync a step, then starts
monitor.sh on a pseudo-terminal of 50 x 80 while the run goes on: a step and a sync every --pace seconds. The screen is
there once its last line is. CPU time is that of the process and its children, from the kernel: `start_cpu_s` until the
figures settle (the diagnosis loads its libraries then), `core` is what each later second takes. Beside it in the same
run: one pass over the file with json, which is what a monitor that reads everything would do at every look.
"""

import argparse
import fcntl
import json
import math
import os
import pty
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # where rft is not installed

CORE_LIMIT, START_LIMIT_S = 0.02, 2.0
SETTLE_S = 20.0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="steps that the run has behind it")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long it is followed after it has settled")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds before that")
    parser.add_argument("--pace", type=float, default=4.0, help="seconds a step of the run; a real one takes minutes")
    parser.add_argument("--json", action="store_true", help="the last line of stdout is one JSON object")
    return parser.parse_args(argv)


def train_line(step: int, total: int, at: float, rng: random.Random) -> dict:
    """A line with every figure; rising rewards, phases that make 4 s."""
    from rft import metrics

    figures = {name: rng.random() for name, metric in metrics.METRICS.items() if not metric.family}
    spent = {"generate_s": 1.5, "reward_s": 0.1, "old_logprob_s": 0.6, "train_s": 1.5, "sync_s": 0.2, "step_s": 4.0}
    reward = {"reward_mean": 0.2 + 0.6 * step / total, "tokens_in_rollout": 200_000, "tokens_in_batch": 200_000}
    about = {"event": "train", "time": at, "step": step, "total_steps": total, "episode": 0}
    return {**figures, **spent, **reward, **about}


def eval_line(step: int, at: float) -> dict:
    about = {"event": "eval", "time": at, "step": step, "mode": "greedy_pass@1", "temperature": 0.0, "n": 1}
    return {**about, "n_problems": 202, "dataset": "data/probe.jsonl", "accuracy": 0.4, "eval_s": 30.0}


def sync_line(version: int, at: float) -> dict:
    digests = ["ab" * 16, "cd" * 16]
    ranks = [{"rank": r, "tp_size": 2, "mode": "sidepath", "version": version, "digest": digests[r]} for r in (0, 1)]
    engines = [{"ranks": ranks, "prefix_cache_reset": True}] * 2
    return {"time": at, "version": version, "digests": digests, "engines": engines, "sync_s": 0.03}


def make_run(folder: Path, steps: int) -> tuple[int, float]:
    """(total steps, bytes of metrics) of a run folder that is made here."""
    from rft import metrics_file

    rng, total, began = random.Random(0), steps + 1000, time.time() - 4.0 * steps
    metrics = folder / "metrics"
    metrics.mkdir(parents=True)
    with open(metrics / "training_metrics.jsonl", "wb") as file, open(metrics / "sync_log.jsonl", "wb") as syncs:
        for step in range(1, steps + 1):
            at = began + 4.0 * step
            file.write(metrics_file.line(train_line(step, total, at, rng)))
            syncs.write(metrics_file.line(sync_line(step, at)))
            if step % 10 == 0:
                file.write(metrics_file.line(eval_line(step, at)))
    return total, (metrics / "training_metrics.jsonl").stat().st_size


def one_pass(path: Path) -> float:
    """CPU seconds of reading the whole file with json."""
    began = time.process_time()
    with open(path, "rb") as file:
        for line in file:
            json.loads(line)
    return time.process_time() - began


def cpu_s(pid: int) -> float:
    """CPU seconds of the process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def follow(folder: Path, args: argparse.Namespace, total: int) -> dict:
    """Starts the monitor, keeps the run going, measures."""
    from rft import metrics_file
    from rft.monitor.live import REDRAW_S

    began = time.monotonic()
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "TERM": "xterm-256color", "PYTHON": sys.executable}
        os.execvpe("bash", ["bash", str(ROOT / "monitor.sh"), str(folder)], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    rng, step, next_step, seen = random.Random(1), args.steps, began + args.pace, b""
    first = settled = settled_cpu = None
    try:
        while settled is None or time.monotonic() - settled < args.seconds:
            if select.select([terminal], [], [], 0.1)[0]:
                seen = (seen + os.read(terminal, 65536))[-20_000:]
            now = time.monotonic()
            if first is None and b"\ndisk" in seen.replace(b"\x1b[1m", b""):
                first = now - began
            if settled is None and now - began >= args.settle:
                settled, settled_cpu = now, cpu_s(pid)
            if now >= next_step:
                step, next_step = step + 1, next_step + args.pace
                for name, record in (
                    ("training_metrics.jsonl", train_line(step, total, time.time(), rng)),
                    ("sync_log.jsonl", sync_line(step, time.time())),
                ):
                    metrics_file.append(str(folder / "metrics" / name), record)
        spent = cpu_s(pid) - settled_cpu
        behind = math.ceil(REDRAW_S / args.pace) + 1  # the screen may be that old, and the last step came just now
        if not any(f"{shown}/{total}".encode() in seen for shown in range(step - behind, step + 1)):
            raise RuntimeError(f"the screen shows none of the steps {step - behind} to {step}: it was not followed")
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        os.close(terminal)
    return {"start_s": first, "start_cpu_s": settled_cpu, "core": spent / args.seconds, "steps_seen": step - args.steps}


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    folder = Path(tempfile.mkdtemp(prefix="monitor-bench-"))
    try:
        total, size = make_run(folder, args.steps)
        print(f"{args.steps:,} steps, {size / 1e6:.0f} MB of metrics", flush=True)
        whole = one_pass(folder / "metrics" / "training_metrics.jsonl")
        found = follow(folder, args, total)
    finally:
        shutil.rmtree(folder)
    found |= {"steps": args.steps, "bytes": size, "whole_file_s": whole, "start_ratio": whole / found["start_s"]}
    met = found["start_s"] < START_LIMIT_S and found["core"] < CORE_LIMIT
    print(
        f"first screen after {found['start_s']:.2f} s (limit {START_LIMIT_S:g} s); one pass over the file {whole:.2f} s"
    )
    share = f"{found['core']:.2%} of a core (limit {CORE_LIMIT:.0%})"
    print(f"{share} over {args.seconds:g} s in which {found['steps_seen']} steps came")
    print(f"CPU in its first {args.settle:g} s, with the diagnosis's libraries: {found['start_cpu_s']:.1f} s")
    print("met" if met else "not met")
    if args.json:
        print(json.dumps({**found, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
