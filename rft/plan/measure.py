"""Predicted against measured peaks of real CPU processes (`rft.plan.probe`): what the plan's arithmetic rests on.

Used by benchmarks/plan.py and the tests. One thread; each case starts processes of its own and waits for them.
"""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass

from rft.errors import RftError
from rft.plan import actor
from rft.plan.activations import Shape, score_moments, train_moments
from rft.plan.constants import CPU_KERNELS_BYTES
from rft.plan.geometry import BF16, PROJECTIONS, Geometry, from_config
from rft.plan.setting import Setting
from rft.plan.terms import Pool, Term
from rft.runs import REPO

RANKS = 2
#: glibc gives every block of 64 KiB and more back at once: the process then holds what torch holds
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "65536"}
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Case:
    """A gpt-oss and a micro-batch. Names of the sizes are those of GptOssConfig."""

    num_hidden_layers: int = 4
    num_local_experts: int = 16
    num_experts_per_tok: int = 4
    hidden_size: int = 768
    intermediate_size: int = 768
    num_attention_heads: int = 12
    num_key_value_heads: int = 4
    head_dim: int = 64
    vocab_size: int = 8192
    sliding_window: int = 128
    rows: int = 1
    tokens: int = 512
    lora_rank: int = 16
    checkpointing: bool = True
    attn_implementation: str = "eager"
    experts: str = "dequantised"

    @property
    def geometry(self) -> Geometry:
        return from_config(asdict(self), "probe")

    @property
    def shape(self) -> Shape:
        attention = "eager" if self.attn_implementation == "eager" else "tiled"
        of = (self.rows, self.tokens, self.lora_rank, self.checkpointing, attention, self.experts)
        return Shape(*of, gpu=False)


def predict(case: Case, base: int, kept_share: float = 0.0) -> dict[str, Pool]:
    """The pools of the two stages; base: what the process holds before the model; kept_share: of `Pool`."""
    g, shape = case.geometry, case.shape
    adapter = g.lora_parameters(case.lora_rank)
    static = [
        Term("process base", base, basis="measured"),
        Term("model", g.model_bytes(case.experts)),
        Term("adapter", BF16 * adapter),
        Term("oneDNN kernels", CPU_KERNELS_BYTES, basis="measured"),
    ]
    score = Pool("logprob", static=static, moments=score_moments(g, shape), kept_share=kept_share)
    moments = score.moments | train_moments(g, shape)
    optimizer = Term("gradients and optimizer", 3 * BF16 * adapter)  # AdamW's moments have the parameters' dtype
    return {"logprob": score, "train": Pool("train", [*static, optimizer], moments, kept_share=kept_share)}


def measure(cases: list[Case], returned: bool = True, timeout_s: float = 3600.0) -> list[dict[str, int]]:
    """Run the probe; its figures in bytes, a dict a case.

    returned  under `RETURNED`; else with glibc's defaults
    raises    RftError with the process's last words
    """
    command = [sys.executable, "-m", "rft.plan.probe", json.dumps([asdict(case) for case in cases])]
    env = {**os.environ, **ENVIRONMENT, **(RETURNED if returned else {})}
    done = subprocess.run(command, env=env, cwd=REPO, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RftError(f"rft.plan.probe: exit status {done.returncode}: {last}; run it by hand: {command}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines[-len(cases) :]]


def compare(predicted: dict[str, Pool], found: dict[str, int]) -> list[dict]:
    """One row a stage: predicted and measured peak, base and fullest moment, in bytes; predicted / measured - 1.

    `error` is of the whole peak, `error_above_base` of what the model and its work add to the process.
    """
    rows = []
    for stage, pool in predicted.items():
        base, peak = found["base_bytes"], found[stage]
        rows.append(
            {
                "stage": stage,
                "predicted_bytes": pool.peak,
                "measured_bytes": peak,
                "base_bytes": base,
                "error": pool.peak / peak - 1,
                "error_above_base": (pool.peak - base) / (peak - base) - 1,
                "moment": pool.fullest,
            }
        )
    return rows


def measure_zero3(case: Case, offload: bool, timeout_s: float = 1800.0) -> dict[str, int]:
    """Two ranks of `rft.plan.probe_zero3`; bytes of the fullest one. raises RftError with the ranks' last words"""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "rft.plan.probe_zero3", json.dumps(asdict(case)), json.dumps({"offload": offload})]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": "0"}
    env = {**os.environ, **ENVIRONMENT, **RETURNED, **where}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": REPO}
    ranks = [subprocess.Popen(command, env={**env, "RANK": str(rank)}, **out) for rank in range(RANKS)]
    try:
        said = [rank.communicate(timeout=timeout_s)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    lines = [line for line in said[0].splitlines() if line.startswith('{"base_bytes"')]
    failed = [number for number, rank in enumerate(ranks) if rank.returncode]
    if failed or not lines:
        number = failed[0] if failed else 0
        last = (said[number].strip().splitlines() or ["it said nothing"])[-1]
        status = f"rank {number}: exit status {ranks[number].returncode}"
        raise RftError(f"rft.plan.probe_zero3: {status}: {last}; run it by hand: {command}")
    return json.loads(lines[-1])


def predict_zero3(case: Case, offload: bool, base: int) -> dict[str, Pool]:
    """One rank's pools: ``deepspeed.initialize``, scoring, training. What is offloaded lies in the same memory."""
    s = Setting(
        geometry=case.geometry,
        ranks=RANKS,
        engines=0,
        tensor_parallel=1,
        prompt_tok=0,
        answer_tok=case.tokens,
        prompts=1,
        samples=1,
        train_batch=RANKS,
        micro_train=case.rows,
        micro_rollout=case.rows,
        lora_rank=case.lora_rank,
        targets=PROJECTIONS,
        utilisation=0.0,
        gpu_bytes=0,
        offload=offload,
        adam_offload=True,
        checkpointing=case.checkpointing,
        cpu=True,
    )
    static = [
        Term("process base", base, basis="measured"),
        Term("oneDNN kernels", CPU_KERNELS_BYTES, basis="measured"),
        Term("base weights", actor.weights_held(s)),
        *actor.adapter_terms(s),
    ]
    steps = Pool("train", static)
    actor.add_steps(steps, s)
    scoring = {name: terms for name, terms in steps.moments.items() if name.endswith("scoring")}
    whole = {"deepspeed.initialize": [Term("whole model, before it is cut up", s.model_bytes - actor.weights_held(s))]}
    return {
        "initialize": Pool("initialize", static, whole),
        "logprob": Pool("logprob", static, scoring),
        "train": steps,
    }
