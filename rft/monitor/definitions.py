"""Which figures the monitor shows; what each means stands in `rft.metrics`."""

from dataclasses import dataclass, replace

from rft import metrics
from rft.metrics import Metric
from rft.monitor.history import History, number

#: shown by themselves, the first first where the terminal is low; the others once they leave their range, or with --all
ESSENTIAL = (
    "reward_mean",
    "correctness",
    "grad_norm",
    "entropy_mean",
    "truncated",
    "dlogp_abs_mean",
    "response_length_mean",
    "kl",
    "has_boxed",
    "zero_std_groups",
    "ppo_clip_ratio",
    "log_ratio_raw_max",
    "advantage_std",
    "ppo_kl",
    "reward_std",
    "effective_batch",
    "policy_loss",
    "high_reward_but_wrong",
)
RECENT = 20  # steps


@dataclass(frozen=True)
class Row:
    """A figure as it stands. state of the last step, recent of the mean over `RECENT` steps: ok, low, high or None."""

    metric: Metric
    value: float | None
    mean: float | None
    state: str | None
    recent: str | None

    @property
    def outside(self) -> bool:
        return self.state in ("low", "high")

    @property
    def lasting(self) -> bool:
        return self.outside and self.recent in ("low", "high")


def rows(history: History, everything: bool = False) -> tuple[list[Row], int]:
    """(the rows of tiers 1 to 3 that are to be shown, in the table's order; how many figures are not among them)."""
    shown, hidden = [], 0
    for tier in (1, 2, 3):
        for metric in [*metrics.tier(tier), *_of_families(tier, history)]:
            if not any(metric.name in line for line in history.train[-RECENT:]):
                continue
            row = _row(metric, history)
            if everything or row.outside or metric.name in ESSENTIAL:
                shown.append(row)
            else:
                hidden += 1
    return shown, hidden


def _of_families(tier: int, history: History) -> list[Metric]:
    """Those that the last step has of a family, such as the parts of a composed reward, each under its own name."""
    names = sorted(name for name in history.last if name not in metrics.METRICS)
    found = [(name, metrics.get(name)) for name in names]
    return [replace(metric, name=name) for name, metric in found if metric is not None and metric.tier == tier]


def _row(metric: Metric, history: History) -> Row:
    value, mean = number(history.last.get(metric.name)), history.recent_mean(metric.name, RECENT)
    return Row(metric, value, mean, metric.state(value), metric.state(mean))


def fitting(found: list[Row], count: int) -> list[Row]:
    """At most `count` of the rows, those outside their range and the essential ones first, in their order."""

    def rank(row: Row) -> tuple[bool, int]:
        name = row.metric.name
        return not row.outside, ESSENTIAL.index(name) if name in ESSENTIAL else len(ESSENTIAL)

    kept = sorted(found, key=rank)[: max(0, count)]
    return [row for row in found if row in kept]


def phases(history: History) -> list[tuple[str, float, float]]:
    """(phase, mean seconds a step, share of their sum) over the last `RECENT` steps, in the order of a step."""
    means = [(phase, history.recent_mean(f"{phase}_s", RECENT)) for phase in metrics.PHASES]
    known = [(phase, mean) for phase, mean in means if mean is not None and mean >= 0]
    total = number(sum(mean for _, mean in known)) or 0.0
    return [(phase, mean, mean / total) for phase, mean in known] if total > 0 else []


def throughput(history: History) -> dict[str, float]:
    """Tokens a second, ``generated`` and ``trained``, over the last `RECENT` steps: their tokens by their seconds."""
    found = {}
    for name, tokens, seconds in (
        ("generated", "tokens_in_rollout", "generate_s"),
        ("trained", "tokens_in_batch", "train_s"),
    ):
        pairs = [(number(line.get(tokens)), number(line.get(seconds))) for line in history.train[-RECENT:]]
        known = [(count, spent) for count, spent in pairs if count is not None and spent is not None and spent > 0]
        if known:
            found[name] = sum(count for count, _ in known) / sum(spent for _, spent in known)
    return found
