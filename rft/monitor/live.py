"""The monitor's two ways to run: one snapshot, or a screen that is drawn again when something is new."""

import os
import re
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from rft.errors import RftError
from rft.monitor import source
from rft.monitor.diagnosing import Diagnosing
from rft.monitor.keys import Keys
from rft.monitor.machine import Gpus, disks
from rft.monitor.screen import View, draw
from rft.monitor.state import Follow

REDRAW_S = 10.0  # without news: the ages on the screen
DRAW_SHARE = 0.01  # of a core: news that come faster wait for their turn, never longer than without news
DISKS_EVERY_S = 30.0
GPU_WAIT_S = 5.0  # of a snapshot, for nvidia-smi


class Monitor:
    """A run and what is shown beside it. While `last` names no run, there is nothing but a line that says so."""

    def __init__(self, args, console: Console):
        self.args, self.console = args, console
        self.follow: Follow | None = None
        self.gpus, self.diagnosing = Gpus(), Diagnosing()
        encoding = (console.encoding or "").lower().replace("-", "")
        self.view = View(everything=args.all, ascii_only=args.ascii or not encoding.startswith("utf"))
        self._disks_at = -DISKS_EVERY_S
        self._open()

    def _open(self) -> None:
        found = source.open_run(self.args.run)
        self.follow = Follow(found) if found else None

    def poll(self, wait: bool = False) -> bool:
        """Look at everything; True if the screen has to be drawn. wait: for the answers of the slow questions."""
        if self.follow is None:
            self._open()
            if self.follow is None:
                return False
        news = self.follow.poll()
        if self.follow.source.here():
            self.gpus.poll(GPU_WAIT_S if wait else 0.0)
        if not self.args.no_diagnosis:
            self.diagnosing.poll(self.follow, wait)
        now = time.monotonic()
        if now - self._disks_at >= DISKS_EVERY_S:
            self._disks_at = now
            where = self.follow.source
            named = {"metrics": where.metrics, "samples": where.samples, "ckpt": where.ckpt, "run": where.run_dir}
            self.view.disks = disks({"this copy": where.run_dir} if where.copied else named)
        before = (self.view.gpus, self.view.gpu_error, self.view.diagnosis)
        after = (self.gpus.devices, self.gpus.error, self.diagnosing.lines)
        self.view.gpus, self.view.gpu_error, self.view.diagnosis = after
        return news or before != after

    def lines(self, height: int | None) -> list[Text]:
        if self.follow is None:
            return [Text("no run yet: start one with bash train_grpo.sh")]
        return draw(self.follow, self.view, self.console.width, height)


def once(args, console: Console) -> int:
    """One snapshot of everything, with the diagnosis."""
    monitor = Monitor(args, console)
    monitor.poll(wait=True)
    for line in monitor.lines(None):
        if console.is_terminal:
            console.print(line, no_wrap=True, crop=True)
        else:
            console.file.write(line.plain.rstrip() + "\n")
    if args.svg:
        _write_svg(Path(args.svg), console)
    else:
        console.file.flush()
    return 0


def _write_svg(path: Path, console: Console) -> None:
    """The recorded console as SVG, in the viewer's own monospaced font; whole or not at all."""
    from rich._export_format import CONSOLE_SVG_FORMAT

    form = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)  # it would fetch one
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(console.export_svg(title="bash monitor.sh", code_format=form))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as err:
        part.unlink(missing_ok=True)
        raise RftError(f"--svg {path}: {err.strerror}; name a file in a folder that is there") from err


def pause_s(news: bool, cost_s: float) -> float:
    """Seconds from one drawing to the next, of which the last took cost_s of CPU time."""
    return min(cost_s / DRAW_SHARE, REDRAW_S) if news else REDRAW_S


def watch(args, console: Console) -> int:
    """The screen, until q, Ctrl-C or the terminal's end."""
    monitor = Monitor(args, console)
    drawn_at, drawn_size, news, cost = 0.0, None, False, 0.0
    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        while True:
            news, now = monitor.poll() or news, time.monotonic()
            size = console.size  # before it is drawn: a resize meanwhile is seen in the next round
            if now - drawn_at >= pause_s(news, cost) or size != drawn_size:
                began = time.thread_time()
                live.update(Group(*monitor.lines(size.height)), refresh=True)
                drawn_at, drawn_size, news, cost = now, size, False, time.thread_time() - began
            pressed = keys.wait(args.every)
            if any(key in ("q", "Q", "escape", "eof") for key in pressed):
                return 0
            if "a" in pressed:
                monitor.view.everything = not monitor.view.everything
                drawn_size = None
