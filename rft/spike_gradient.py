"""The loss and the gradient of a dumped optimizer step, computed again in one process.

Called by `rft.replay_spike` in the main thread, on a CPU or one GPU, without DeepSpeed. Model, loss and masks are those
of the run (``openrlhf.models``, patched): the same attention, the same dtypes, LoRA weights as they were before the
step. The gradient of the step is the mean over ranks of the sums over micro-batches, as rft/batch_plan.py weighs them.
What cannot be repeated: LoRA dropout (its masks are not in the dump), and bf16 rounding in another order of summation.
Log-probs and entropies in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rft.errors import RftError
from rft.lora_params import lora_parameters
from rft.ratio_stats import clamp


@dataclass
class Replay:
    """grad_norm and loss of the step; of each micro-batch its rank, number, loss, tokens and own share's 2-norm;
    gradient: by parameter, float32 on the CPU; log_probs and slopes (dL / d log p): by (rank, micro-batch), (B, A)."""

    grad_norm: float = 0.0
    loss: float = 0.0
    batches: list[dict] = field(default_factory=list)
    gradient: dict[str, torch.Tensor] = field(default_factory=dict)
    log_probs: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)
    slopes: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)


def load_actor(settings: dict, adapter: dict[str, torch.Tensor], device: str, checkpointing: bool = False):
    """The policy as it was before the step, in ``train()``, on `device`.

    raises  RftError if the checkpoint cannot be read, or the adapter of the dump is not of its shape
    """
    from openrlhf.models import Actor
    from openrlhf.utils.utils import convert_to_torch_dtype

    if not adapter:
        raise RftError("the dump of rank 0 holds no adapter: the run had no spike gate, so its weights were not kept")
    names = (
        "attn_implementation",
        "logprob_chunk_tok",
        "param_dtype",
        "temperature",
        "lora_rank",
        "lora_alpha",
        "target_modules",
    )
    known = {name: settings[name] for name in names if name in settings}
    actor = Actor(settings["pretrain"], aux_loss_coef=settings.get("aux_loss_coef", 0.0), **known)
    dtype = convert_to_torch_dtype(settings.get("param_dtype", "bf16"))
    for parameter in actor.model.parameters():  # as deepspeed.initialize does; buffers (RoPE) stay float32
        parameter.data = parameter.data.to(dtype)
    live = lora_parameters(actor.model)
    wrong = sorted(live.keys() ^ adapter.keys())
    wrong += [name for name in live.keys() & adapter.keys() if live[name].shape != adapter[name].shape]
    if wrong:
        raise RftError(
            f"{settings['pretrain']}: the dump's adapter is not of this model, first at {wrong[0]}; name the "
            "model that the run trained with --pretrain"
        )
    for name, parameter in live.items():
        parameter.data = adapter[name].clone()
    if checkpointing:
        actor.gradient_checkpointing_enable({"use_reentrant": False})
    return actor.to(device).train()


def loss_function(settings: dict):
    """The run's ``PolicyLoss``."""
    from openrlhf.models import PolicyLoss

    corrected = settings.get("enable_vllm_is_correction", False)
    low, high = settings["eps_clip_low_high"]
    return PolicyLoss(
        clip_eps_low=low,
        clip_eps_high=high,
        dual_clip=settings.get("dual_clip"),
        policy_loss_type=settings.get("policy_loss_type", "ppo"),
        enable_vllm_is_correction=corrected,
        vllm_is_truncated_threshold=settings.get("vllm_is_truncated_threshold") if corrected else None,
        vllm_is_correction_type=settings.get("vllm_is_correction_type", "tis"),
    )


@dataclass
class _Weights:
    tokens: float
    sequences: float


def micro_batch_loss(actor, loss_of: Callable, settings: dict, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, log-probs (B, A) in its graph) of one micro-batch on its device, the terms of the patched
    ``ActorPPOTrainer.training_step``: policy, KL to the reference, router, entropy."""
    from openrlhf.models.utils import compute_approx_kl

    from rft.batch_plan import token_sum

    weights, mask = batch["weights"], batch["action_mask"]
    wants_entropy = bool(settings.get("entropy_loss_coef"))
    log_probs, output = actor(
        batch["sequences"],
        mask,
        attention_mask=batch["attention_mask"],
        return_output=True,
        return_entropy=wants_entropy,
    )
    loss, *_ = loss_of(
        log_probs,
        batch["old_log_probs"],
        batch["advantages"],
        action_mask=mask,
        rollout_log_probs=batch.get("rollout_log_probs"),
        micro=_Weights(weights["tokens"], weights["sequences"]),
    )
    if settings.get("use_kl_loss") and settings.get("init_kl_coef", 0) > 0:
        kl = compute_approx_kl(log_probs, batch["base_log_probs"], kl_estimator=settings["kl_estimator"])
        loss = loss + token_sum(kl, mask, weights["tokens"]) * weights["kl_ctl"]
    if settings.get("aux_loss_coef", 0.0) > 1e-8:
        loss = loss + output.aux_loss * settings["aux_loss_coef"]
    if wants_entropy:
        entropy = output.entropy[:, -mask.shape[1] :]
        loss = loss - token_sum(entropy, mask, weights["tokens"]) * settings["entropy_loss_coef"]
    return loss, log_probs


def replay(actor, settings: dict, dumps: list[dict], device: str, advance: Callable[[], None] = lambda: None) -> Replay:
    """Every micro-batch of every rank, one after the other; `advance` is called after each."""
    found, loss_of = Replay(), loss_function(settings)
    live, world = lora_parameters(actor.model), len(dumps)
    found.gradient = {name: torch.zeros(p.shape) for name, p in live.items()}
    for rank, dump in enumerate(dumps):
        for number, stored in enumerate(dump["micro_batches"]):
            batch = {
                key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in stored.items()
            }
            loss, log_probs = micro_batch_loss(actor, loss_of, settings, batch)
            log_probs.retain_grad()
            loss.backward()
            squares = 0.0
            for name, parameter in live.items():
                if parameter.grad is not None:
                    share = parameter.grad.float().cpu() / world
                    squares += float(share.double().pow(2).sum())
                    found.gradient[name] += share
                    parameter.grad = None
            found.loss += loss.item() / world
            found.log_probs[rank, number] = log_probs.detach().cpu()
            found.slopes[rank, number] = log_probs.grad.cpu()
            tokens = int(stored["action_mask"].sum())
            found.batches.append(
                {"rank": rank, "micro_batch": number, "loss": loss.item(), "tokens": tokens, "grad_norm": squares**0.5}
            )
            advance()
    found.grad_norm = sum(float(g.double().pow(2).sum()) for g in found.gradient.values()) ** 0.5
    return found


def token_pulls(replayed: Replay, dumps: list[dict]) -> list[dict]:
    """All action tokens, the one that pulls hardest first: |dL / d log p| (1 - p), what is not finite before all else.

    returns  rank, micro_batch, row, position, token_id, pull, slope, log_prob and those of the dump
    """
    found = []
    for (rank, number), slopes in replayed.slopes.items():
        stored, now = dumps[rank]["micro_batches"][number], replayed.log_probs[rank, number]
        mask = stored["action_mask"].bool()
        size = (slopes * torch.expm1(clamp(now).clamp(max=0.0))).abs()
        size = torch.where(size.isfinite(), size, torch.inf)
        first = stored["sequences"].shape[1] - mask.shape[1]
        for row, column in mask.nonzero().tolist():
            rollout = stored.get("rollout_log_probs")
            found.append(
                {
                    "rank": rank,
                    "micro_batch": number,
                    "row": row,
                    "position": column,
                    "token_id": int(stored["sequences"][row, first + column]),
                    "pull": float(size[row, column]),
                    "slope": float(slopes[row, column]),
                    "advantage": float(stored["advantages"][row, column]),
                    "log_prob": float(now[row, column]),
                    "trainer_log_prob": float(stored["log_probs"][row, column]),
                    "old_log_prob": float(stored["old_log_probs"][row, column]),
                    "rollout_log_prob": None if rollout is None else float(rollout[row, column]),
                }
            )
    return sorted(found, key=lambda token: -token["pull"])


def measure_tokens(actor, replayed: Replay, dumps: list[dict], tokens: list[dict], device: str) -> None:
    """Add to each of `tokens` what it alone puts into the gradient, by one backward pass each.

    `grad_norm`: 2-norm of its part; `share`: that part along the step's gradient, over the step's norm; the shares of
    all tokens of a pure policy loss add up to 1. NaN where the slope is not finite.
    """
    live, world = lora_parameters(actor.model), len(dumps)
    for token in tokens:
        stored = dumps[token["rank"]]["micro_batches"][token["micro_batch"]]
        row = slice(token["row"], token["row"] + 1)
        names = ("sequences", "action_mask", "attention_mask")
        sequences, mask, attention = (stored[name][row].to(device) for name in names)
        log_probs = actor(sequences, mask, attention_mask=attention)
        (log_probs[0, token["position"]] * token["slope"] / world).backward()
        squares = along = 0.0
        for name, parameter in live.items():
            if parameter.grad is not None:
                part = parameter.grad.double().cpu()
                squares += float(part.pow(2).sum())
                along += float((part * replayed.gradient[name].double()).sum())
                parameter.grad = None
        token["grad_norm"] = squares**0.5
        token["share"] = along / replayed.grad_norm**2 if replayed.grad_norm > 0 else 0.0
