"""The sentence that a user reads, in percent and with n. Called by rft.stats.compare with a finished Comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rft.stats.compare import Comparison


def sentence(one: Comparison) -> str:
    """One line, for example ``no difference can be claimed: 50.0 % to 55.6 %, 18 problems, p = 1.0; 18 problems …``."""
    row = one.row
    size = f"{row.first.problems} problems"
    samples = sorted({row.first.samples, row.second.samples})
    if samples != [1]:
        size += f" x {' and '.join(map(str, samples))} answers"
    metric = "" if row.metric in ("pass@1", f"avg@{samples[-1]}") else f"{row.metric} "
    change = f"{metric}{100 * row.first.value:.1f} % to {100 * row.second.value:.1f} %"
    facts = f"{size}, {_chance(one)}"
    if one.claim in ("better", "worse"):
        bounds = f"[{100 * row.interval.low:+.1f}, {100 * row.interval.high:+.1f}]"
        text = (
            f"{one.second} is {one.claim} than {one.first}: {change},"
            f" {100 * row.difference:+.1f} points, {100 * row.interval.level:.0f} % interval {bounds}, {facts}"
        )
    elif one.claim == "diagnostic":
        text = f"diagnostics only, no claim about quality: {change}, {facts}"
    else:
        text = f"no difference can be claimed: {change}, {facts}; {_limit(one)}"
    return f"forced, not alike ({'; '.join(one.labels)}): {text}" if one.labels else text


def p_value(p: float) -> str:
    """``p = 0.043``, ``p = 1.0``, ``p < 0.0001``; never rounded across 0.05 or 0.01."""
    if p < 0.0001:
        return "p < 0.0001"
    if p > 0.9995:
        return "p = 1.0"
    digits = 2 if p >= 0.1 else 3 if p >= 0.01 else 4
    while any((round(p, digits) <= edge) != (p <= edge) for edge in (0.05, 0.01)):
        digits += 1
    return f"p = {p:.{digits}f}"


def _chance(one: Comparison) -> str:
    if one.comparisons == 1:
        return p_value(one.p)
    return f"{p_value(one.p)} after Holm's correction for {one.comparisons} comparisons ({p_value(one.test.p)} alone)"


def _limit(one: Comparison) -> str:
    limit = one.detectable.words
    return f"no problem changed, {limit}" if not one.test.up + one.test.down else limit
