"""What a step's figures cost, beside the loss that they describe: 128 answers of 4096 tokens, on the CPU, in one run.

    python benchmarks/metrics.py [--answers 128] [--tokens 4096] [--vocabulary 201088] [--json]

Measured in turn, the fastest of `--repeat` times each: the controller's figures of a rollout (rft/rollout_stats.py,
groups and mismatch included), the ranks' (ratio tail, clip sides, entropy pool, spike log, reduction over 4 ranks,
rft/train_stats.py, rft/spike.py), and the line. Beside them the loss from logits to gradient: log-softmax, the sampled
tokens' log-probs, entropy, PolicyLoss, backward. That takes minutes at the whole size, so it is measured on
`--slice` tokens of the full vocabulary and scaled by tokens, to which it is proportional. The forward and backward
pass of the model, which a step also takes, are left out: the share of a whole step is smaller than the one given.
"""

import argparse
import json
import os
import tempfile
import time
from types import SimpleNamespace

import torch

RANKS, GROUP, MICRO = 4, 8, 1


def parse() -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--answers", type=int, default=128)
    made.add_argument("--tokens", type=int, default=4096, help="of each answer")
    made.add_argument("--vocabulary", type=int, default=201_088)
    made.add_argument("--slice", type=int, default=64, help="tokens that the loss is measured on")
    made.add_argument("--repeat", type=int, default=3)
    made.add_argument("--json", action="store_true", help="the last line is a JSON object")
    return made.parse_args()


def fastest(repeat: int, function) -> float:
    """Seconds of the fastest of `repeat` calls."""
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def rollout(answers: int, tokens: int) -> list:
    """Micro-batches of one answer, as the controller holds them, with all that an exact-match reward logs."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for place in range(0, answers, MICRO):
        log_probs = -torch.rand(MICRO, tokens, generator=generator)
        right = torch.randint(0, 2, (MICRO,), generator=generator).float()
        names = ("correctness", "has_answer", "has_boxed", "boxed_in_final", "truncated", "truncated_response", "score")
        info = dict.fromkeys((*names, "reward", "unparseable", "grader_timeout", "kl", "logprobs_diff"), right)
        info |= {"parse_method": 2 * right, "response_length": torch.full((MICRO,), tokens)}
        parts.append(
            SimpleNamespace(
                index=list(range(place, place + MICRO)),
                rewards=right,
                sequences=torch.randint(0, 1000, (MICRO, tokens + 1), generator=generator),
                attention_mask=torch.ones(MICRO, tokens + 1).long(),
                action_mask=torch.ones(MICRO, tokens).long(),
                advantages=torch.randn(MICRO, 1, generator=generator).expand(MICRO, tokens).contiguous(),
                action_log_probs=log_probs,
                base_action_log_probs=log_probs,
                rollout_log_probs=log_probs + 0.01 * torch.randn(MICRO, tokens, generator=generator),
                info={**info, "total_length": info["response_length"], "adapter_version": torch.ones(MICRO)},
            )
        )
    return parts


def ranks_figures(parts: list) -> dict:
    """What the ranks compute and exchange, one after the other; on a machine of its own each takes a quarter."""
    import pickle

    from rft import ratio_stats
    from rft.batch_plan import MicroBatch
    from rft.spike import SpikeLog
    from rft.train_stats import TrainStats, clip_sides, merge

    shares = []
    for rank in range(RANKS):
        stats, spikes = TrainStats(), SpikeLog(50.0, None)
        for part in parts[rank::RANKS]:
            raw = part.rollout_log_probs - part.action_log_probs
            measured = ratio_stats.measure(raw, part.action_mask)
            stats.add_ratio(measured, on_policy=True)
            stats.add_clip(clip_sides(ratio_stats.clamp(raw).exp(), part.advantages, part.action_mask, 0.1, 0.1))
            stats.add_mean("ppo_kl", -float(raw.mean()), raw.numel())
            stats.pool("entropy", part.action_log_probs[part.action_mask.bool()])
            micro = MicroBatch(part, 1.0, 1.0, True, 0)
            spikes.add(part.sequences, part.action_mask, measured, micro, part.action_log_probs)
        spikes.judge(1.0)
        stats.add_grad_norm(spikes.end_step(1.0), 1.0)
        shares.append(pickle.loads(pickle.dumps(stats.local())))  # as all_gather_object does
    return merge(shares, 1)


def loss_of(tokens: int, vocabulary: int):
    """A function that computes loss and gradient of `tokens` logits, as the patched actor and PolicyLoss do."""
    from openrlhf.models import PolicyLoss
    from openrlhf.models.utils import compute_entropy, log_probs_from_logits

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, tokens, vocabulary, generator=generator).to(torch.bfloat16).requires_grad_()
    chosen = torch.randint(0, vocabulary, (1, tokens), generator=generator)
    advantages, mask, loss_fn = torch.ones(1, tokens), torch.ones(1, tokens), PolicyLoss(0.1, 0.1)

    def compute():
        whole = logits.float()
        with torch.no_grad():
            compute_entropy(whole)
        log_probs = log_probs_from_logits(whole, chosen)
        loss_fn(log_probs, log_probs.detach(), advantages, action_mask=mask)[0].backward()
        logits.grad = None

    return compute


def main() -> None:
    options = parse()
    if options.answers % (RANKS * GROUP) or options.slice < 1:
        raise SystemExit(f"error: --answers must be a multiple of {RANKS * GROUP}, --slice at least 1")
    from rft.rollout_stats import rollout_stats
    from rft.step_log import StepLog

    parts = rollout(options.answers, options.tokens)
    total = options.answers * options.tokens
    with tempfile.TemporaryDirectory() as folder:
        os.environ["METRICS_LOG_DIR"] = folder
        log = StepLog(SimpleNamespace(rollout_batch_size=16, num_episodes=1, actor_learning_rate=1e-6), 16)
        log.start()
        figures = rollout_stats(parts, serving_version=1, group_size=GROUP) | ranks_figures(parts)
        seconds = {
            "controller_s": fastest(options.repeat, lambda: rollout_stats(parts, serving_version=1, group_size=GROUP)),
            "ranks_s": fastest(options.repeat, lambda: ranks_figures(parts)),
            "line_s": fastest(options.repeat, lambda: log.write(1, 0, figures)),
        }
    per_token = fastest(options.repeat, loss_of(options.slice, options.vocabulary)) / options.slice
    found = {
        "tokens": total,
        "figures": len(figures),
        "threads": torch.get_num_threads(),
        **seconds,
        "metrics_s": sum(seconds.values()),
        "loss_s": per_token * total,
    }
    found["share_of_loss"] = found["metrics_s"] / found["loss_s"]
    print(f"{found['figures']} figures of {options.answers} x {options.tokens} tokens, {found['threads']} threads")
    for name, value in seconds.items():
        print(f"  {name[:-2]:<12}{value * 1000:10.1f} ms")
    print(f"  {'loss':<12}{found['loss_s'] * 1000:10.1f} ms  ({options.slice} tokens, scaled)")
    print(f"figures / loss: {100 * found['share_of_loss']:.2f} %")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
