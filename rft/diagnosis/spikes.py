"""Questions about outliers: gradients, probability ratios, the KL. Each gives a `conditions.Answer`."""

import math

import numpy as np

from rft.diagnosis import trends
from rft.diagnosis.conditions import NO, Answer, found, percent, unknown
from rft.diagnosis.history import History

DECADE = 10  # steps
MAX_DECADES = 40  # of a longer run a decade is longer
EXTREME_LOG_RATIO = 5.0  # nats: a factor of 148
EXTREME = ("ratio_max", 10.0)  # where the log-ratio before the clamp is not logged
SPIKE_Z = 8.0
SPIKE_FACTOR = 5.0  # times the usual
FIXED_SPIKE = 50.0  # --spike_grad_norm's default


def gradient_spikes(history: History) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(steps, grad_norm_max, spiked): five times the usual and eight robust standard deviations above it, or five times
    the usual and above the fixed threshold; the usual is the median of the run or of the 50 steps before, the smaller.
    """
    steps, norms = history.series("grad_norm_max")
    if not len(norms):
        return steps, norms, np.zeros(0, dtype=bool)
    fixed = history.number("spike_grad_norm") or FIXED_SPIKE
    whole = float(np.median(norms))
    usual = np.minimum(whole, trends.medians_around(norms, 50, 0))
    z = (norms - usual) / np.maximum(max(trends.spread(norms), 1e-12), 0.1 * usual)
    return steps, norms, ((z > SPIKE_Z) | (norms > fixed)) & (norms > SPIKE_FACTOR * usual)


def ratio_spikes(least: int):
    """`least` steps or more at which the gradient spiked while a token's probability ratio was extreme, or loss or
    gradient were not finite. A spike below the norm that gradients are clipped to changes nothing and does not count.
    """

    def ask(history: History) -> Answer:
        steps, norms, spiked = gradient_spikes(history)
        raw = ("log_ratio_raw_max", EXTREME_LOG_RATIO)
        figure, limit = raw if history.has(raw[0]) else EXTREME
        ratio_steps, ratios = history.series(figure)
        lost = sorted({s for name in ("grad_norm", "policy_loss") for s in history.null.get(name, [])})
        extreme_lines = (line for line in history.spikes if _number(line, "log_ratio_raw_max") > EXTREME_LOG_RATIO)
        logged = {line.get("optimizer_step") for line in extreme_lines}
        if not len(ratio_steps) and not lost and not logged:
            return unknown("log_ratio_raw_max")
        beyond = ratios > limit
        extreme = dict(zip(ratio_steps[beyond].tolist(), ratios[beyond].tolist(), strict=True))
        clip = history.number("max_norm") or 1.0
        hits = np.isin(steps, list(extreme)) & spiked & (norms > clip)
        if max(hits.sum(), len(logged)) + len(lost) < least:
            return NO
        parts = []
        if hits.any():
            worst = int(np.argmax(np.where(hits, norms, -np.inf)))
            parts.append(
                f"the gradient norm spikes at {hits.sum()} steps where {figure} is above {limit:g}, up to "
                f"{norms[worst]:.4g} at step {steps[worst]} (median {np.median(norms):.3g}; {figure} there "
                f"{extreme[int(steps[worst])]:.3g})"
            )
        if logged:
            parts.append(f"spike_log.jsonl has {len(logged)} optimizer steps with a log-ratio above 5 nats")
        if lost:
            parts.append(f"loss or gradient is not finite at {len(lost)} steps, first at step {lost[0]}")
        chosen = (
            (steps[hits], norms[hits]) if hits.any() else (np.array(lost or [0]), np.full(max(1, len(lost)), np.nan))
        )
        return found("; ".join(parts), *chosen)

    return ask


def _number(line: dict, key: str) -> float:
    value = line.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def growing_spikes(decades: int, factor: float, above_median: float):
    """The largest gradient norm of each ten steps grows from decade to decade (Mann-Kendall, one-sided 95 %), `factor`
    times or more from the first two to the last two, the late ones standing out from their decade's median, and beyond
    the norm that gradients are clipped to."""

    def ask(history: History) -> Answer:
        from scipy.stats import kendalltau

        steps, norms = history.series("grad_norm_max")
        length = max(DECADE, math.ceil(len(norms) / MAX_DECADES))
        whole = len(norms) // length
        if whole < decades:
            return unknown(f"{decades * DECADE} steps")
        cut = norms[: whole * length].reshape(whole, length)
        largest, usual = cut.max(axis=1), np.median(cut, axis=1)
        p = float(kendalltau(np.arange(whole), largest, alternative="greater").pvalue)
        first, last = np.median(largest[:2]), np.median(largest[-2:])
        stands_out = np.median(largest[-2:] / np.maximum(usual[-2:], 1e-12))
        clip = history.number("max_norm") or 1.0
        if not (p <= 0.05 and last >= factor * first and stands_out >= above_median and last > clip):
            return NO
        text = (
            f"the largest gradient norm of each {length} steps grows from {first:.3g} to {last:.3g} over {whole} such "
            f"(Mann-Kendall {percent(p)}); the latest is {stands_out:.2g} times the usual of its decade"
        )
        return found(text, steps[length - 1 : whole * length : length], largest)

    return ask


def kl_spikes(least: int, floor: float):
    """`least` steps or more at which the KL is above `floor`, five times the median of the steps around it and eight
    robust standard deviations above that."""

    def ask(history: History) -> Answer:
        known = [figure for figure in ("kl", "ppo_kl") if history.has(figure)]
        for figure in known:
            steps, values = history.series(figure)
            size = np.abs(values)
            around = trends.medians_around(size, 12, 12)
            spiked = (size > floor) & (size > SPIKE_FACTOR * around)
            spiked &= size - around > SPIKE_Z * np.maximum(trends.spread(size), 1e-12)
            if len(size) >= trends.MIN_POINTS and spiked.sum() >= least:
                text = f"{figure} spikes at {spiked.sum()} steps, up to {size.max():.3g} (median {np.median(size):.3g})"
                return found(text, steps[spiked], values[spiked])
        return NO if known else unknown("kl")

    return ask
