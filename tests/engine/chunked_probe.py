"""Run on 2 ranks by test_chunked_zero3.py: chunked log-probs and tiled attention in a real ZeRO-3 engine.

Not a test itself. Usage: RANK=r WORLD_SIZE=2 … python chunked_probe.py OUT_DIR. The ranks' rows differ in length, so
that one needs more chunks than the other. Each writes what it found to OUT_DIR/rank<r>.json.
"""

import json
import sys
from pathlib import Path

import deepspeed
import torch
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from deepspeed.utils import safe_get_full_grad
from peft import LoraConfig, get_peft_model
from torch import distributed as dist

from rft import attention
from rft.chunked_logprobs import Scoring
from rft.tiny import model as tiny

CHUNK = 8
CONFIG = {
    "train_micro_batch_size_per_gpu": 1,
    "bf16": {"enabled": True},
    # No parameter is small enough, and no next use near enough, for it to stay whole or to be fetched early.
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_prefetch_bucket_size": 0,
    },
    "zero_allow_untested_optimizer": True,
}


def build_engine():
    torch.manual_seed(0)
    model = tiny.build_model(tiny.build_config(1, 0))
    lora = LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], init_lora_weights=False)
    model.enable_input_require_grads()
    model = get_peft_model(model, lora)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    scoring = Scoring(model, CHUNK)
    live = [p for p in model.parameters() if p.requires_grad]
    engine = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(live, lr=0.0), config=CONFIG)[0]
    engine.train()
    return engine, scoring


def log_probs(engine, scoring, ids, chunked: bool) -> torch.Tensor:
    labels = torch.roll(ids, -1, 1)
    if not chunked:
        logits = engine(ids, use_cache=False).logits.float()
        return logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0][:, :-1]
    with scoring.of(labels):
        return engine(ids, use_cache=False).logits[..., 0][:, :-1]


def step(engine, scoring, ids, chunked: bool) -> dict:
    """Log-probs, LoRA gradients over both ranks, and whether the head is partitioned again between its uses."""
    found = log_probs(engine, scoring, ids, chunked)
    head = scoring.head.weight
    released = [head.ds_status == ZeroParamStatus.NOT_AVAILABLE and head.numel() == 0]
    engine.backward(found.mean())
    released.append(head.ds_status == ZeroParamStatus.NOT_AVAILABLE and head.numel() == 0)
    gradients = [safe_get_full_grad(p) for p in engine.module.parameters() if p.requires_grad]
    engine.step()
    return {"log_probs": found.detach(), "gradient": torch.cat([g.flatten() for g in gradients]), "released": released}


def main() -> None:
    deepspeed.init_distributed(dist_backend="gloo")
    rank = dist.get_rank()
    attention.register()
    engine, scoring = build_engine()
    length = (13, 61)[rank]  # 2 chunks, 8 chunks
    ids = torch.randint(5, 200, (1, length), generator=torch.Generator().manual_seed(rank))
    runs = {}
    for name, implementation, chunked in (
        ("whole", "eager", False),
        ("chunked", "eager", True),
        ("tiled", "sinks_tiled", True),
        ("whole again", "eager", False),
    ):
        engine.module.set_attn_implementation(implementation)
        runs[name] = step(engine, scoring, ids, chunked)
    whole = runs["whole"]
    found = {"size": whole["gradient"].norm().item(), "released": {name: run["released"] for name, run in runs.items()}}
    for name, run in runs.items():
        found[name] = {
            "log_probs": (run["log_probs"] - whole["log_probs"]).abs().max().item(),
            "mean": (run["log_probs"] - whole["log_probs"]).abs().mean().item(),
            "gradient": ((run["gradient"] - whole["gradient"]).norm() / whole["gradient"].norm()).item(),
        }
    (Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    main()
