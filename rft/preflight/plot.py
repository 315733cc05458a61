"""A curve as text: what ``rft preflight-lr`` draws under its table. Pure."""

from collections.abc import Callable

HEIGHT, WIDTH = 9, 64
MARK, EMPTY = "•", " "


def curve(value: Callable[[int], float], last: int, top: float, label: Callable[[float], str]) -> list[str]:
    """Lines of a plot of `value` at 1..last, from 0 to `top`, WIDTH columns of equal parts of the way.

    label  what stands at the left of 0, of half of `top` and of `top`
    """
    columns = min(WIDTH, last)
    steps = [1 + round(i * (last - 1) / max(columns - 1, 1)) for i in range(columns)]
    rows = [round(min(max(value(step) / top, 0.0), 1.0) * (HEIGHT - 1)) if top > 0 else 0 for step in steps]
    names = {HEIGHT - 1: label(top), (HEIGHT - 1) // 2: label(top / 2), 0: label(0.0)}
    margin = max(map(len, names.values()))
    lines = []
    for row in range(HEIGHT - 1, -1, -1):
        marks = "".join(MARK if found == row else EMPTY for found in rows)
        lines.append(f"{names.get(row, ''):>{margin}} │{marks}".rstrip())
    return [*lines, f"{'':>{margin}} └{'─' * columns}"]


def axis(name: str, last: int, margin: int, columns: int) -> str:
    """The numbers 1, the middle and `last` under a plot's left, middle and right, then the name."""
    left, middle, right = "1", str((1 + last) // 2), str(last)
    row = [" "] * (columns + len(right))
    for text, at in ((left, 0), (middle, columns // 2 - len(middle) // 2), (right, columns - len(right))):
        at = max(at, 0)
        if all(char == " " for char in row[max(at - 1, 0) : at + len(text) + 1]) or at == 0:
            row[at : at + len(text)] = text
    return " " * margin + "".join(row).rstrip() + f"  {name}"
