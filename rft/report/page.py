"""The HTML page that reports are written into: one file, no script, no address outside it, light and dark.

A content security policy forbids everything but the page's own style, since the texts in it are written by a model.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError
from rft.report.svg import COLOURS, text

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LIGHT = {
    "bg": "#fbfbfa", "fg": "#1d1f21", "dim": "#5f666d", "rule": "#d9dcdf", "card": "#ffffff", "band": "#dcefe0",
    "bad": "#a3231f", "good": "#1f6b3a", "heat": "0,80,150",
}  # fmt: skip
_DARK = {
    "bg": "#14171a", "fg": "#e6e8ea", "dim": "#9aa3ab", "rule": "#343a40", "card": "#1b1f23", "band": "#1d3a2a",
    "bad": "#ff8a80", "good": "#7fd6a0", "heat": "130,195,255",
}  # fmt: skip
# Okabe and Ito's colours, told apart with any colour vision; the dark ones are the same, lighter
_LINES = ("#0072b2", "#d55e00", "#008a67", "#b0568f", "#a87400", "#3b8fc4", "#777777", "#8a5a2b")
_LINES_DARK = ("#63b8f0", "#ff9550", "#43cba4", "#e39cc8", "#e8bb45", "#9bd0f5", "#aaaaaa", "#cfa27a")
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "4 4", "1 3")


def _variables(palette: dict[str, str], lines: tuple[str, ...]) -> str:
    pairs = [f"--{name}:{value}" for name, value in palette.items()]
    return ";".join(pairs + [f"--s{i}:{colour}" for i, colour in enumerate(lines)])


def style() -> str:
    rules = [
        f":root{{color-scheme:light dark;{_variables(_LIGHT, _LINES)}}}",
        f"@media(prefers-color-scheme:dark){{:root{{{_variables(_DARK, _LINES_DARK)}}}}}",
        "*{box-sizing:border-box}",
        "body{margin:0 auto;max-width:1280px;padding:16px;background:var(--bg);color:var(--fg);"
        "font:15px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}",
        "h1{font-size:1.5rem;margin:.2em 0}h2{font-size:1.2rem;margin:2em 0 .6em;border-bottom:1px solid var(--rule)}",
        "h3{font-size:1rem;margin:1.2em 0 .4em}a{color:var(--s0)}nav a{margin-right:.9em;white-space:nowrap}",
        ".dim,figcaption small{color:var(--dim)}.bad{color:var(--bad)}.good{color:var(--good)}",
        ".grid-of{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));"
        "align-items:start}",
        "figure{margin:0;padding:8px;background:var(--card);min-width:0;"
        "border:1px solid var(--rule);border-radius:6px}",
        "figcaption{font-size:.86rem;margin-bottom:4px}figcaption b{font-weight:600}svg{display:block;width:100%}",
        "svg text{font:11px system-ui,sans-serif;fill:var(--dim)}.grid{stroke:var(--rule)}.band{fill:var(--band)}",
        ".mark{stroke:var(--bad);stroke-dasharray:3 3;opacity:.7}",
        ".line{fill:none;stroke-width:1.6;stroke-linejoin:round}.whisker{stroke-width:1.4}",
        ".scroll{overflow-x:auto;max-height:70vh;overflow-y:auto}table{border-collapse:collapse;font-size:.86rem}",
        "th,td{padding:3px 9px;border-bottom:1px solid var(--rule);text-align:left;vertical-align:top;"
        "overflow-wrap:break-word}"
        "th{position:sticky;top:0;background:var(--bg)}td.n{text-align:right;font-variant-numeric:tabular-nums}",
        "pre{white-space:pre-wrap;font:12.5px/1.45 ui-monospace,monospace;background:var(--card);padding:8px;"
        "margin:4px 0;border:1px solid var(--rule);border-radius:6px;max-height:24em;overflow:auto}",
        "details{margin:6px 0}summary{cursor:pointer}dl{display:grid;grid-template-columns:max-content 1fr;"
        "gap:2px 14px;margin:0}dt{color:var(--dim)}dd{margin:0;min-width:0}.label,.key{display:inline-block}"
        ".key{width:12px;height:12px;margin:0 5px 0 12px;border-radius:2px;vertical-align:-1px}",
        "@media(max-width:520px){body{padding:10px}dl{grid-template-columns:1fr}dt{margin-top:6px}}",
        "@media print{.scroll,pre{max-height:none}}",
    ]
    for i in range(COLOURS):
        dash = f";stroke-dasharray:{_DASHES[i]}" if _DASHES[i] else ""
        rules.append(
            f".line.s{i}{{stroke:var(--s{i}){dash}}}.whisker.s{i}{{stroke:var(--s{i})}}.dot.s{i}{{fill:var(--s{i})}}"
        )
    rules += [f".a{i}{{fill:var(--s{i});opacity:.75}}.k{i}{{background:var(--s{i})}}" for i in range(len(_LINES))]
    rules += [f".h{i}{{fill:rgba(var(--heat),{0.06 + 0.94 * i / 8:.2f})}}" for i in range(9)]
    return "".join(rules)


@dataclass(frozen=True)
class Section:
    """body is HTML."""

    name: str
    title: str
    body: str


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """title, subtitle: plain text."""
    links = "".join(f'<a href="#{s.name}">{text(s.title)}</a>' for s in sections)
    body = "".join(f'<section id="{s.name}"><h2>{text(s.title)}</h2>{s.body}</section>' for s in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{style()}</style></head><body>"
        f'<h1>{text(title)}</h1><p class="dim">{text(subtitle)}</p><nav>{links}</nav>{body}</body></html>\n'
    )


def figure(caption: str, chart: str | None, note: str = "") -> str:
    """A chart with its caption (plain text); nothing where there is no chart."""
    if chart is None:
        return ""
    small = f" <small>{text(note)}</small>" if note else ""
    return f"<figure><figcaption><b>{text(caption)}</b>{small}</figcaption>{chart}</figure>"


def grid(figures: Sequence[str]) -> str:
    return f'<div class="grid-of">{"".join(figures)}</div>' if any(figures) else ""


def keys(labels: Sequence[str]) -> str:
    """A legend: one swatch a label, in the order of the series."""
    swatches = (
        f'<span class="label"><span class="key k{i % len(_LINES)}"></span>{text(label)}</span>'
        for i, label in enumerate(labels)
    )
    return f'<p class="dim">{" ".join(swatches)}</p>'


def table(head: Sequence[str], rows: Sequence[Sequence], numeric: Sequence[int] = ()) -> str:
    """Plain text cells; `numeric` columns are aligned right."""
    cells = "".join(f"<th>{text(cell)}</th>" for cell in head)
    lines = []
    for row in rows:
        tags = (f'<td class="n">{text(c)}</td>' if i in numeric else f"<td>{text(c)}</td>" for i, c in enumerate(row))
        lines.append(f"<tr>{''.join(tags)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs) + "</dl>"


def fold(summary: str, body: str) -> str:
    """body is HTML, shown on a click (no script needed)."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def write(path: Path, content: str) -> Path:
    """The whole file or none; RftError where it cannot be written."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "w", encoding="utf-8", errors="replace", newline="\n") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise RftError(f"{path} cannot be written ({err.strerror}): free space or choose another --out") from err
    return path
