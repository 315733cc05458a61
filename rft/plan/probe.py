"""A real process whose memory is measured: OpenRLHF's Actor on a gpt-oss of any size, trained for two steps on the CPU.

Run by `rft.plan.measure` as ``python -m rft.plan.probe '[{"…": …}, …]'`` (keys: `Case`); prints a JSON line a case. It
imports everything once and forks for each case, before torch has started a thread. Nothing is subtracted: `base_bytes`
is the child's resident set once a model of a few thousand parameters has been through the same steps, and each peak is
that of the whole process (VmHWM, reset before each stage through /proc/self/clear_refs).
"""

import json
import os
import sys
from pathlib import Path


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Highest resident set since `reset_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise OSError("/proc/self/status has no VmHWM")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def build(case: dict):
    """A bf16 gpt-oss with random weights, filled in place, as `Case` says; LoRA on q, k, v, o; wrapped in an Actor."""
    import torch
    from openrlhf.models import Actor
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import GptOssConfig, GptOssForCausalLM
    from transformers.modeling_utils import no_init_weights

    from rft import attention

    attention.register()
    sizes = {name: case[name] for name in CONFIG_KEYS}
    config = GptOssConfig(**sizes, use_cache=False, attn_implementation=case["attn_implementation"])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights():
        model = GptOssForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():  # experts are the bulk: any value takes the same memory
            parameter.normal_(std=0.02) if parameter.ndim == 2 else parameter.fill_(0.5)
    if case["experts"] == "resident":
        from rft.resident.experts import replace_experts

        replace_experts(model)
    model.enable_input_require_grads()
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=case["lora_rank"], target_modules=list(TARGETS))
    actor = Actor(get_peft_model(model, lora, autocast_adapter_dtype=False))
    actor.packing_samples, actor.temperature = False, 1.0
    if case["checkpointing"]:
        actor.gradient_checkpointing_enable({"use_reentrant": True})
    return actor


TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
CONFIG_KEYS = (
    "num_hidden_layers",
    "num_local_experts",
    "num_experts_per_tok",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "sliding_window",
)
SMALL = {
    "num_hidden_layers": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 256,
    "sliding_window": 16,
    "rows": 1,
    "tokens": 32,
    "lora_rank": 2,
}


def batch(case: dict):
    import torch

    shape = (case["rows"], case["tokens"])
    ids = torch.randint(1, case["vocab_size"], shape, generator=torch.Generator().manual_seed(1))
    return ids, torch.ones(shape, dtype=torch.long)


def score(actor, case: dict) -> None:
    """The old-log-prob pass: no gradient, experts in train mode."""
    import torch

    from rft.logprob_mode import logprob_mode

    ids, mask = batch(case)
    with torch.no_grad(), logprob_mode(actor):
        actor(ids, mask[:, 1:], attention_mask=mask)


def train_step(actor, case: dict, backward, step) -> None:
    """OpenRLHF's training step: log-probs, entropy (logged, coefficient 0), backward, optimizer."""
    actor.train()
    ids, mask = batch(case)
    log_probs, output = actor(ids, mask[:, 1:], attention_mask=mask, return_output=True, return_entropy=True)
    entropy = output.entropy  # alive while the backward pass runs, as in ActorPPOTrainer.training_step
    backward(-log_probs.mean())
    step()
    del entropy


def plain(case: dict, actor) -> tuple:
    """The actor with torch's own backward pass and AdamW over the adapter."""
    import torch

    optimizer = torch.optim.AdamW([p for p in actor.parameters() if p.requires_grad], lr=1e-4, foreach=False)

    def step():
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return actor, lambda loss: loss.backward(), step


def stages(case: dict, actor, backward, step) -> dict[str, int]:
    found = {}
    for name, run in (
        ("logprob", lambda: score(actor, case)),
        ("train", lambda: [train_step(actor, case, backward, step) for _ in range(2)]),
    ):
        reset_peak()
        run()
        found[name] = peak_bytes()
    return found


def run(case: dict) -> dict[str, int]:
    """One case in this process, which is of no use for another one afterwards: its heap has grown."""
    small = {**case, **SMALL}
    stages(small, *plain(small, build(small)))
    found = {"base_bytes": resident_bytes()}
    reset_peak()
    actor = build(case)
    found["parameters"] = sum(p.numel() for p in actor.parameters())
    found["model_bytes"] = resident_bytes()
    return found | stages(case, *plain(case, actor))


def main(argv: list[str]) -> int:
    import openrlhf.models  # noqa: F401 - before the forks, so that every case starts alike
    import peft  # noqa: F401
    import torch
    from transformers import GptOssForCausalLM  # noqa: F401

    from rft import logprob_mode  # noqa: F401

    torch.set_num_threads(1)
    for case in json.loads(argv[0]):
        child = os.fork()
        if child == 0:
            print(json.dumps(run(case)), flush=True)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
