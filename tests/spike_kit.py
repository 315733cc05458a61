"""A tiny gpt-oss with random weights, a LoRA on it, and an optimizer step of two ranks with uneven micro-batches.

`Engine` is a training engine of one process that keeps DeepSpeed's promises to the spike gate: norms by group, with -1
for what is not finite, and an `overflow` attribute that makes `step` drop the gradients. Model, loss, adapter and plan
are the real ones.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rft import lora_params
from rft.batch_plan import MicroBatch

PROMPT = 5
#: rows of each micro-batch, by rank: uneven on purpose; 0: a blank one that keeps in step
PLAN = ((2, 1), (3, 0))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For who imports it. The matrices are tiny: threads would wait for one another more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_checkpoint(folder, seed: int = 0):
    """MXFP4 experts, bf16 rest, tokenizer; returns the folder."""
    from rft.tiny import model as tiny
    from rft.tiny.tokenizer import build_tokenizer

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    config = tiny.build_config(tokenizer.eos_token_id, tokenizer.pad_token_id)
    tiny.save_checkpoint(tiny.build_model(config), config, folder)
    tokenizer.save_pretrained(folder)
    return folder


def arguments(pretrain) -> SimpleNamespace:
    return SimpleNamespace(
        pretrain=str(pretrain),
        attn_implementation="eager",
        param_dtype="bf16",
        temperature=1.0,
        lora_rank=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        eps_clip_low_high=(0.1, 0.1),
        dual_clip=None,
        policy_loss_type="ppo",
        enable_vllm_is_correction=False,
        vllm_is_truncated_threshold=[0.5, 5.0],
        vllm_is_correction_type="tis",
        use_kl_loss=True,
        init_kl_coef=0.01,
        kl_estimator="k2",
        entropy_loss_coef=0.0,
        aux_loss_coef=0.0,
        max_norm=1.0,
        spike_zscore=0.0,
        on_spike="log",
    )


def set_adapter(model, seed: int = 1) -> None:
    """Random A and B, so that every LoRA tensor gets a gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora_params.lora_parameters(model).values():
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)


def rows(count: int, seed: int) -> list[dict]:
    """Samples of unequal length: ids (S,), advantage."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(9, 20, (count,), generator=generator).tolist()
    return [
        {"ids": torch.randint(5, 60, (n,), generator=generator), "advantage": float(a)}
        for n, a in zip(lengths, torch.randn(count, generator=generator).tolist(), strict=True)
    ]


def experience(actor, samples: list[dict], drift: float = 0.05):
    """What OpenRLHF calls an Experience, of `samples`, right-padded; old and base log-probs are a little off."""
    width = max(len(s["ids"]) for s in samples)
    sequences, attention = torch.zeros(len(samples), width, dtype=torch.long), torch.zeros(len(samples), width).long()
    for i, sample in enumerate(samples):
        sequences[i, : len(sample["ids"])], attention[i, : len(sample["ids"])] = sample["ids"], 1
    mask = attention[:, 1:].clone()
    mask[:, : PROMPT - 1] = 0
    with torch.no_grad():
        now = actor(sequences, mask, attention_mask=attention)
    offsets = torch.sin(torch.arange(mask.numel()).float()).view(mask.shape) * mask
    advantages = torch.tensor([s["advantage"] for s in samples])[:, None] * mask
    return SimpleNamespace(
        sequences=sequences,
        attention_mask=attention,
        action_mask=mask,
        action_log_probs=now + drift * offsets,
        base_action_log_probs=now - drift * offsets,
        rollout_log_probs=now + 0.001 * offsets,
        advantages=advantages,
        info={},
    )


def plan(actor, samples: list[dict], layout=PLAN) -> list[list[MicroBatch]]:
    """`samples` over ranks and micro-batches as `layout` says, weighed as `rft.batch_plan.plan` weighs them."""
    rest, ranks = list(samples), []
    tokens = sum(len(s["ids"]) - PROMPT for s in samples) / len(layout)
    for sizes in layout:
        micros = []
        for number, size in enumerate(sizes):
            taken, rest = (rest[:size] or samples[:1]), rest[size:]
            batch = experience(actor, taken)
            if size == 0:
                batch.action_mask = torch.zeros_like(batch.action_mask)
            micros.append(
                MicroBatch(batch, tokens, len(samples) / len(layout), number == len(sizes) - 1, 0, True, size == 0)
            )
        ranks.append(micros)
    return ranks


class ZeroLike(torch.optim.AdamW):
    """AdamW with the part of DeepSpeedZeroOptimizer_Stage3 that the gate and the engine rely on."""

    dtype, loss_scale = torch.bfloat16, 1.0

    def __init__(self, parameters, **options):
        super().__init__(parameters, **options)
        self.overflow = False

    def _get_norm_groups(self):
        norms = [torch.stack([p.grad.norm() for p in g["params"]]).norm() for g in self.param_groups]
        return [norm if norm.isfinite() else torch.tensor(-1.0) for norm in norms]

    def step(self, closure=None):
        if not self.overflow:
            super().step(closure)
        self.zero_grad()


class Engine:
    """One process: backward passes add up; `step` asks the optimizer, then moves the schedule if it was taken."""

    def __init__(self, module, lr: float = 1e-2):
        self.module, self.global_steps, self.lr_steps = module, 0, 0
        live = list(lora_params.lora_parameters(module).values())
        half = len(live) // 2
        self.optimizer = ZeroLike([{"params": live[:half]}, {"params": live[half:]}], lr=lr)

    def step(self) -> None:
        self.optimizer.step()
        self.global_steps += 1
        self.lr_steps += not self.optimizer.overflow

    def get_global_grad_norm(self) -> float:
        return 1.0  # whatever: DeepSpeed's own figure hides what is not finite

    def weights(self) -> torch.Tensor:
        return parameters_to_vector(lora_params.lora_parameters(self.module).values()).detach().clone()
