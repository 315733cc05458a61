"""Line charts as inline SVG, coloured by the page's CSS variables so that light and dark are the reader's choice.

`line_chart` takes series of any length: of more points than pixels the smallest and largest of each pixel stay, so
that no spike is lost. Values that are None or not finite are gaps. Pure functions; text is escaped.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 380, 200  # of the drawing; CSS scales it to its column, about as wide
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 26
COLOURS = 6
LOG_FROM = 200.0  # largest over median, of positive values: from here on the axis is logarithmic


@dataclass(frozen=True)
class Series:
    """xs ascending, ys alike long; low and high: an interval around each y, drawn as a whisker."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def text(value) -> str:
    """Escaped, with control characters (which HTML forbids) made visible."""
    shown = "".join(c if c in "\n\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return html.escape(shown)


def number(value: float | None) -> str:
    """Four significant digits, large ones with k, M, G; ``-`` for None."""
    if value is None or not math.isfinite(value):
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


def finite(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from low to high, about `count`."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - raw))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Scale:
    """Data to drawing: low..high to start..end, logarithmic or not."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        every = max(1, (last - first) // 4)
        return [10.0**e for e in range(first, last + 1, every) if self.low <= 10.0**e <= self.high]


def y_scale(values: list[float], band: tuple[float | None, float | None] | None, zero_one: bool = False) -> Scale:
    """The range of the values with a margin; an edge of the healthy band is in it where it is near."""
    low, high = min(values), max(values)
    positive = [v for v in values if v > 0]
    middle = sorted(positive)[len(positive) // 2] if positive else 0.0
    if low > 0 and high > LOG_FROM * middle:
        return Scale(low / 1.2, high * 1.2, HEIGHT - BOTTOM, TOP, log=True)
    span = high - low or abs(high) or 1.0
    for edge in band or ():
        if edge is not None and low - 0.6 * span <= edge <= high + 0.6 * span:
            low, high = min(low, edge), max(high, edge)
    margin = 0.06 * (high - low or span)
    if zero_one:
        low, high = max(0.0, low - 0.05), min(1.0, high + 0.05)
        margin = 0.0 if high > low else 0.5
    return Scale(low - margin, high + margin, HEIGHT - BOTTOM, TOP)


def pieces(xs: Sequence[float], ys: Sequence[float | None]) -> Iterator[list[tuple[float, float]]]:
    """Runs of neighbouring points without a gap."""
    piece: list[tuple[float, float]] = []
    for x, y in zip(xs, ys, strict=True):
        if finite(y):
            piece.append((x, y))
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


def thin(points: list[tuple[float, float]], most: int = WIDTH) -> list[tuple[float, float]]:
    """At most about `most` points: of each bucket the smallest and the largest, in order."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    kept = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return kept


def frame(x: Scale, y: Scale, width: int = WIDTH, height: int = HEIGHT) -> str:
    """Grid lines and the numbers on both axes."""
    parts = []
    for value in y.ticks():
        at = f"{y(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y(value) + 3.5:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x.ticks():
        parts.append(f'<text x="{x(value):.1f}" y="{height - 9}" text-anchor="middle">{number(value)}</text>')
    return "".join(parts)


def svg(body: str, label: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(label)}">{body}</svg>'


def line_chart(
    label: str,
    series: Sequence[Series],
    band: tuple[float | None, float | None] | None = None,
    marks: Sequence[float] = (),
    zero_one: bool = False,
) -> str | None:
    """The chart of one figure over steps; None where no series has a value.

    band   the healthy range, shaded; None: an open end
    marks  steps to mark by a line, spikes for instance
    """
    values = [v for s in series for v in [*s.ys, *(s.low or ()), *(s.high or ())] if finite(v)]
    xs = [x for s in series for x, v in zip(s.xs, s.ys, strict=True) if finite(v)]
    if not values:
        return None
    y = y_scale(values, band, zero_one)
    left, right = min(xs), max(xs)
    if left == right:
        left, right = left - 0.5, right + 0.5
    x = Scale(left, right, LEFT, WIDTH - RIGHT)
    parts = [_band(y, band), frame(x, y)]
    parts += [
        f'<line class="mark" x1="{x(m):.1f}" x2="{x(m):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        for m in marks
        if left <= m <= right
    ]
    for index, one in enumerate(series):
        parts.append(_line(one, index % COLOURS, x, y))
    return svg("".join(parts), label)


def _band(y: Scale, band: tuple[float | None, float | None] | None) -> str:
    low, high = band or (None, None)
    if low is None and high is None:
        return ""
    bottom = y(min(max(low, y.low), y.high)) if low is not None else y.start
    top = y(max(min(high, y.high), y.low)) if high is not None else y.end
    if bottom - top < 0.5:
        return ""
    return f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{WIDTH - LEFT - RIGHT}" height="{bottom - top:.1f}"/>'


def _line(one: Series, colour: int, x: Scale, y: Scale) -> str:
    parts, points = [], 0
    for piece in pieces(one.xs, one.ys):
        points += len(piece)
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in thin(piece))
        parts.append(f'<polyline class="line s{colour}" points="{path}"/>')
    if one.low is not None and one.high is not None:
        for at, low, high in zip(one.xs, one.low, one.high, strict=True):
            if finite(low) and finite(high):
                parts.append(
                    f'<line class="whisker s{colour}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(low):.1f}" '
                    f'y2="{y(high):.1f}"/>'
                )
    if points <= 40:
        for at, value in zip(one.xs, one.ys, strict=True):
            if finite(value):
                where = f'cx="{x(at):.1f}" cy="{y(value):.1f}"'
                told = f"<title>{text(one.label)} step {number(at)}: {number(value)}</title>"
                parts.append(f'<circle class="dot s{colour}" {where} r="2.4">{told}</circle>')
    return "".join(parts)
