"""The table of figures: value, recent mean, sparkline of the whole run, healthy range; ``!`` before what is outside."""

from rich.text import Text

from rft.metrics import TIERS
from rft.monitor import definitions
from rft.monitor.definitions import Row
from rft.monitor.history import History
from rft.monitor.text import figure, sparkline

MIN_ROWS = 4  # however low the terminal is


def lines(history: History, everything: bool, ascii_only: bool, width: int, room: int | None) -> list[Text]:
    """Heading, tiers and rows; in `room` lines, or `MIN_ROWS` rows, the tiers' headings go first, then healthy rows."""
    found, hidden = definitions.rows(history, everything)
    if not found:
        return []
    headings, left_out = True, []
    if room is not None:
        tiers = len({row.metric.tier for row in found})
        headings = room >= len(found) + tiers + 1 + bool(hidden)
        kept = found if headings else definitions.fitting(found, max(MIN_ROWS, room - 2))
        left_out = [row for row in found if row not in kept]
        hidden, found = hidden + len(left_out), kept
    names = min(28, max(len(row.metric.name) for row in found))
    units = 8 if width >= 100 else 0
    spark = max(6, min(60, width - 2 - names - 10 - 10 - units - 1 - 15))
    head = f"  {'figure':<{names}}{'now':>10}{f'mean {definitions.RECENT}':>10} {'whole run':<{spark}} healthy"
    drawn, tier = [Text(head, style="dim")], 0
    for row in found:
        if headings and row.metric.tier != tier:
            tier = row.metric.tier
            drawn.append(Text(f"Tier {tier}: {TIERS[tier]}", style="bold"))
        drawn.append(_line(row, history, names, units, spark, ascii_only))
    if hidden:
        outside = sum(row.outside for row in left_out)
        words = f"{outside} outside their range: enlarge the terminal" if outside else "none outside its range (--all)"
        drawn.append(
            Text(f"{'!' if outside else ' '} {hidden} more figures, {words}", style="yellow" if outside else "dim")
        )
    return drawn


def _line(row: Row, history: History, names: int, units: int, spark: int, ascii_only: bool) -> Text:
    metric = row.metric
    style = ("bold red" if row.lasting else "yellow") if row.outside else "green" if row.state == "ok" else ""
    now = figure(row.value, metric.unit) if metric.name in history.last else ""
    trend = sparkline(history.series(metric.name), spark, ascii_only)
    return Text.assemble(
        ("! " if row.outside else "  ", style),
        f"{metric.name[:names]:<{names}}",
        (f"{now:>10}", style),
        f"{figure(row.mean, metric.unit):>10} ",
        (trend, "cyan"),
        (f" {metric.range_text():<14}", "dim"),
        (f"{metric.unit:>{units}}" if units else "", "dim"),
    )
