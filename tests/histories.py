"""Metric histories of runs, made up with noise and a seed: each illness of the playbook, and what looks like it and is
none. Lines are those of training_metrics.jsonl.

`SICK` and `HEALTHY` map the name of a playbook rule to a function (seed) -> (lines, flags).
"""

import math

import numpy as np

STEPS = 60
TARGET = 5e-7
PROBLEMS, DATA = 202, "data/probe_set_200_ood.jsonl"


def noisy(rng, level, sd: float, rho: float = 0.3) -> np.ndarray:
    """level (N,) plus noise that remembers its last value, as figures of neighbouring steps do."""
    level = np.asarray(level, dtype=float)
    noise = np.zeros(len(level))
    for i in range(len(level)):
        noise[i] = (rho * noise[i - 1] if i else 0.0) + math.sqrt(1 - rho**2) * rng.normal()
    return level + sd * noise


def ramp(start: float, end: float, steps: int = STEPS, begin: float = 0.0, stop: float = 1.0) -> np.ndarray:
    """From start to end between two shares of the run, level before and after."""
    return np.interp(np.linspace(0, 1, steps), [begin, max(stop, begin + 1e-9)], [start, end])


def schedule(steps: int = STEPS, warmup: int = 4) -> np.ndarray:
    """Share of the target: linear warm-up from 0, then a cosine to a tenth."""
    i = np.arange(steps)
    cosine = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.clip((i - warmup) / max(1, steps - warmup), 0, 1)))
    return np.where(i < warmup, i / warmup, cosine)


def healthy(seed: int, steps: int = STEPS) -> dict[str, np.ndarray]:
    """Columns of a run that learns: 0.35 to 0.55 correct."""
    rng = np.random.default_rng(seed)
    correct = np.clip(noisy(rng, ramp(0.35, 0.55, steps), 0.045), 0, 1)
    return {
        "reward_mean": correct,
        "correctness": correct.copy(),
        "high_reward_but_wrong": np.zeros(steps),
        "has_boxed": np.clip(noisy(rng, ramp(0.95, 0.97, steps), 0.012), 0, 1),
        "truncated": np.clip(noisy(rng, ramp(0.12, 0.08, steps), 0.03), 0, 1),
        "response_length_mean": noisy(rng, ramp(1400, 1500, steps), 60),
        "entropy_mean": noisy(rng, ramp(1.9, 1.6, steps), 0.05),
        "grad_norm": np.exp(noisy(rng, np.full(steps, math.log(0.8)), 0.25)),
        "policy_loss": noisy(rng, np.zeros(steps), 0.02),
        "ppo_clip_ratio": np.clip(noisy(rng, np.full(steps, 0.05), 0.01), 0, 1),
        "ppo_kl": noisy(rng, np.full(steps, 2e-4), 1e-4),
        "kl": np.abs(noisy(rng, ramp(0.0005, 0.03, steps), 0.002)),
        "log_ratio_raw_max": np.abs(noisy(rng, np.full(steps, 1.5), 0.4)),
        "advantage_std": noisy(rng, np.full(steps, 0.42), 0.02),
        "zero_std_groups": np.clip(noisy(rng, ramp(0.25, 0.3, steps), 0.06), 0, 1),
        "dlogp_abs_mean": np.abs(noisy(rng, np.full(steps, 0.012), 0.001)),
        "lr_share": schedule(steps),
        "canary_shift_mean": np.abs(noisy(rng, ramp(0.0, 0.05, steps), 0.001)),
    }


def lines(columns: dict[str, np.ndarray], evals: dict[int, float] | None = None, total: int | None = None, **about):
    """Columns as lines, evaluations (step -> accuracy) among them; about: flags of the run, "-" for "_" not needed."""
    steps = len(next(iter(columns.values())))
    columns = {"grad_norm_max": columns["grad_norm"] * 1.2} | columns if "grad_norm" in columns else columns
    records = []
    for i in range(steps):
        if i in (evals or {}):
            records.append(_evaluation(i, evals[i]))
        line = {"event": "train", "time": 1.7e9 + 60 * i, "step": i + 1, "total_steps": total or steps}
        line |= {name: None if math.isnan(values[i]) else float(values[i]) for name, values in columns.items()}
        line["actor_lr"] = TARGET * line.get("lr_share", 1.0)
        records.append(line)
    records += [_evaluation(step, accuracy) for step, accuracy in (evals or {}).items() if step >= steps]
    return records, {"actor_learning_rate": str(TARGET), **about}


def _evaluation(step: int, accuracy: float) -> dict:
    accuracy = round(accuracy * PROBLEMS) / PROBLEMS
    about = {"event": "eval", "step": step, "mode": "greedy_pass@1", "temperature": 0.0, "n": 1}
    return about | {"n_problems": PROBLEMS, "dataset": DATA, "accuracy": accuracy, "truncated": 0.05}


def evals(seed: int, start: float, end: float, every: int = 10, steps: int = STEPS) -> dict[int, float]:
    """Accuracies that follow a line; the same problems each time, so that they scatter by a point or so."""
    rng = np.random.default_rng(seed + 1000)
    return {s: start + (end - start) * s / steps + 0.012 * rng.normal() for s in range(0, steps + 1, every)}


def _with(seed: int, evaluations=None, total=None, flags=None, steps=STEPS, **columns):
    """The healthy run of this seed with some columns replaced; a tuple is (level, sd) to add noise to."""
    rng = np.random.default_rng(seed + 500)
    base = healthy(seed, steps)
    for name, column in columns.items():
        base[name] = (
            np.abs(noisy(rng, column[0], column[1])) if isinstance(column, tuple) else np.asarray(column, float)
        )
        if name == "reward_mean" and "correctness" not in columns:
            base["correctness"] = base[name].copy()
    return lines(base, evaluations, total, **(flags or {}))


def _spiked(values: np.ndarray, where, factor) -> np.ndarray:
    values = values.copy()
    values[list(where)] *= factor
    return values


def flat_learning(seed):
    return _with(
        seed,
        reward_mean=(np.full(STEPS, 0.36), 0.045),
        kl=(np.full(STEPS, 1e-4), 2e-5),
        entropy_mean=(np.full(STEPS, 1.9), 0.04),
        canary_shift_mean=(ramp(0, 1e-3), 1e-5),
        evaluations=evals(seed, 0.33, 0.33),
    )


def slow_learning(seed):
    """A tenth in sixty steps, hidden in noise; a small KL."""
    return _with(
        seed, reward_mean=(ramp(0.34, 0.45), 0.045), kl=(ramp(5e-4, 0.008), 5e-4), entropy_mean=(ramp(1.9, 1.8), 0.04)
    )


def instability(seed):
    kl = np.concatenate([np.full(30, 0.01), np.full(30, 0.03)])
    return _with(
        seed,
        reward_mean=(ramp(0.5, 0.25, begin=0.4), 0.045),
        kl=_spiked(kl, (33, 40, 46, 52, 57), 40),
        entropy_mean=(ramp(1.9, 1.2, begin=0.5), 0.05),
    )


def one_bad_batch(seed):
    """The KL spikes once, correctness dips for two steps, and all is well again."""
    base = healthy(seed)
    return _with(seed, kl=_spiked(base["kl"], (25,), 30), reward_mean=_spiked(base["reward_mean"], (25, 26), 0.6))


def reward_hacking(seed):
    return _with(seed, evaluations=evals(seed, 0.36, 0.35), reward_mean=(ramp(0.35, 0.75), 0.04))


def paid_for_length(seed):
    """A reward with a hidden taste for length: it rises with the answers' length, what is right does not."""
    return _with(
        seed,
        reward_mean=(ramp(0.40, 0.47), 0.01),
        correctness=(np.full(STEPS, 0.36), 0.03),
        response_length_mean=(ramp(1400, 2300), 60),
    )


def paid_for_form(seed):
    return _with(
        seed,
        reward_mean=(ramp(0.40, 0.47), 0.01),
        correctness=(np.full(STEPS, 0.36), 0.03),
        has_boxed=(ramp(0.7, 0.98), 0.012),
    )


def paid_for_repetition(seed):
    return _with(
        seed,
        reward_mean=(ramp(0.40, 0.47), 0.01),
        correctness=(np.full(STEPS, 0.36), 0.03),
        repetition=(ramp(0.05, 0.35), 0.02),
    )


def judge_runs_away(seed):
    """0.6 x exact match + 0.4 x judge: the judge goes from 0.5 to 0.9, exact match stays."""
    rng = np.random.default_rng(seed + 2000)
    correct, judge = noisy(rng, np.full(STEPS, 0.4), 0.03), noisy(rng, ramp(0.5, 0.9), 0.03)
    return _with(seed, reward_mean=0.6 * correct + 0.4 * judge, correctness=correct)


def longer_and_better(seed):
    """Answers grow by half and are right more often."""
    return _with(
        seed,
        reward_mean=(ramp(0.40, 0.55), 0.03),
        correctness=(ramp(0.36, 0.52), 0.03),
        response_length_mean=(ramp(1400, 2200), 60),
        repetition=(np.full(STEPS, 0.05), 0.01),
    )


def box_learnt(seed):
    """A reward that pays for form too: the box is learnt, and held-out answers get better with it."""
    return _with(
        seed,
        evaluations=evals(seed, 0.33, 0.45),
        reward_mean=(ramp(0.40, 0.55), 0.03),
        correctness=(ramp(0.36, 0.46), 0.03),
        has_boxed=(ramp(0.8, 0.98), 0.012),
    )


def evaluation_follows(seed):
    """Training gains 0.4, a noisy evaluation half as much."""
    return _with(seed, evaluations=evals(seed, 0.36, 0.56), reward_mean=(ramp(0.35, 0.75), 0.04))


def ratio_spikes(seed):
    base, where = healthy(seed), (22, 31, 38, 44, 51)
    ratio = base["log_ratio_raw_max"].copy()
    ratio[list(where)] = 12.0
    return _with(seed, grad_norm=_spiked(base["grad_norm"], where, 250), log_ratio_raw_max=ratio)


def one_spike(seed):
    """One gradient spike without an extreme ratio, and large ratios without a spike."""
    base = healthy(seed)
    ratio = base["log_ratio_raw_max"].copy()
    ratio[[12, 30]] = 6.0
    return _with(seed, grad_norm=_spiked(base["grad_norm"], (20,), 60), log_ratio_raw_max=ratio)


def length_collapse(seed):
    return _with(
        seed,
        response_length_mean=(ramp(1400, 250, begin=0.6, stop=0.75), 50),
        reward_mean=(np.concatenate([ramp(0.35, 0.45, 40), ramp(0.4, 0.3, 20)]), 0.045),
    )


def more_concise(seed):
    """Answers a third shorter while more of them are right, with a dip that passes."""
    length = noisy(np.random.default_rng(seed), ramp(1500, 1000), 50)
    return _with(seed, response_length_mean=_spiked(length, (30, 31), 0.4))


def high_truncation(seed):
    return _with(seed, truncated=(ramp(0.3, 0.82, stop=0.6), 0.03))


def truncation_passes(seed):
    """A burst above 80 % that passes, and 40 % as a rule."""
    truncated = noisy(np.random.default_rng(seed), np.full(STEPS, 0.4), 0.03)
    truncated[20:26] = 0.83
    return _with(seed, truncated=truncated)


def entropy_collapse(seed):
    return _with(seed, entropy_mean=(ramp(1.9, 0.5, begin=0.3), 0.04))


def low_entropy(seed):
    """Never above 0.8 nats, and steady: the model is sure of itself from the start."""
    return _with(seed, entropy_mean=(ramp(0.75, 0.65), 0.03))


def growing_spikes(seed):
    base = healthy(seed)
    norms = base["grad_norm"].copy()
    for decade, size in enumerate((3, 6, 12, 25, 50, 110)):
        norms[[decade * 10 + 3, decade * 10 + 7]] = size
    return _with(seed, grad_norm=norms)


def constant_spikes(seed):
    """A spike in every decade, all of a size."""
    norms = healthy(seed)["grad_norm"].copy()
    sizes = np.exp(np.random.default_rng(seed).normal(math.log(15), 0.2, size=6))
    for decade in range(6):
        norms[decade * 10 + 5] = sizes[decade]
    return _with(seed, grad_norm=norms)


def lr_target_missed(seed):
    return _with(seed, lr_share=np.arange(STEPS) / 400)


def long_warmup(seed):
    """A fifth of a long run: 40 % of the target by now, and on its way."""
    return _with(seed, total=600, lr_share=np.arange(STEPS) / 150)


def dead_prompts(seed):
    return _with(seed, zero_std_groups=(ramp(0.4, 0.78), 0.05), reward_mean=(ramp(0.45, 0.85), 0.04))


def some_dead_prompts(seed):
    """Half of the groups are dead, and now and then two thirds."""
    dead = noisy(np.random.default_rng(seed), np.full(STEPS, 0.48), 0.05)
    dead[[15, 33, 58]] = 0.66
    return _with(seed, zero_std_groups=dead)


def mismatch_growth(seed):
    return _with(seed, dlogp_abs_mean=(ramp(0.01, 0.06, begin=0.2), 0.002))


def mismatch_blip(seed):
    """One step at 0.08, a level of 0.02, a growth within the healthy range."""
    mismatch = noisy(np.random.default_rng(seed), ramp(0.012, 0.022), 0.001)
    mismatch[28] = 0.08
    return _with(seed, dlogp_abs_mean=mismatch)


def weights_fixed(seed):
    zeros = np.zeros(STEPS)
    return _with(
        seed,
        reward_mean=(np.full(STEPS, 0.36), 0.045),
        kl=zeros,
        canary_shift_mean=zeros,
        entropy_mean=(np.full(STEPS, 1.9), 0.04),
    )


def small_gradients(seed):
    """Gradients of 1e-4, on-policy figures exactly 0, no reference: and yet it learns."""
    zeros = np.zeros(STEPS)
    return _with(
        seed,
        flags={"init_kl_coef": "0"},
        grad_norm=healthy(seed)["grad_norm"] * 1e-4,
        kl=zeros,
        ppo_kl=zeros,
        ppo_clip_ratio=zeros,
        log_ratio_raw_max=zeros,
    )


SICK = {
    function.__name__: function
    for function in (
        flat_learning,
        instability,
        reward_hacking,
        ratio_spikes,
        length_collapse,
        high_truncation,
        entropy_collapse,
        growing_spikes,
        lr_target_missed,
        dead_prompts,
        mismatch_growth,
        weights_fixed,
    )
}
#: more ways to be paid for what is not right, and two to be paid for what is
HACKED = {f.__name__: f for f in (paid_for_length, paid_for_form, paid_for_repetition, judge_runs_away)}
EARNED = {f.__name__: f for f in (longer_and_better, box_learnt)}
HEALTHY = {
    "flat_learning": slow_learning,
    "instability": one_bad_batch,
    "reward_hacking": evaluation_follows,
    "ratio_spikes": one_spike,
    "length_collapse": more_concise,
    "high_truncation": truncation_passes,
    "entropy_collapse": low_entropy,
    "growing_spikes": constant_spikes,
    "lr_target_missed": long_warmup,
    "dead_prompts": some_dead_prompts,
    "mismatch_growth": mismatch_blip,
    "weights_fixed": small_gradients,
}
