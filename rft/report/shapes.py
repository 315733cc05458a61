"""Charts that are no lines, as inline SVG: heat map, stacked bars, histogram. See `svg` for colours and escaping."""

import math
from collections.abc import Sequence

from rft.report.svg import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    Series,
    finite,
    frame,
    number,
    svg,
    text,
)

CELL = 9  # height of a row of the heat map
MOST_ROWS = 600
SHADES = 9


def heat_map(label: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[float | None]]) -> str:
    """Shares in [0, 1] by row and column; light is 0, dark is 1 (the other way round on a dark page), None is empty.

    Of more than `MOST_ROWS` rows evenly spaced ones are shown. Rows are told on hovering, columns also stand below.
    """
    kept = range(len(rows))
    if len(rows) > MOST_ROWS:
        kept = [round(i * (len(rows) - 1) / (MOST_ROWS - 1)) for i in range(MOST_ROWS)]
    height = TOP + CELL * len(kept) + BOTTOM
    wide = (WIDTH - RIGHT - 8) / max(1, len(columns))
    parts = []
    for place, row in enumerate(kept):
        for column, value in enumerate(cells[row]):
            if not finite(value):
                continue
            shade = round(min(max(value, 0.0), 1.0) * (SHADES - 1))
            where = f'x="{8 + column * wide:.1f}" y="{TOP + place * CELL}" width="{wide - 0.6:.1f}" height="{CELL - 1}"'
            told = f"{rows[row]} at {columns[column]}: {number(value)}"
            parts.append(f'<rect class="h{shade}" {where}><title>{text(told)}</title></rect>')
    every = max(1, math.ceil(len(columns) / 8))
    for column in range(0, len(columns), every):
        at = 8 + (column + 0.5) * wide
        parts.append(f'<text x="{at:.1f}" y="{height - 9}" text-anchor="middle">{text(columns[column])}</text>')
    return svg("".join(parts), label, WIDTH, height)


def stacked(label: str, parts_of: Sequence[Series]) -> str | None:
    """Areas on top of one another, one a part, over steps; every series has the same xs, a gap counts as 0."""
    if not parts_of or not len(parts_of[0].xs):
        return None
    xs = list(parts_of[0].xs)
    size = max(1, math.ceil(len(xs) / WIDTH))
    xs_kept = [xs[i] for i in range(0, len(xs), size)]
    below = [0.0] * len(xs_kept)
    tops = []
    for one in parts_of:
        values = [v if finite(v) else 0.0 for v in one.ys]
        means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
        tops.append([b + v for b, v in zip(below, means, strict=True)])
        below = tops[-1]
    highest = max(below) or 1.0
    left, right = (xs_kept[0], xs_kept[-1]) if len(xs_kept) > 1 else (xs_kept[0] - 0.5, xs_kept[0] + 0.5)
    x, y = Scale(left, right, LEFT, WIDTH - RIGHT), Scale(0.0, highest * 1.05, HEIGHT - BOTTOM, TOP)
    areas, floor = [], [0.0] * len(xs_kept)
    for index, (one, top) in enumerate(zip(parts_of, tops, strict=True)):
        up = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs_kept, top, strict=True)]
        down = [f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs_kept, floor, strict=True)][::-1]
        told = f"<title>{text(one.label)}</title>"
        areas.append(f'<polygon class="area a{index % (COLOURS + 2)}" points="{" ".join(up + down)}">{told}</polygon>')
        floor = top
    return svg("".join(areas) + frame(x, y), label)


def histogram(label: str, series: Sequence[tuple[str, Sequence[float]]], bins: int = 30) -> str | None:
    """Distributions side by side as outlines, each as a share of its own values."""
    values = [v for _, own in series for v in own if finite(v)]
    if not values:
        return None
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / bins
    outlines, highest = [], 0.0
    for _, own in series:
        counts = [0] * bins
        kept = [v for v in own if finite(v)]
        for value in kept:
            counts[min(bins - 1, int((value - low) / width))] += 1
        shares = [c / max(1, len(kept)) for c in counts]
        highest = max(highest, *shares)
        outlines.append(shares)
    x, y = Scale(low, high, LEFT, WIDTH - RIGHT), Scale(0.0, highest * 1.05 or 1.0, HEIGHT - BOTTOM, TOP)
    parts = [frame(x, y)]
    for index, ((name, _), shares) in enumerate(zip(series, outlines, strict=True)):
        points = [(low, 0.0)]
        for i, share in enumerate(shares):
            points += [(low + i * width, share), (low + (i + 1) * width, share)]
        points.append((high, 0.0))
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        parts.append(
            f'<polyline class="line s{index % COLOURS}" points="{path}"><title>{text(name)}</title></polyline>'
        )
    return svg("".join(parts), label)
