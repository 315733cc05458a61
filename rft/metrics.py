"""What each figure of ``training_metrics.jsonl`` means: the one place that says name, unit, formula, source and range.

The README's table (`markdown`), the monitor, the report and the diagnosis read it from here. Pure data: imports nothing
heavy, no thread, reads no file. `get` knows every name that a line may hold, families such as ``reward/exact`` and
``tokens_lag2`` included; older names are renamed by `canonical`.

Tiers: 1 ground truth, 2 stability, 3 collapse, 4 cost (time, memory), 0 where in the run. A share is in [0, 1];
log-probs and entropies are in nats; tok = tokens. healthy is (low, high), either None where there is no bound; a value
outside is a reason to look, not an error. Ranges are those of the 20b guidelines for AIME-like prompts.
"""

import math
from dataclasses import dataclass

PHASES = ("generate", "reward", "old_logprob", "train", "sync", "save", "eval", "other")
TIERS = {1: "ground truth", 2: "stability", 3: "collapse", 4: "cost", 0: "position"}

#: names that older runs, or upstream's own loggers, give to figures defined below
RENAMED = {
    "experience_s": "old_logprob_s",
    "reward": "reward_mean",
    "response_length": "response_length_mean",
    "response_clip_ratio": "length_limit",
    "score": "score_mean",
}


@dataclass(frozen=True)
class Metric:
    """One figure. always: in every train line of every run; else only where `source` says so."""

    name: str
    section: str
    tier: int
    unit: str
    healthy: tuple[float | None, float | None] | None
    formula: str
    source: str
    always: bool = True

    @property
    def family(self) -> bool:
        """Whether `name` stands for many: it ends in ``*``."""
        return self.name.endswith("*")

    def state(self, value: float | None) -> str | None:
        """ "ok", "low" or "high"; None without a value or a range; "high" for what is not finite."""
        if value is None or self.healthy is None:
            return None
        if not math.isfinite(value):
            return "high"
        low, high = self.healthy
        return "low" if low is not None and value < low else "high" if high is not None and value > high else "ok"

    def range_text(self) -> str:
        """``0.05 to 0.95``, ``≤ 0.4``, ``≥ 1``, ``= 0`` or nothing."""
        low, high = self.healthy or (None, None)
        if low is None and high is None:
            return ""
        if low is None or high is None:
            return f"≤ {high:g}" if low is None else f"≥ {low:g}"
        return f"= {low:g}" if low == high else f"{low:g} to {high:g}"


_ROLLOUT, _GROUPS, _TRAIN = "rft.rollout_stats, controller", "rft.group_stats, controller", "rft.train_stats, ranks"
_STEP, _SYNC, _MISMATCH = "rft.step_log, controller", "rft.lora_sync", "rft.mismatch, controller"
_REWARD, _RATIO, _SPIKE = "reward's extra_logs", "rft.ratio_stats, ranks", "rft.spike, ranks"

# name, tier, unit, healthy, formula, source, always
_TABLE: dict[str, list[tuple]] = {
    "position": [
        ("time", 0, "s", None, "Unix time at which the line was written", _STEP),
        ("step", 0, "", None, "rollouts trained on so far, from 1", _STEP),
        ("total_steps", 0, "", None, "rollouts of the whole run", _STEP),
        ("episode", 0, "", None, "passes over the prompts that are complete", _STEP),
        ("actor_lr", 0, "", None, "learning rate that the last optimizer step was taken with", _TRAIN),
        ("lr_share", 2, "share", None, "actor_lr / --actor_learning_rate; 0 at the first step (warm-up)", _STEP),
        ("optimizer_steps", 0, "", None, "optimizer steps of the rollout, those skipped included", _TRAIN),
        ("null_count", 2, "", (0, 0), "figures of the line that were not finite and are null", _STEP),
    ],
    "reward": [
        ("reward_mean", 1, "", (0.01, 0.99), "mean over the N samples, masked ones left out", _ROLLOUT),
        ("reward_std", 1, "", None, "their standard deviation (n)", _ROLLOUT),
        ("reward_min", 1, "", None, "their smallest", _ROLLOUT),
        ("reward_max", 1, "", None, "their largest", _ROLLOUT),
        ("reward_p90", 1, "", None, "their 90 % quantile", _ROLLOUT),
        ("reward_masked", 1, "share", (None, 0.2), "samples without a reward (NaN)", _ROLLOUT),
        ("score_mean", 1, "", None, "mean of the reward's scores, which dynamic filtering looks at", _ROLLOUT, False),
        ("correctness", 1, "share", (0.05, 0.95), "samples whose answer equals the label", _REWARD, False),
        ("has_answer", 1, "share", (0.9, None), "samples with an answer in the final text", _REWARD, False),
        ("has_boxed", 1, "share", (0.9, None), "samples whose answer stands in a box", _REWARD, False),
        ("boxed_in_final", 1, "share", None, "samples whose last box starts in the last 20 %", _REWARD, False),
        ("parse_method_box", 1, "share", None, "answers read from the last box", _ROLLOUT, False),
        ("parse_method_formula", 1, "share", None, "answers read from a formula or number outside", _ROLLOUT, False),
        ("parse_method_none", 1, "share", (None, 0.1), "samples without an answer", _ROLLOUT, False),
        ("unparseable_count", 1, "samples", None, "answers that can be compared with nothing", _ROLLOUT, False),
        (
            "crashed_count",
            1,
            "samples",
            (0, 0),
            "answers whose grader was killed or judge failed",
            _ROLLOUT,
            False,
        ),
        (
            "high_reward_but_wrong",
            3,
            "share",
            (0, 0.05),
            "samples with reward > 0.5, correctness 0",
            _ROLLOUT,
            False,
        ),
        ("reward/*", 1, "", None, "mean of one part of a composed reward", _REWARD, False),
    ],
    "groups": [
        ("samples", 0, "samples", None, "N, after dynamic filtering", _ROLLOUT),
        ("groups", 0, "", None, "prompts that have samples", _GROUPS),
        ("zero_std_groups", 3, "share", (None, 0.6), "groups with equal rewards: nothing to learn from", _GROUPS),
        ("groups_all_right", 3, "share", None, "groups whose every answer is right", _GROUPS, False),
        ("groups_all_wrong", 3, "share", None, "groups whose every answer is wrong", _GROUPS, False),
        ("effective_batch", 1, "samples", (1, None), "samples with a reward, in groups with unequal ones", _GROUPS),
        (
            "reward_length_corr",
            3,
            "",
            (-0.7, 0.7),
            "correlation of reward and length within groups",
            _GROUPS,
        ),
        ("group_reward_std", 1, "", None, "mean over samples of their group's std (n - 1)", _ROLLOUT, False),
        ("dynamic_filtering_pass_rate", 1, "%", None, "prompts kept of those sampled", "--dynamic_filtering", False),
    ],
    "length": [
        ("truncated", 3, "share", (None, 0.5), "samples that hit the token limit (finish reason)", _ROLLOUT),
        ("truncated_response", 3, "share", None, "samples without an end marker, or with an open box", _REWARD, False),
        ("length_limit", 3, "share", None, "samples as long as prompt and answer may be together", _ROLLOUT),
        ("response_length_mean", 3, "tok", None, "sampled tokens an answer", _ROLLOUT),
        ("response_length_p50", 3, "tok", None, "their median", _ROLLOUT),
        ("response_length_p90", 3, "tok", None, "their 90 % quantile", _ROLLOUT),
        ("response_length_p99", 3, "tok", None, "their 99 % quantile", _ROLLOUT),
        (
            "repetition",
            3,
            "share",
            (None, 0.3),
            "8-grams of an answer that it had before, mean",
            _ROLLOUT,
        ),
        ("total_length", 3, "tok", None, "mean of prompt and answer together", _ROLLOUT),
        ("tokens_in_rollout", 0, "tok", None, "sampled tokens of all N answers", _ROLLOUT),
        ("tokens_in_batch", 0, "tok", None, "action tokens trained on, over ranks and epochs", _RATIO),
    ],
    "loss": [
        ("policy_loss", 2, "", None, "token mean over each optimizer step and all ranks; mean of these", _TRAIN),
        ("grad_norm", 2, "", (1e-9, 50), "2-norm before clipping, mean over optimizer steps", _TRAIN),
        ("grad_norm_max", 2, "", (1e-9, 50), "the largest of them", _TRAIN),
        ("grad_norm_clipped", 2, "", None, "grad_norm / max(1, grad_norm / --max_norm), mean over steps", _TRAIN),
        ("ppo_clip_ratio", 2, "share", (None, 0.4), "tokens whose gradient the clip removes", _TRAIN),
        ("ppo_clip_ratio_low", 2, "share", (None, 0.4), "of them: ratio < 1 - eps and advantage < 0", _TRAIN),
        ("ppo_clip_ratio_high", 2, "share", (None, 0.4), "of them: ratio > 1 + eps and advantage > 0", _TRAIN),
        ("ppo_kl", 2, "nat/tok", (-0.01, 0.1), "mean of log p_old - log p_new", _TRAIN),
        ("kl", 2, "nat/tok", (-0.05, 1.0), "to the reference, by --kl_estimator, mean over tokens", _TRAIN),
        ("kl_loss", 2, "nat/tok", None, "kl as it enters the loss", "--use_kl_loss", False),
        ("logprobs_diff", 2, "nat/tok", None, "mean of log p - log p_reference", _TRAIN),
        ("vllm_kl", 2, "nat/tok", None, "mean of log p_rollout - log p_old", "--enable_vllm_is_correction", False),
        ("return", 2, "", None, "mean over samples of the reward after baseline and KL", _ROLLOUT),
    ],
    "advantage": [
        ("advantage_mean", 2, "", None, "over the N samples' action tokens", _ROLLOUT),
        ("advantage_std", 2, "", (0.01, None), "likewise (n)", _ROLLOUT),
        ("advantage_max", 2, "", None, "likewise", _ROLLOUT),
        ("advantage_min", 2, "", None, "likewise", _ROLLOUT),
    ],
    "entropy": [
        ("entropy_mean", 2, "nat/tok", (1.0, None), "of the trained policy at action tokens", _TRAIN, False),
        ("entropy_p10", 2, "nat/tok", None, "their 10 % quantile, over all ranks' tokens", _TRAIN, False),
        ("entropy_p90", 2, "nat/tok", None, "their 90 % quantile", _TRAIN, False),
    ],
    "ratio": [
        ("log_ratio_raw_max", 2, "nat", (None, 5), "largest log p_new - log p_old of a token", _RATIO),
        ("log_ratio_max", 2, "nat", (None, 5), "the same after the clamp to ±20", _RATIO),
        ("log_ratio_min", 2, "nat", (-5, None), "smallest after the clamp", _RATIO),
        ("ratio_max", 2, "", (None, 10), "exp(log_ratio_max)", _RATIO),
        ("log_ratio_abs_p99", 2, "nat", (None, 1), "99 % quantile of |log ratio|, over all ranks' tokens", _RATIO),
        ("on_policy_log_ratio_abs_max", 2, "nat", (0, 1e-3), "in the rollout's first optimizer step; 0", _RATIO),
    ],
    "mismatch": [
        (
            "dlogp_abs_mean",
            2,
            "nat/tok",
            (None, 0.03),
            "|d|, d = log p_trainer - log p_rollout",
            _MISMATCH,
        ),
        ("dlogp_abs_p99", 2, "nat", (None, 0.5), "99 % quantile of |d|", _MISMATCH),
        ("dlogp_abs_max", 2, "nat", (None, 5), "largest |d|", _MISMATCH),
        ("dlogp_kl_k1", 2, "nat/tok", None, "mean of -d: KL(rollout, trainer)", _MISMATCH),
        ("dlogp_kl_k3", 2, "nat/tok", (None, 0.01), "mean of exp(d) - 1 - d: the same", _MISMATCH),
        ("token_weight_below", 2, "share", (None, 0.05), "tokens with exp(d) below the IS threshold", _MISMATCH),
        ("token_weight_above", 2, "share", (None, 0.05), "tokens with exp(d) above it", _MISMATCH),
        ("seq_weight_mean", 2, "", (0.5, 2), "mean over answers of exp(sum of d)", _MISMATCH),
        ("seq_weight_ess", 2, "share", (0.5, None), "(sum w)² / (N sum w²) of those weights", _MISMATCH),
        ("adapter_lag_mean", 2, "syncs", None, "adapter that trains less the one that sampled", _MISMATCH, False),
        ("adapter_lag_max", 2, "syncs", (None, 1), "the largest", _MISMATCH, False),
        ("dlogp_abs_mean_lag*", 2, "nat/tok", None, "dlogp_abs_mean of samples that lag K syncs", _MISMATCH, False),
        ("tokens_lag*", 2, "tok", None, "their tokens", _MISMATCH, False),
    ],
    "sync": [
        ("sync_version", 0, "", None, "of the adapter that the engines now hold", _SYNC, False),
        ("sync_bytes", 4, "bytes", None, "sent to each engine", _SYNC, False),
        ("canary_dlogp_mean", 2, "nat/tok", (None, 0.05), "fixed prompts, trainer to the worst engine", _SYNC, False),
        ("canary_dlogp_max", 2, "nat", (None, 5), "their worst token", _SYNC, False),
        ("canary_shift_mean", 2, "nat/tok", None, "how far the adapter moves their log-probs", _SYNC, False),
        ("canary_served", 2, "", (0.8, 1.2), "of that shift, what the engines serve", _SYNC, False),
        ("canary_s", 4, "s", None, "scoring them", _SYNC, False),
    ],
    "spikes": [
        ("spikes", 2, "steps", (0, 0), "optimizer steps whose gradient spiked", _SPIKE, False),
        ("skipped_steps", 2, "steps", (0, 0), "of them and of the next: not taken", _SPIKE, False),
        ("nonfinite_steps", 2, "steps", (0, 0), "optimizer steps whose gradient was not finite", _SPIKE, False),
    ],
    "time": [
        ("generate_s", 4, "s", None, "rollout until its last answer is sampled", _STEP),
        ("reward_s", 4, "s", None, "from there until the last reward is there", "rft.phases, engines"),
        ("old_logprob_s", 4, "s", None, "old and reference log-probs, advantages, these figures", _STEP),
        ("train_s", 4, "s", None, "forward, backward, optimizer", _STEP),
        ("sync_s", 4, "s", None, "adapter to the engines, certificate, canaries", _STEP),
        ("save_s", 4, "s", None, "checkpoint and loggers", _STEP),
        ("eval_s", 4, "s", None, "evaluations since the previous line", _STEP),
        ("other_s", 4, "s", None, "everything else since the previous line", _STEP),
        ("step_s", 4, "s", None, "since the previous line was written (the first: since the loop began)", _STEP),
        ("generate_tok_s", 4, "tok/s", None, "tokens_in_rollout / generate_s", _STEP),
        ("train_tok_s", 4, "tok/s", None, "tokens_in_batch / train_s", _STEP),
    ],
    "memory": [
        ("host_rss_bytes", 4, "bytes", None, "resident sets of the actor ranks, summed", "rft.memory_stats, ranks"),
        ("gpu_allocated_bytes", 4, "bytes", None, "after training, the fullest rank", "rft.memory_stats, GPUs", False),
        ("gpu_peak_bytes", 4, "bytes", None, "largest of the step, the fullest rank", "rft.memory_stats, GPUs", False),
    ],
}

METRICS: dict[str, Metric] = {
    row[0]: Metric(row[0], section, *row[1:]) for section, rows in _TABLE.items() for row in rows
}
SECTIONS: dict[str, list[Metric]] = {section: [METRICS[row[0]] for row in rows] for section, rows in _TABLE.items()}
_FAMILIES = [metric for metric in METRICS.values() if metric.family]


def get(name: str) -> Metric | None:
    """The definition of a figure, by its present or an older name; None for what a reward logs of its own accord."""
    name = RENAMED.get(name, name)
    if name in METRICS:
        return METRICS[name]
    return next((metric for metric in _FAMILIES if name.startswith(metric.name[:-1])), None)


def tier(number: int) -> list[Metric]:
    """The single figures of a tier, in the table's order."""
    return [metric for metric in METRICS.values() if metric.tier == number and not metric.family]


def canonical(record: dict) -> dict:
    """A line with today's names; where a line has both, the present name's value stands."""
    return {RENAMED.get(key, key): value for key, value in record.items() if key not in RENAMED} | {
        RENAMED[key]: value for key, value in record.items() if key in RENAMED and RENAMED[key] not in record
    }


def markdown(ranges_only: bool = False) -> str:
    """A table, one row a figure, sections in order: docs/metrics.md has all, the README those with a healthy range."""
    rows = ["| figure | tier | unit | healthy | what it is | from |", "|---|---|---|---|---|---|"]
    for section, metrics in SECTIONS.items():
        metrics = [m for m in metrics if m.healthy or not ranges_only]
        rows += [f"| **{section}** | | | | | |"] if metrics and not ranges_only else []
        for m in metrics:
            name = m.name.replace("lag*", "lagK").replace("/*", "/NAME")
            rows.append(f"| `{name}` | {m.tier} | {m.unit} | {m.range_text()} | {_cell(m.formula)} | {m.source} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
