"""Draws a run: lines of styled text no wider than the terminal, as many as it has rows.

Nothing is said by colour alone: a figure outside its range has a ``!`` before it. Text from files is cleaned of what
could steer the terminal. Called by `cli` in the monitor's thread; draws from memory.
"""

import time
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from rft.monitor import definitions, figures
from rft.monitor.history import number
from rft.monitor.machine import Disk, Gpu, gpu_line
from rft.monitor.source import table
from rft.monitor.state import Follow
from rft.monitor.text import clean, figure, size, sparkline
from rft.runs import duration

_PHASE_MARKS = {
    "generate": ("G", "black on green"),
    "reward": ("R", "black on yellow"),
    "old_logprob": ("L", "black on cyan"),
    "train": ("T", "white on blue"),
    "sync": ("S", "white on magenta"),
    "save": ("V", "black on bright_blue"),
    "eval": ("E", "black on bright_green"),
    "other": ("O", "black on white"),
}
LABEL = 12  # columns of the labels on the left


@dataclass
class View:
    """What is drawn beside the run itself."""

    gpus: list[Gpu] = field(default_factory=list)
    gpu_error: str | None = None
    disks: list[Disk] = field(default_factory=list)
    diagnosis: list[str] = field(default_factory=list)
    everything: bool = False
    ascii_only: bool = False


def draw(follow: Follow, view: View, width: int, height: int | None = None) -> list[Text]:
    """Lines of at most `width` columns; at most `height` of them, all where it is None."""
    above = [*_head(follow, width, view), *_diagnosis(view, width)]
    below = [
        *_evaluations(follow, width, view),
        *_certificate(follow, width),
        *_spikes(follow, width),
        *_machine(follow, view, width),
        *_troubles(follow, width),
    ]
    room = None if height is None else height - len(above) - len(below)
    lines = [*above, *figures.lines(follow.history, view.everything, view.ascii_only, width, room), *below]
    return [_cut(line, width, view.ascii_only) for line in lines[:height]]


def _cut(line: Text, width: int, ascii_only: bool) -> Text:
    line.truncate(width, overflow="crop")
    if ascii_only:
        plain = line.plain.translate(_ASCII).encode("ascii", "replace").decode()
        if len(plain) == len(line.plain):
            line = Text(plain, spans=line.spans)
        else:
            line = Text(plain)
    return line


_ASCII = str.maketrans({"≤": "<", "≥": ">", "·": "-", "°": " ", "±": "~", "…": ".", "–": "-", "━": "=", "─": "-"})


def labelled(label: str, parts: list[Text | str], width: int, style: str = "") -> list[Text]:
    """``label      part  part``, wrapped between parts, indented below the first."""
    lines, line = [], Text.assemble((f"{label:<{LABEL}}", "bold"))
    used = LABEL
    for part in parts:
        piece = part if isinstance(part, Text) else Text(part, style=style)
        if used > LABEL and used + 2 + piece.cell_len > width:
            lines.append(line)
            line, used = Text(" " * LABEL), LABEL
        if used > LABEL:
            line.append("  ")
            used += 2
        line.append_text(piece)
        used += piece.cell_len
    return [*lines, line]


def folded(label: str, text: str, width: int, style: str = "") -> list[Text]:
    """A sentence behind a label, folded at words, at most three lines."""
    room, lines, line = max(10, width - LABEL), [], ""
    for word in text.split():
        while cell_len(word) > room:
            lines, word = [*lines, *([line] if line else []), set_cell_size(word, room)], word[room:]
            line = ""
        if line and cell_len(line) + 1 + cell_len(word) > room:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    lines = [*lines, line][:3]
    heads = [f"{label:<{LABEL}}", *[" " * LABEL] * len(lines)]
    return [Text.assemble((head, "bold"), (part, style)) for head, part in zip(heads, lines, strict=False)]


def age(seconds: float) -> str:
    return f"{duration(seconds)} ago"


def _head(follow: Follow, width: int, view: View) -> list[Text]:
    status, style, note = state_words(follow)
    clock = time.strftime("%H:%M:%S")
    left = f"{clean(follow.source.name, 60)}  "
    title = Text.assemble((left, "bold"), (status, style))
    title.append(" " * max(1, width - title.cell_len - len(clock)) + clock, style="dim")
    lines = [title]
    if note:
        lines += folded("", note, width, style)
    step, total = follow.step, follow.total_steps
    if step is None:
        return lines
    pace, eta, since = follow.history.seconds_per_step(), follow.history.eta_s(), follow.last_line_age_s()
    parts: list[Text | str] = [f"{step}/{total}" if total else str(step)]
    if total:
        share, cells = min(1.0, max(0.0, step / total)), 18
        full = round(share * cells)
        parts.append(Text.assemble(("━" * full, "green"), ("·" * (cells - full), "dim"), f" {share:.0%}"))
    parts += [f"{figure(pace)} s/step"] if pace is not None else []
    parts += [f"ETA {duration(eta)}"] if eta and status.startswith("running") else []
    parts += [f"last line {age(since)}"] if since is not None else []
    lines += labelled("step", parts, width)
    rates = [f"{figure(rate)} tokens/s {name}" for name, rate in definitions.throughput(follow.history).items()]
    last = follow.history.last
    for name, words in (("host_rss_bytes", "host"), ("gpu_allocated_bytes", "GPU"), ("gpu_peak_bytes", "GPU peak")):
        if (count := number(last.get(name))) is not None and count > 0:
            rates.append(f"{words} {size(count)}")
    if rates:
        lines += labelled("throughput", rates, width)
    return lines + _phases(follow, width)


def state_words(follow: Follow) -> tuple[str, str, str]:
    """(status, style, a sentence or nothing): what is known of the run, the worst first."""
    status, record = follow.status(), follow.source.record()
    error = clean(record.get("error") or "")
    since, pace = follow.last_line_age_s(), follow.history.seconds_per_step()
    log = follow.source.log_state()
    wrote = f"log.txt written {age(log[0])}: {clean(log[1], 160)}" if log else "no log.txt yet"
    when = f"last line {age(since)}" if since is not None else "it wrote no step"
    if status == "died":
        return "died", "bold red", f"its launcher is gone without having said so; {when}; {wrote}"
    if status == "failed":
        return "failed", "bold red", error or wrote
    if status == "interrupted":
        return "interrupted", "yellow", error
    if status == "finished":
        return "finished", "green", ""
    if since is None:
        return ("starting" if status != "?" else "not started"), "cyan", f"no step yet; {wrote}"
    if follow.quiet():
        usual = f", a step takes {duration(pace)}" if pace is not None else ""
        word = "running?" if status == "running?" else "running, quiet" if status == "running" else "quiet"
        return word, "bold yellow", f"{when}{usual}; {wrote}"
    return ("running" if status.startswith("running") else "unknown"), "green", ""


def _phases(follow: Follow, width: int) -> list[Text]:
    found = definitions.phases(follow.history)
    if not found:
        return []
    bar, room, done, drawn = Text(), width - LABEL, 0.0, 0
    for phase, _, share in found:
        mark, style = _PHASE_MARKS[phase]
        done += share
        bar.append(mark * (round(done * room) - drawn), style=style)
        drawn = round(done * room)
    parts = []
    for phase, seconds, share in found:
        if share >= 0.005:
            mark, style = _PHASE_MARKS[phase]
            parts.append(Text.assemble((mark, style), f" {phase} {seconds:.1f} s {share:.0%}"))
    return [*labelled("phases", [bar], width), *labelled("", parts, width)]


def _evaluations(follow: Follow, width: int, view: View) -> list[Text]:
    lines: list[Text] = []
    for evaluation in follow.evaluations:
        text = f"{clean(evaluation.mode, 24)} {figure(evaluation.accuracy)}"
        if evaluation.low is not None:
            text += f" [{evaluation.low:.3f}, {evaluation.high:.3f}]"
        parts: list[Text | str] = [Text(text), f"step {evaluation.step}"]
        if evaluation.change is not None:
            parts.append(f"{evaluation.change:+.3f} since step {evaluation.since}")
            parts.append(Text(sparkline(evaluation.values, min(10, len(evaluation.values)), view.ascii_only), "cyan"))
        if evaluation.n_problems:
            name = clean(evaluation.dataset.rpartition("/")[2], 30)
            parts.append(f"{evaluation.n_problems} problems x {evaluation.n or 1} {name}".rstrip())
        lines += labelled("" if lines else "evaluation", parts, width)
    return lines


def _certificate(follow: Follow, width: int) -> list[Text]:
    found = follow.certificate()
    if found is None:
        return []
    line = found.line
    if found.fault:
        return folded("certificate", f"! sync {figure(line.get('version'))}: {clean(found.fault)}", width, "bold red")
    engines = f"{found.engines} engine{'s' if found.engines > 1 else ''}"
    parts = [Text(f"sync {figure(line.get('version'))}: {found.ranks} ranks of {engines} hold it", "green")]
    seconds = number(line.get("sync_s"))
    rest = [f"{seconds * 1000:.3g} ms"] if seconds is not None else []
    canary = table(line.get("canary"))
    if canary:
        served = number(canary.get("served"))
        rest.append(f"canary {figure(canary.get('dlogp_mean'))}, worst {figure(canary.get('dlogp_max'))}")
        rest += [f"served {served * 100:.3g}%"] if served is not None else []
    at = number(line.get("time"))
    rest += [age(max(0.0, time.time() - at))] if at is not None else []
    return labelled("certificate", [*parts, *rest], width)


def _spikes(follow: Follow, width: int) -> list[Text]:
    found = follow.spikes()
    if found is None:
        return labelled("spikes", ["none"], width) if follow.step is not None else []
    last, more = found.last, "more than " if found.more else ""
    steps = f"{found.steps} optimizer step{'s' if found.steps > 1 else ''}"
    text = f"! {more}{steps}; last: {figure(last.get('optimizer_step'))}, grad_norm "
    text += "not finite" if last.get("grad_norm") is None else figure(last["grad_norm"])
    text += f", {clean(last['action'], 20)}" if last.get("action") else ""
    at = number(last.get("time"))
    text += f", {age(max(0.0, time.time() - at))}" if at is not None else ""
    return folded("spikes", text, width, "yellow")


def _machine(follow: Follow, view: View, width: int) -> list[Text]:
    lines = []
    if view.gpus:
        lines += labelled("GPU", gpu_line(view.gpus).split("  "), width)
    elif view.gpu_error:
        lines += folded("GPU", clean(view.gpu_error, 160), width, "yellow")
    parts: list[Text | str] = []
    for disk in view.disks:
        text = f"{'! ' if disk.low else ''}{size(disk.free)} of {size(disk.total)} free ({', '.join(disk.names)})"
        parts.append(Text(text, style="bold red" if disk.low else ""))
    return lines + (labelled("disk", parts, width) if parts else [])


def _diagnosis(view: View, width: int) -> list[Text]:
    lines: list[Text] = []
    for text in view.diagnosis:
        lines += folded("" if lines else "diagnosis", clean(text), width)
    return lines


def _troubles(follow: Follow, width: int) -> list[Text]:
    lines: list[Text] = []
    for text in follow.troubles():
        lines += folded("" if lines else "files", clean(text), width, "yellow")
    return lines
