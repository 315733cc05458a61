"""Charts: what is drawn stands where the numbers say, and nothing is lost or let through."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from rft.report import shapes, svg


def points(chart: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline class="line[^"]*" points="([^"]*)"', chart)
    return [[tuple(map(float, pair.split(","))) for pair in path.split()] for path in found]


def test_a_line_goes_from_corner_to_corner():
    chart = svg.line_chart("x", [svg.Series("a", [0, 10], [0.0, 100.0])])
    ElementTree.fromstring(chart)
    ((first, last),) = points(chart)
    assert first[0] == svg.LEFT and last[0] == svg.WIDTH - svg.RIGHT
    assert svg.TOP < last[1] < first[1] < svg.HEIGHT - svg.BOTTOM
    share = 100 / 112  # 6 % margin on both sides
    assert first[1] - last[1] == pytest.approx((svg.HEIGHT - svg.BOTTOM - svg.TOP) * share, abs=0.2)


def test_gaps_break_the_line():
    chart = svg.line_chart("x", [svg.Series("a", range(6), [1.0, 2.0, None, math.nan, 3.0, 1.0])])
    assert [len(piece) for piece in points(chart)] == [2, 2]
    assert "nan" not in chart.lower()


def test_no_value_is_no_chart():
    assert svg.line_chart("x", [svg.Series("a", [1, 2], [None, math.inf])]) is None
    assert svg.line_chart("x", []) is None


def test_one_value_and_a_constant_line_are_drawn():
    for ys in ([3.0], [3.0, 3.0], [0.0, 0.0]):
        chart = svg.line_chart("x", [svg.Series("a", range(len(ys)), ys)])
        assert all(math.isfinite(v) for piece in points(chart) for pair in piece for v in pair)


def test_a_spike_survives_thinning():
    values = [(float(i), 0.0) for i in range(100_000)]
    values[54_321] = (54_321.0, 7.0)
    kept = svg.thin(values)
    assert len(kept) <= svg.WIDTH and (54_321.0, 7.0) in kept
    assert kept == sorted(kept)


def test_a_long_tail_is_drawn_on_a_logarithmic_axis():
    ys = [1.0] * 50 + [5000.0]
    scale = svg.y_scale(ys, None)
    assert scale.log and scale(100.0) == pytest.approx((scale(10.0) + scale(1000.0)) / 2)
    assert not svg.y_scale([1.0, 2.0, 30.0], None).log
    assert 1 <= len(scale.ticks()) <= 6


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (1e-7, 3e-7), (0.93, 0.97), (0, 123456)])
def test_ticks_are_round_and_inside(low, high):
    found = svg.ticks(low, high)
    assert 2 <= len(found) <= 9
    assert all(low - 1e-12 <= t <= high + 1e-9 * abs(high) for t in found)


def test_the_healthy_band_is_where_it_says():
    chart = svg.line_chart("x", [svg.Series("a", [0, 1], [0.0, 1.0])], band=(0.25, 0.75))
    top, height = map(float, re.search(r'class="band"[^/]*y="([\d.]+)"[^/]*height="([\d.]+)"', chart).groups())
    inner = (svg.HEIGHT - svg.BOTTOM - svg.TOP) / 1.12
    assert height == pytest.approx(inner / 2, abs=0.2)
    assert top + height / 2 == pytest.approx((svg.HEIGHT - svg.BOTTOM + svg.TOP) / 2, abs=0.2)
    assert 'class="band"' not in svg.line_chart("x", [svg.Series("a", [0, 1], [0.0, 1.0])], band=(50, None))


def test_whiskers_and_marks():
    series = svg.Series("a", [0, 10], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7])
    chart = svg.line_chart("x", [series], marks=[5, 99], zero_one=True)
    assert chart.count("whisker") == 2 and chart.count('class="mark"') == 1


def test_text_is_escaped_everywhere():
    nasty = '<script>"&\x00\x1b[31m'
    assert svg.text(nasty) == "&lt;script&gt;&quot;&amp;\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m"
    charts = [
        svg.line_chart(nasty, [svg.Series(nasty, [1], [1.0])]),
        shapes.heat_map(nasty, [nasty], [nasty], [[0.5]]),
        shapes.stacked(nasty, [svg.Series(nasty, [1, 2], [1.0, 2.0])]),
        shapes.histogram(nasty, [(nasty, [1.0, 2.0])]),
    ]
    for chart in charts:
        ElementTree.fromstring(chart)
        assert "<script" not in chart


def test_heat_map_shades_and_thins():
    cells = [[0.0, 1.0], [None, 0.5]]
    chart = shapes.heat_map("x", ["easy", "hard"], ["0", "10"], cells)
    assert re.findall(r'class="h(\d)"', chart) == ["0", "8", "4"]
    assert "hard at 10: 0.5" in chart
    many = shapes.heat_map("x", [str(i) for i in range(5000)], ["0"], [[1.0]] * 5000)
    assert many.count("<rect") == shapes.MOST_ROWS and "4999 at 0" in many


def test_stacked_areas_add_up():
    """Two parts of 1 and 3: the upper edge of the second stands at 4 of an axis to 4.2."""
    chart = shapes.stacked("x", [svg.Series("a", [0, 1], [1.0, 1.0]), svg.Series("b", [0, 1], [3.0, None])])
    areas = re.findall(r'<polygon class="area a\d" points="([^"]*)"', chart)
    tops = [[float(pair.split(",")[1]) for pair in area.split()[:2]] for area in areas]
    height = svg.HEIGHT - svg.BOTTOM - svg.TOP
    expected = [[svg.TOP + height * (1 - v / 4.2) for v in row] for row in ([1, 1], [4, 1])]
    assert tops == [pytest.approx(row, abs=0.06) for row in expected]
    assert shapes.stacked("x", []) is None


def test_histogram_counts_every_value_once():
    chart = shapes.histogram("x", [("a", [1.0, 1.0, 1.0, 10.0])], bins=9)
    ((*path,),) = points(chart)
    floor = svg.HEIGHT - svg.BOTTOM
    heights = sorted({round(floor - y, 1) for _, y in path if floor - y > 0.1})
    assert heights[1] / heights[0] == pytest.approx(3.0, rel=0.01)
    assert shapes.histogram("x", [("a", [])]) is None
    assert shapes.histogram("x", [("a", [2.0, 2.0])]) is not None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (math.nan, "-"), (0.123456, "0.1235"), (12345, "12.35k"), (2.5e9, "2.5G"), (0, "0")],
)
def test_numbers(value, shown):
    assert svg.number(value) == shown
