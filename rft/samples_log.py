"""What the model wrote: samples of a training step, and every response of an evaluation.

Called by the patched ``PPOTrainer`` in the controller process. Files are written whole or not at all.
"""

import math
import os

from rft import metrics_file, samples_choice
from rft.rewards import answers, harmony

KEPT = 40  # samples of a step: 8 of each of the usual five kinds


def response_text(sample, tokenizer) -> str:
    """The sampled tokens of an Experience with one sequence, decoded, special tokens kept."""
    mask = sample.action_mask[0].bool()
    return tokenizer.decode(sample.sequences[0, 1:][mask], skip_special_tokens=False)


def write_samples(step: int, samples: list, tokenizer, group_size: int | None = None, limit: int = KEPT) -> None:
    """``samples_stepN.jsonl``: one line an answer, a choice of all kinds (rft/samples_choice.py), in rollout order.

    samples     one Experience a response of the rollout, the answers to a prompt one after the other
    group_size  answers a prompt (``--n_samples_per_prompt``); None: as many as follow one another with one prompt
    limit       lines at the most

    A line has `prompt`, `label`, `response`, the extracted `answer` (null without one), `reward` and every other extra
    field, `response_length`, `truncated`, `group` and `group_rank` (1: its group's highest reward), `place` in the
    rollout, `adapter_version`, and `kinds`, what it was chosen for. Texts of other samples are not decoded.
    """
    records = []
    for place, sample in enumerate(samples):
        new = place > 0 and (
            place % group_size == 0 if group_size else sample.prompts[0] != samples[place - 1].prompts[0]
        )
        figures = {key: value.float().flatten()[0].item() for key, value in sample.info.items()}
        figures.setdefault("reward", sample.rewards[0].item() if sample.rewards is not None else math.nan)
        group = records[-1]["group"] + new if records else 0
        records.append({**figures, "place": place, "group": group})
    for record, rank in zip(records, samples_choice.group_ranks(records), strict=True):
        record["group_rank"] = rank
    lines = []
    for record in samples_choice.choose(records, limit):
        sample = samples[record["place"]]
        response = response_text(sample, tokenizer)
        about = {"step": step, "prompt": sample.prompts[0], "label": sample.labels[0], "response": response}
        lines.append({**about, "answer": extracted(response), **record})
    metrics_file.write_all(os.path.join(metrics_file.samples_folder(), f"samples_step{step}.jsonl"), lines)


def extracted(response: str) -> str | None:
    """The answer that the one grader reads from a response; None if it gives none."""
    final = harmony.final_text(response)
    found = answers.extract_answer(final.text) if final else None
    return found.text.strip() if found and found.found else None


def write_evaluation(step: int, kind: str, samples: list, n: int, tokenizer) -> list[list[float]]:
    """``eval_stepN_<kind>.jsonl``: one line a problem, in the data set's order.

    returns  for each problem, how right each answer is: its `correctness` where the reward logs one, or else its
             reward; an answer without either (NaN) is 0.0
    """
    records = []
    for index in range(len(samples) // n):
        group = samples[index * n : (index + 1) * n]
        records.append(
            {
                "index": index,
                "prompt": group[0].prompts[0],
                "label": group[0].labels[0],
                "rewards": [sample.rewards[0].item() for sample in group],
                "correct": [_correct(sample) for sample in group],
                "responses": [response_text(sample, tokenizer) for sample in group],
                "tokens": [int(sample.action_mask.sum()) for sample in group],
                "truncated": [int(sample.info["truncated"]) for sample in group],
                "adapter_version": [int(sample.info["adapter_version"]) for sample in group],
            }
        )
    metrics_file.write_all(os.path.join(metrics_file.samples_folder(), f"eval_step{step}_{kind}.jsonl"), records)
    return [record["correct"] for record in records]


def _correct(sample) -> float:
    value = float(sample.info["correctness"]) if "correctness" in sample.info else sample.rewards[0].item()
    return 0.0 if math.isnan(value) else value
