"""Figures and foreign text as a terminal shows them."""

import unicodedata

from rft.monitor.history import number

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.-~=+*#"


def clean(value, width: int = 400) -> str:
    """One line of at most `width` characters in which nothing can steer a terminal (escapes, bidirectional marks)."""
    text = " ".join(str(value)[: width * 4].split())
    text = "".join(ch if unicodedata.category(ch) not in ("Cc", "Cf", "Cs", "Co", "Cn") else "?" for ch in text)
    return text if len(text) <= width else text[: width - 1] + "…"


def figure(value, unit: str = "") -> str:
    """At most 9 characters: three significant digits, thousands separated, ``-`` for what is no finite number."""
    value = number(value)
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if unit == "bytes":
        return size(value)
    if abs(value) >= 1e6 or abs(value) < 1e-4:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(count: float) -> str:
    """``71.3 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def sparkline(series: list[tuple[int, float]], width: int, ascii_only: bool = False) -> str:
    """`width` characters, time from left to right: the mean of each stretch of steps, scaled from lowest to highest.

    series  (step, value), steps ascending; a stretch without a step is blank; a figure that never moves is a flat line
    """
    if not series or width < 1:
        return " " * max(0, width)
    first, last = series[0][0], series[-1][0]
    span = max(1, last - first)
    columns = min(width, len(series))  # a young run is not stretched over holes
    sums, counts = [0.0] * columns, [0] * columns
    for step, value in series:
        column = min(columns - 1, (step - first) * columns // span)
        sums[column] += max(-1e100, min(1e100, value))  # so that no sum or difference overflows
        counts[column] += 1
    means = [total / count if count else None for total, count in zip(sums, counts, strict=True)]
    known = [mean for mean in means if mean is not None]
    low, high = min(known), max(known)
    marks = ASCII_BLOCKS if ascii_only else BLOCKS

    def mark(mean: float | None) -> str:
        if mean is None:
            return " "
        if not high > low:
            return marks[0]
        return marks[min(7, int((mean - low) / (high - low) * 8))]

    return "".join(map(mark, means)).ljust(width)
