"""Which tokens of a micro-batch pull hardest at the weights.

Called by `rft.spike` on every ZeRO rank and by `rft.replay_spike`. Per token, the loss has the slope
``-A exp(log p - log p_old) / tokens`` to its log-probability where PPO's clip lets it through, and the log-probability
moves its own logit by 1 - p: their product is the token's *pull*, a figure that needs no backward pass. What is not
finite pulls hardest. Log-probs in nats.
"""

import torch

from rft.ratio_stats import clamp


def pull(
    log_probs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, clip: tuple[float, float]
) -> torch.Tensor:
    """All (B, A); clip (low, high) of the ratio. Returns (B, A) float32 >= 0, inf where a value is not finite, 0 at
    masked positions."""
    log_probs, old, advantages = log_probs.float(), old.float(), advantages.float()
    ratio = clamp(log_probs - old).exp()
    clipped = ((ratio < 1 - clip[0]) & (advantages < 0)) | ((ratio > 1 + clip[1]) & (advantages > 0))
    size = (advantages * ratio).abs() * -torch.expm1(log_probs.clamp(max=0.0)) * ~clipped
    size = torch.where(size.isfinite() & log_probs.isfinite() & old.isfinite(), size, torch.inf)
    return torch.where(mask.bool(), size, 0.0)


def worst(batches: list[dict], clip: tuple[float, float], most: int) -> list[dict]:
    """The `most` tokens with the largest pull over all micro-batches, the largest first.

    batches  as `rft.spike_dump.micro_batch` gives them
    returns  micro_batch and row; position in the answer's (B, A) columns; token_id; advantage; pull; log-probs from the
             trainer (`log_prob`), the old policy and the rollout (None where there is none)
    """
    found = []
    for number, batch in enumerate(batches):
        mask = batch["action_mask"]
        size = pull(batch["log_probs"], batch["old_log_probs"], batch["advantages"], mask, clip)
        count = min(most, int((size > 0).sum()))
        values, places = size.flatten().topk(count)
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            row, column = divmod(place, mask.shape[1])
            first = batch["sequences"].shape[1] - mask.shape[1]  # column c scores the token at first + c
            rollout = batch.get("rollout_log_probs")
            found.append(
                {
                    "micro_batch": number,
                    "row": row,
                    "position": column,
                    "token_id": int(batch["sequences"][row, first + column]),
                    "pull": value,
                    "advantage": float(batch["advantages"][row, column]),
                    "log_prob": float(batch["log_probs"][row, column]),
                    "old_log_prob": float(batch["old_log_probs"][row, column]),
                    "rollout_log_prob": None if rollout is None else float(rollout[row, column]),
                }
            )
    return sorted(found, key=lambda token: -token["pull"])[:most]
