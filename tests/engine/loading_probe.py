"""Run on 2 ranks by test_loading_zero3.py: models from the streamed loader under the patched DeepspeedStrategy.

Not a test itself. Usage: RANK=r WORLD_SIZE=2 … python loading_probe.py MODEL_DIR BROKEN_DIR OUT_DIR STAGE [--offload].
Every rank writes what it found to OUT_DIR/rank<r>.json; test_loading_zero3.py judges.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from deepspeed.runtime.zero import partition_parameters
from deepspeed.runtime.zero.partition_parameters import GatheredParameters, Init
from openrlhf.models import Actor
from openrlhf.utils.deepspeed import DeepspeedStrategy
from peft import LoraConfig, get_peft_model
from torch import distributed as dist
from transformers import AutoModelForCausalLM, Mxfp4Config
from transformers.trainer import get_scheduler

from rft import base_digest, device
from rft.errors import RftError
from rft.loading.partition import Partition, gather_each_dtype
from rft.loading.shards import Checkpoint
from rft.loading.skeleton import empty_model
from rft.loading.stream import fill, load_model
from rft.model_load import checkpoint_config
from rft.upstream_cli import parse

LORA = ["q_proj", "k_proj", "v_proj", "o_proj"]


class Strategy(DeepspeedStrategy):
    """Keeps no parameter gathered from one use to the next, as DeepSpeed's limits have it with large models."""

    def get_ds_train_config(self, is_actor):
        config = super().get_ds_train_config(is_actor)
        config["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
        config["zero_force_ds_cpu_optimizer"] = False  # torch's own serves
        return config


def make_strategy(model_dir: str, stage: int, offload: bool) -> Strategy:
    flags = ["--pretrain", model_dir, "--zero_stage", str(stage), "--attn_implementation", "eager"]
    flags += ["--train_batch_size", "4", "--micro_train_batch_size", "2", "--micro_rollout_batch_size", "2"]
    flags += ["--remote_rm_url", "reward_func_em.py"] + ["--offload", "--adam_offload"] * offload
    args = parse(flags)
    strategy = Strategy(
        seed=42, max_norm=1.0, micro_train_batch_size=2, train_batch_size=4, zero_stage=stage, args=args
    )
    strategy.setup_distributed()
    return strategy


def with_lora(model):
    """As ``Actor.__init__`` does; then B away from 0, so that A has a gradient too."""
    torch.manual_seed(7)
    model.enable_input_require_grads()
    config = LoraConfig(r=8, lora_alpha=16, target_modules=LORA, bias="none")
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(8)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.data.normal_(0, 0.02, generator=generator)
    return model


def prepared(strategy, model):
    actor = Actor(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)  # nothing to compile
    schedule = get_scheduler("constant", optimizer, num_warmup_steps=0, num_training_steps=100)
    actor.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    return strategy.prepare((actor, optimizer, schedule), is_rlhf=True)[0].model


def plain_model(model_dir: str):
    options = {"quantization_config": Mxfp4Config(dequantize=True), "device_map": "cpu", "dtype": torch.bfloat16}
    return AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager", **options).eval()


IDS = torch.randint(20, 250, (2, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    model.eval()
    return model(IDS).logits


def loss_of(model) -> torch.Tensor:
    model.train()
    return torch.nn.functional.cross_entropy(model(IDS).logits.float()[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


class Gathers:
    """Counts what DeepSpeed gathers while entered: bytes that one rank receives whole, by dtype."""

    def __enter__(self) -> Counter:
        self.counted, self.real = Counter(), partition_parameters._dist_allgather_fn

        def counting(own, whole, group=None):
            self.counted[str(whole.dtype)] += whole.nbytes
            return self.real(own, whole, group)

        partition_parameters._dist_allgather_fn = counting
        return self.counted

    def __exit__(self, *_) -> None:
        partition_parameters._dist_allgather_fn = self.real


def examine(strategy, model_dir: str, experts: str, plain) -> dict:
    """The partitioned model against an unpartitioned one in this process, before, in and after a training step."""
    config = strategy.get_ds_train_config(is_actor=True)
    model = load_model(model_dir, "eager", experts=experts, ds_config=config)
    alone = load_model(model_dir, "eager", experts=experts)
    found = {
        "whole_on_load": sorted(n for n, p in model.named_parameters() if p.numel()) if strategy.stage == 3 else []
    }
    found["held"] = sum(getattr(p, "ds_tensor", p).nbytes for p in model.parameters())
    found["model"] = sum(p.nbytes for p in alone.parameters())
    model, alone = with_lora(model), with_lora(alone)
    engine = prepared(strategy, model)

    wanted = dict(alone.named_parameters())
    with GatheredParameters(list(engine.module.parameters())):  # all dtypes in one call
        names = dict(engine.module.named_parameters())
        found["names_differ"] = sorted(names.keys() ^ wanted.keys())
        found["values_differ"] = [
            n for n, p in names.items() if p.dtype != wanted[n].dtype or not torch.equal(p, wanted[n])
        ]
    pairs = zip(engine.module.named_buffers(), plain.named_buffers(), strict=True)
    found["buffers_equal"] = all(a.dtype == b.dtype and torch.equal(a, b) for (_, a), (_, b) in pairs)
    found["rope_fp32"] = all(b.dtype == torch.float32 for n, b in engine.module.named_buffers() if "inv_freq" in n)
    found["dtypes"] = sorted({str(p.dtype) for p in engine.module.parameters()})

    with Gathers() as counted:
        mine = logits(engine)
    found["forward_gathers"] = dict(counted)
    found["logits_equal"] = torch.equal(mine, logits(alone))
    with torch.no_grad(), alone.disable_adapter():
        base = logits(alone)
    found["equal_to_transformers"] = torch.equal(base, logits(plain))
    found["near_transformers"] = (base.float() - logits(plain).float()).abs().mean().item()

    frozen = base_digest.digest(engine.module)
    loss_of(alone).backward()
    squares = sum(p.grad.double().pow(2).sum() for p in alone.parameters() if p.grad is not None)
    with Gathers() as counted:
        loss = loss_of(engine)
        engine.backward(loss)
    found["step_gathers"] = dict(counted)
    engine.step()
    found["grad_norm"] = [float(engine.get_global_grad_norm()), float(squares.sqrt())]
    found["frozen_unchanged"] = base_digest.digest(engine.module) == frozen
    found["trained"] = not torch.equal(logits(engine), mine)
    found["uint8_stays"] = sum(p.dtype == torch.uint8 for p in engine.module.parameters())
    return found


def mixed_gather(ds_config: dict, model_dir: str) -> dict[str, bool]:
    """One call of DeepSpeed's own gather over a bf16 and a uint8 parameter, as it is and one dtype at a time."""
    own = Init._allgather_params_coalesced
    alone = load_model(model_dir, "eager", experts="resident", quiet=True).model.layers[0].mlp.experts
    wanted = [alone.down_proj_bias, alone.down_proj_blocks]

    def right() -> bool:
        model = empty_model(checkpoint_config(model_dir), "eager", torch.bfloat16, "resident")
        fill(model, Checkpoint(model_dir), Partition(ds_config))
        experts = model.model.layers[0].mlp.experts
        pair = [experts.down_proj_bias, experts.down_proj_blocks]
        try:
            with GatheredParameters(pair):
                return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(pair, wanted, strict=True))
        except (RuntimeError, TypeError, ValueError):
            return False

    found = {"as_it_is": right()}
    gather_each_dtype()
    gather_each_dtype()  # twice is once
    found["each_dtype"] = right()
    Init._allgather_params_coalesced = own
    return found


def failure(pretrain: str) -> str:
    try:
        load_model(pretrain, "eager", quiet=True)
    except RftError as error:
        return str(error)
    return ""


def main() -> None:
    model_dir, broken, out, stage = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    found: dict = {}
    import deepspeed

    deepspeed.init_distributed()
    unpatched = Init._allgather_params_coalesced
    strategy = make_strategy(model_dir, stage, "--offload" in sys.argv)
    rank = dist.get_rank()
    if stage == 3 and "--offload" not in sys.argv:
        patched, Init._allgather_params_coalesced = Init._allgather_params_coalesced, unpatched
        found["mixed_gather"] = mixed_gather(strategy.get_ds_train_config(is_actor=True), model_dir)
        Init._allgather_params_coalesced = patched
        found["failure"] = failure(broken if rank == 1 else model_dir)
    plain = plain_model(model_dir)
    for experts in ("dequantised", "resident"):
        found[experts] = examine(strategy, model_dir, experts, plain)
    found["device"] = device.current_device()
    (out / f"rank{rank}.json").write_text(json.dumps(found, indent=1))
    dist.barrier()


if __name__ == "__main__":
    main()
