"""Run on 2 ranks by test_spike_engine.py: planted spikes under ZeRO-3, and the same run without those batches.

Not a test itself. Usage: RANK=r WORLD_SIZE=2 … python spike_probe.py MODEL_DIR OUT_DIR [--offload]. Every rank writes
what it found to OUT_DIR/rank<r>.json. Two micro-batches a rank make an optimizer step.
"""

import json
import os
import sys
from copy import copy
from pathlib import Path

import torch
from actor_probe import arguments, experiences, make_actor, new_trainer
from openrlhf.utils.deepspeed import DeepspeedStrategy
from torch import distributed as dist
from transformers import AutoTokenizer

from rft import lora_params
from rft.errors import RftError

MICRO, ROWS = 2, 4
BEFORE, SCALED, NAN, AFTER = (1, 2), 3, 4, (5, 6)


def step(trainer, actor, seed: int, rank: int, factor: float = 1.0, planted_on: int = 0) -> dict:
    """One optimizer step; the last row of rank `planted_on` has its advantages times `factor`."""
    batches = experiences(actor, ROWS, MICRO, seed * 10 + rank)
    if rank == planted_on:
        batches[-1].advantages[-1] *= factor
    for batch in batches:
        trainer.replay_buffer.append(batch)
    torch.manual_seed(seed)  # the order of the micro-batches does not depend on what went before
    try:
        return trainer.ppo_train(kl_ctl=0.0)
    finally:
        trainer.replay_buffer.clear()


def adapter(actor) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in lora_params.gathered(actor.model.module).items()}


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def train(strategy, tokenizer, rank: int, planted: bool):
    """(trainer, actor, optimizer, schedule, adapters after each step, figures of the planted steps)."""
    torch.manual_seed(0)
    actor, optimizer, schedule = make_actor(strategy.args, strategy)
    trainer = new_trainer(strategy, actor, optimizer, schedule, tokenizer, MICRO)
    held, figures = [], []
    for seed in BEFORE:
        figures.append(step(trainer, actor, seed, rank))
        held.append(adapter(actor))
    if planted:
        figures.append(step(trainer, actor, SCALED, rank, factor=1e4, planted_on=0))
        held.append(adapter(actor))
        figures.append(step(trainer, actor, NAN, rank, factor=float("nan"), planted_on=1))
        held.append(adapter(actor))
    for seed in AFTER:
        figures.append(step(trainer, actor, seed, rank))
        held.append(adapter(actor))
    return trainer, actor, optimizer, schedule, held, figures


def main() -> None:
    model_dir, out, offload = sys.argv[1], Path(sys.argv[2]), "--offload" in sys.argv
    args = arguments(model_dir, offload)
    args.on_spike, args.micro_train_batch_size = "skip", MICRO
    strategy = DeepspeedStrategy(
        seed=42, max_norm=1.0, micro_train_batch_size=MICRO, train_batch_size=2 * ROWS, zero_stage=3, args=args
    )
    strategy.setup_distributed()
    rank = dist.get_rank()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)

    _, actor, optimizer, schedule, held, figures = train(strategy, tokenizer, rank, planted=True)
    keys = ("grad_norm", "grad_norm_clipped", "spikes", "skipped_steps", "nonfinite_steps", "optimizer_steps")
    found: dict = {"figures": [{key: one[key] for key in keys} for one in figures]}
    found["skipped_left_the_weights"] = [equal(held[1], held[2]), equal(held[1], held[3])]
    found["others_moved_them"] = [not equal(a, b) for a, b in ((held[0], held[1]), (held[3], held[4]))]

    os.environ["METRICS_LOG_DIR"] = str(out / "clean")  # a new engine begins the log of its folder anew
    *_, clean, _ = train(strategy, tokenizer, rank, planted=False)
    found["equals_the_run_without_them"] = [equal(a, b) for a, b in zip(held[:2] + held[4:], clean, strict=True)]

    strategy.args = copy(args)
    strategy.args.on_spike, strategy.args.spike_grad_norm = "log", 0.0
    trainer = new_trainer(strategy, actor, optimizer, schedule, tokenizer, MICRO)  # takes the gate over
    before = adapter(actor)
    for number in (1, 2):
        step(trainer, actor, NAN, rank, factor=float("nan"))
        found[f"nan_{number}_left_the_weights"] = equal(before, adapter(actor))
    try:
        step(trainer, actor, NAN, rank, factor=float("nan"))
    except RftError as err:
        found["third_nan"] = str(err)
    (out / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    main()
