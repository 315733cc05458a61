"""Evaluation during training: its modes, and the line that each leaves in the metrics.

Called by the patched ``PPOTrainer`` in the controller process. A mode is named for what it measures, so that figures of
different modes are never mixed: ``greedy_pass@1`` (T 0, n 1), ``sampling_pass@N`` (T > 0), ``nondet_proxy_pass@N`` (T 0
with n > 1, which measures the engine's nondeterminism alone).
"""

import os
import time

from rft import metrics_file, samples_log
from rft.evals.modes import name as mode_name
from rft.step_log import FILE


def file_kind(temperature: float) -> str:
    """Part of the name of the per-problem file."""
    return "sampled" if temperature > 0 else "greedy"


def modes(args, generate_kwargs: dict) -> list[dict]:
    """Generation arguments of each pass of an evaluation.

    The configured pass, and under ``--eval_greedy`` a greedy one beside it. The seeds of an evaluation do not depend on
    the step: two evaluations draw with common random numbers, which makes their difference less noisy.
    """
    wanted = [(args.eval_temperature, args.eval_n_samples_per_prompt)]
    if args.eval_greedy and (0.0, 1) not in wanted:
        wanted.append((0.0, 1))
    return [
        {**generate_kwargs, "temperature": t, "n_samples_per_prompt": n, "seed_stream": f"eval-{mode_name(t, n)}"}
        for t, n in wanted
    ]


def record(step: int, samples: list, args, generate_kwargs: dict, tokenizer, seconds: float) -> dict:
    """Write the per-problem file and the metrics line of one pass; returns the line.

    samples  one Experience a response, the n responses of a problem one after the other
    """
    temperature, n = generate_kwargs["temperature"], generate_kwargs["n_samples_per_prompt"]
    correct = samples_log.write_evaluation(step, file_kind(temperature), samples, n, tokenizer)
    line = {
        "event": "eval",
        "time": time.time(),
        "step": step,
        "mode": mode_name(temperature, n),
        "temperature": temperature,
        "n": n,
        "n_problems": len(correct),
        "dataset": args.eval_dataset,
        "accuracy": sum(sum(c) / len(c) for c in correct) / max(1, len(correct)),
        "truncated": sum(float(s.info["truncated"]) for s in samples) / max(1, len(samples)),
        "eval_s": seconds,
    }
    metrics_file.append(os.path.join(metrics_file.folder(), FILE), line)
    return line
