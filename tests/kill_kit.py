"""A small tiny run to be killed: started through the recipe, found by its processes, read by its files."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from rft.doctor import family

ROOT = Path(__file__).resolve().parent.parent
# One update a step, a save at every second step, no evaluation: a step takes about a second.
SMALL = "--rollout_batch_size 4 --n_samples_per_prompt 4 --train_batch_size 16 --micro_train_batch_size 4 "
SMALL += "--micro_rollout_batch_size 4 --eval_steps -1 --save_steps 2 --canary_every 0 --init_kl_coef 0 "
SMALL += "--actor_num_gpus_per_node 2 --vllm_tensor_parallel_size 1 --max_ckpt_num 3"
CAUSE_S = 60.0


class Run:
    """One launch; `runs` is the folder of all launches of a test."""

    def __init__(self, runs: Path, *flags: str, **env: str):
        self.runs, before = runs, set(runs.glob("*/run.json"))
        command = ["bash", "train_grpo_tiny.sh", *SMALL.split(), "--max_samples", "400", "--resume", "auto", *flags]
        switches = {"RFT_RUNS_DIR": str(runs), "RFT_SKIP_SETUP": "1", "RFT_OFFLOAD": "0", **env}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **switches}, **pipes)
        self._wait(lambda: set(runs.glob("*/run.json")) - before)
        (self.file,) = set(runs.glob("*/run.json")) - before

    def _wait(self, true, timeout_s: float = 1500) -> None:
        deadline = time.monotonic() + timeout_s
        while not true():
            assert self.process.poll() is None, self.process.communicate()[0][-3000:]
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)

    @property
    def record(self) -> dict:
        return json.loads(self.file.read_text())

    @property
    def ckpt(self) -> Path:
        return Path(self.record["paths"]["ckpt"])

    def train(self) -> list[dict]:
        path = Path(self.record["paths"]["metrics"]) / "training_metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return [line for line in lines if line["event"] == "train"]

    def wait_for_steps(self, count: int) -> None:
        """Until this launch has written so many steps of its own."""
        begin = self.record["start"]
        self._wait(lambda: sum(line["time"] > begin for line in self.train()) >= count)

    def wait_for_save(self) -> None:
        """Until a checkpoint is being written."""
        self._wait(lambda: list(self.ckpt.glob(".global_step*_hf.part")))

    def pid_of(self, role: str, number: int = 0) -> int:
        found = [one for one in family.describe(family.of_run(self.record)) if one["role"] == role]
        return sorted(one["pid"] for one in found)[number]

    def end(self, timeout_s: float) -> tuple[int, str]:
        """Exit status and output; nothing of the run may be left."""
        family_ = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        out = self.process.communicate(timeout=timeout_s)[0]
        left = [p.cmdline() for p in family_ if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        assert left == [] and family.of_run(self.record) == []
        return self.process.returncode, out

    def killed(self, pid: int) -> str:
        """SIGKILL to `pid`; the line that names the cause, which must come in time."""
        os.kill(pid, signal.SIGKILL)
        code, out = self.end(CAUSE_S)
        assert code not in (0, None)
        (line,) = {line for line in out.splitlines() if line.startswith("error: ")}
        return line

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        return self.end(CAUSE_S)


def assert_no_gap_and_no_repeat(run: Run) -> None:
    steps = [line["step"] for line in run.train()]
    assert steps == list(range(1, len(steps) + 1)), steps
