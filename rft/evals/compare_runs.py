"""Two runs of an A/B: what was changed, training metrics over the same steps, evaluations of the same steps.

Training metrics of step t come from the same prompts in both where pool and seed are equal, so they are paired by
step. Neighbouring steps are alike: the interval of the mean difference is a circular block bootstrap (Politis
and Romano 1992) with blocks of sqrt(steps), which keeps that likeness; with one run each it speaks about these two
runs, not about other seeds. Reads only. Main thread.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from rft import runs
from rft.errors import RftError
from rft.evals import of_run

METRICS = (
    "reward_mean",
    "correctness",
    "has_boxed",
    "truncated",
    "response_length_mean",
    "entropy_mean",
    "kl",
    "grad_norm",
    "dlogp_abs_mean",
    "step_s",
)
RESAMPLES, SEED, FEW = 9999, 20261121, 8
# run.json's flags that name places, not choices
PLACES = ("ckpt_path", "save_path", "wandb_run_name", "use_wandb", "use_tensorboard")


@dataclass(frozen=True)
class Trained:
    """One metric of both runs, means over `steps` common steps from `first_step`; interval: 95 % of second - first."""

    metric: str
    first: float
    second: float
    interval: tuple[float, float] | None
    steps: int
    first_step: int


@dataclass(frozen=True)
class Evaluated:
    """Evaluations of one mode and step in both runs, the last common step carrying the verdict."""

    step: int
    last: bool
    comparison: object  # rft.stats.compare.Comparison


@dataclass(frozen=True)
class Compared:
    """names: of both; changed: one line a flag; remarks: what else differs."""

    names: tuple[str, str]
    changed: list[str]
    remarks: list[str]
    trained: list[Trained]
    evaluated: list[Evaluated]


def compare(one: Path, other: Path, force: bool, window: float = 0.5) -> Compared:
    """one, other: run folders; window: share of the common steps, the last ones, that training metrics are taken over.

    raises  RftError: the runs have different pools (unless forced), or no step in common
    """
    records = [runs.read_json(folder / runs.RUN_FILE) for folder in (one, other)]
    pools = [_pool(folder, record) for folder, record in zip((one, other), records, strict=True)]
    remarks = [f"pool: {_short(pools[0])} and {_short(pools[1])}"] if pools[0] != pools[1] else []
    if remarks and not force:
        raise RftError(
            f"{one} and {other} were trained on different prompts ({remarks[0]}): no A/B; --force compares them"
        )
    for key in ("commit", "series_id", "versions"):
        if records[0].get(key) != records[1].get(key):
            remarks.append(f"{key}: {_short(records[0].get(key))} and {_short(records[1].get(key))}")
    flags = [of_run.flags(one), of_run.flags(other)]
    keys = sorted((flags[0].keys() | flags[1].keys()) - {*PLACES})
    changed = [f"--{key}: {_value(flags[0], key)} and {_value(flags[1], key)}" for key in keys if _unlike(flags, key)]
    names = (records[0].get("id", one.name), records[1].get("id", other.name))
    return Compared(names, changed, remarks, trained(one, other, window), evaluated(one, other, names, force))


def trained(one: Path, other: Path, window: float) -> list[Trained]:
    lines = []
    for folder in (one, other):
        path = of_run.folders(folder)["metrics"] / runs.METRICS_FILE
        lines.append({line["step"]: line for line in runs.metrics_lines(path) if line.get("event") == "train"})
    steps = sorted(lines[0].keys() & lines[1].keys())
    if not steps:
        raise RftError(f"{one} and {other}: no training step in common; did both train?")
    steps = steps[-max(1, math.ceil(window * len(steps))) :]
    found = []
    for metric in METRICS:
        pairs = [[by_step[step].get(metric) for by_step in lines] for step in steps]
        if all(isinstance(value, int | float) for pair in pairs for value in pair):
            first, second = (sum(column) / len(steps) for column in zip(*pairs, strict=True))
            interval = block_interval([b - a for a, b in pairs])
            found.append(Trained(metric, first, second, interval, len(steps), steps[0]))
    return found


def block_interval(differences: list[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of a series; None for fewer than 8 steps."""
    import numpy as np

    count = len(differences)
    if count < FEW:
        return None
    values, block = np.asarray(differences, dtype=np.float64), math.ceil(math.sqrt(count))
    starts = np.random.default_rng(SEED).integers(0, count, size=(RESAMPLES, math.ceil(count / block)))
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values]))])
    means = (sums[starts + block] - sums[starts]).mean(axis=1) / block
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def evaluated(one: Path, other: Path, names: tuple[str, str], force: bool) -> list[Evaluated]:
    """Every mode and step that both runs evaluated."""
    from dataclasses import replace

    from rft.evals.compared import eval_result
    from rft.stats import compare as stats

    results = [{(r["settings"]["mode"], r["step"]): r for r in of_run.own(folder)} for folder in (one, other)]
    common = sorted(results[0].keys() & results[1].keys())
    found = []
    for mode, step in common:
        pair = [eval_result(result[mode, step]) for result in results]
        pair = [replace(result, name=name) for result, name in zip(pair, names, strict=True)]
        comparison = stats.compare(*pair, force=force)
        found.append(Evaluated(step, step == max(s for m, s in common if m == mode), comparison))
    return found


def _pool(folder: Path, record: dict) -> object:
    """Digests of the prompt data; its names where no digest was taken."""
    names = (of_run.flags(folder).get("prompt_data") or "").split(",")
    return [record.get("data_sha256", {}).get(name) or name for name in names]


def _unlike(flags: list[dict], key: str) -> bool:
    return (key in flags[0], flags[0].get(key)) != (key in flags[1], flags[1].get(key))


def _value(flags: dict, key: str) -> str:
    return "not given" if key not in flags else "given" if flags[key] is None else str(flags[key])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
