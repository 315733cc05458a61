"""As `rft.plan.probe`, but one of several ZeRO-3 ranks: OpenRLHF's strategy, DeepSpeed's engine, gloo.

Run once a rank by `rft.plan.measure` (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT in the environment) with one case and
``{"offload": …}``; rank 0's JSON line holds the peaks of the fullest rank. The whole model is in every rank before it
is cut up, as the actor loads it.
"""

import json
import sys

import torch

from rft.plan.probe import SMALL, build, peak_bytes, plain, reset_peak, resident_bytes, stages


def strategy_of(case: dict, offload: bool):
    from openrlhf.utils.deepspeed import DeepspeedStrategy

    from rft.upstream_cli import parse

    flags = ["--pretrain", "probe", "--zero_stage", "3", "--adam_offload", "--remote_rm_url", "none.py"]
    flags += ["--advantage_estimator", "dr_grpo", "--n_samples_per_prompt", "8", "--micro_rollout_batch_size", "1"]
    flags += ["--train_batch_size", str(2 * case["rows"]), "--micro_train_batch_size", str(case["rows"])]
    args = parse(flags + ["--offload"] * offload)
    strategy = DeepspeedStrategy(
        max_norm=1.0,
        micro_train_batch_size=args.micro_train_batch_size,
        train_batch_size=args.train_batch_size,
        zero_stage=3,
        args=args,
    )
    strategy.setup_distributed()
    return strategy


def prepare(strategy, actor):
    from transformers.trainer import get_scheduler

    optimizer = strategy.create_optimizer(actor, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = get_scheduler("constant", optimizer, num_warmup_steps=0, num_training_steps=10)
    return strategy.prepare((actor, optimizer, schedule), is_rlhf=True)


def main(argv: list[str]) -> int:
    case, options = json.loads(argv[0]), json.loads(argv[1])
    small = {**case, **SMALL}
    stages(small, *plain(small, build(small)))
    strategy = strategy_of(case, options["offload"])
    prepare(strategy, build(small))  # DeepSpeed's own libraries and buffers belong to the base
    found = {"base_bytes": resident_bytes()}
    reset_peak()
    actor = build(case)
    found["model_bytes"] = resident_bytes()
    actor, _, _ = prepare(strategy, actor)
    found |= {"initialize": peak_bytes(), "partitioned_bytes": resident_bytes()}
    engine = actor.model
    found |= stages(case, actor, engine.backward, engine.step)
    found = strategy.all_reduce({name: float(value) for name, value in found.items()}, "max")
    if strategy.is_rank_0():
        print(json.dumps({name: int(value) for name, value in found.items()}), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # a rank that finds the other gone while it ends itself aborts
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
