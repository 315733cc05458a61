"""The live screen on a pseudo-terminal: it follows, obeys keys, gives the terminal back, survives its run."""

import io
import os
import re
import signal
import sys
import termios
import time
from argparse import Namespace
from pathlib import Path

import pytest
from monitor_kit import make_run, train_line, tree, write
from rich.console import Console, ConsoleDimensions
from terminal_kit import Terminal

from rft import metrics_file
from rft.monitor import keys

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def start():
    running: list[Terminal] = []

    def begin(*arguments: str, command: list[str] | None = None, **kw) -> Terminal:
        usual = ["bash", str(ROOT / "monitor.sh"), *arguments, "--every", "0.1", "--no-diagnosis"]
        running.append(Terminal(command or usual, **kw))
        return running[-1]

    yield begin
    for terminal in running:
        if terminal.status is None:
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.end()


def add(folder: Path, *records: dict) -> None:
    with open(folder / "metrics" / "training_metrics.jsonl", "ab") as file:
        file.writelines(map(metrics_file.line, records))


def test_it_follows_a_run_from_before_its_first_step_to_its_end(tmp_path, start):
    folder = make_run(tmp_path / "r", 0)
    terminal = start(str(folder))
    terminal.wait_for(r"starting")
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(1, reward_mean=0.123, at=time.time())])
    terminal.wait_for(r"0\.123")
    add(folder, train_line(2, reward_mean=0.456, at=time.time()))
    terminal.wait_for(r"0\.456")
    os.truncate(folder / "metrics" / "training_metrics.jsonl", 0)
    add(folder, train_line(3, reward_mean=0.789, at=time.time()))
    terminal.wait_for(r"0\.789")
    os.rename(folder / "metrics" / "training_metrics.jsonl", folder / "metrics" / "old.jsonl")
    add(folder, train_line(4, reward_mean=0.555, at=time.time()))
    terminal.wait_for(r"0\.555")
    make_run(folder, 0, status="failed", error="the engine is gone")
    add(folder, train_line(5, at=time.time()))
    terminal.wait_for(r"failed[\s\S]*the engine is gone")
    before = tree(folder)
    terminal.press("q")
    assert terminal.end() == 0
    assert tree(folder) == before


def test_a_run_whose_launcher_was_killed(tmp_path, start):
    folder = make_run(tmp_path / "r", 3)
    terminal = start(str(folder))
    terminal.wait_for(r"running")
    make_run(folder, 0, pid_started=1)
    add(folder, train_line(4, at=time.time()))
    terminal.wait_for(r"died[\s\S]*its launcher is gone")


def test_last_waits_for_the_first_run(tmp_path, start):
    terminal = start(RFT_RUNS_DIR=str(tmp_path))
    terminal.wait_for("no run yet")
    make_run(tmp_path / "first-run", 2)
    terminal.wait_for(r"first-run[\s\S]*reward_mean")


def test_keys_and_size(tmp_path, start):
    code = "import sys; from rft import cli; from rft.monitor import live; live.REDRAW_S = 1e9; cli.main(sys.argv[1:])"
    folder = make_run(tmp_path / "r", 3)
    arguments = ["monitor", str(folder), "--every", "0.1", "--no-diagnosis"]
    terminal = start(command=[sys.executable, "-c", code, *arguments], rows=24)  # drawn again for news alone
    terminal.wait_for(r"reward_mean")
    terminal.press("a")
    terminal.wait_for(r"reward_mean")
    terminal.forget()
    terminal.resize(60, 132)
    assert re.search(r"nat/tok", terminal.wait_for(r"Tier 3"))  # units come with the width
    terminal.press("\x1b")
    assert terminal.end() == 0


def test_a_resize_while_the_screen_is_drawn_is_not_lost(tmp_path, monkeypatch):
    from rft.monitor import live

    sizes, heights, original = [ConsoleDimensions(80, 24)], [], live.Monitor.lines

    class Resized(Console):
        size = property(lambda self: sizes[-1])

    def lines(monitor, height):
        heights.append(height)
        sizes.append(ConsoleDimensions(132, 60))  # the terminal grows before the drawing is done
        return original(monitor, height)

    rounds = iter([[], [], ["q"]])
    monkeypatch.setattr(live.Monitor, "lines", lines)
    monkeypatch.setattr(live.Keys, "wait", lambda keys, seconds: next(rounds))
    monkeypatch.setattr(live, "REDRAW_S", 1e9)  # drawn again for news alone
    args = Namespace(run=str(make_run(tmp_path / "r", 3)), all=False, ascii=False, every=0.1, no_diagnosis=True)
    assert live.watch(args, Resized(file=io.StringIO(), force_terminal=True)) == 0
    assert heights == [24, 60]


@pytest.mark.parametrize("how", ["ctrl-c", "q", "kill"])
def test_the_terminal_is_given_back(tmp_path, start, how):
    """Echo and line mode are as before; the alternate screen is left, the cursor shown."""
    before = tmp_path / "before"
    run = f'(echo $BASHPID > {before}.pid; exec bash {ROOT}/monitor.sh "$0" --no-diagnosis)'
    script = f"stty -a > {before}; {run}; echo status $?; stty -a > {before}.after"
    folder = make_run(tmp_path / "r", 3)
    terminal = start(command=["bash", "-c", script, str(folder)])
    terminal.wait_for(r"reward_mean")
    if how == "kill":
        os.kill(int(Path(f"{before}.pid").read_text()), signal.SIGTERM)
    else:
        terminal.press({"ctrl-c": "\x03", "q": "q"}[how])
    terminal.wait_for({"ctrl-c": r"status 130\r", "q": r"status 0\r", "kill": r"status 143\r"}[how])
    assert terminal.end() == 0
    assert "\x1b[?1049l" in terminal.seen and "\x1b[?25h" in terminal.seen and "Traceback" not in terminal.seen
    assert Path(f"{before}.after").read_text() == before.read_text()


def test_no_color_is_no_colour(tmp_path, start):
    terminal = start(str(make_run(tmp_path / "r", 3)), "--no-color")
    assert not re.search(r"\x1b\[[\d;]*(3[0-7]|4[0-7]|9[0-7])m", terminal.wait_for(r"response_length_mean"))
    terminal = start(str(make_run(tmp_path / "s", 3)))
    assert re.search(r"\x1b\[[\d;]*3[0-7]m", terminal.wait_for(r"response_length_mean"))


def test_a_dumb_terminal_gets_a_snapshot(tmp_path, start):
    terminal = start(str(make_run(tmp_path / "r", 3)), TERM="dumb")
    assert terminal.end() == 0 and "reward_mean" in terminal.seen and "\x1b" not in terminal.seen


def test_key_names():
    assert keys.names("a\x1b[A\x1bOB\x1b[6~\r\x7f\t\x1b") == [
        "a",
        "up",
        "down",
        "pagedown",
        "enter",
        "backspace",
        "tab",
        "escape",
    ]
    assert keys.names("\x1b[1;5Cx\x1b[99~é") == ["x", "é"]


def test_a_key_works_again_after_a_stop(tmp_path, start):
    """After Ctrl-Z and fg the shell has put the terminal into line mode."""
    pid = tmp_path / "pid"
    run = f'(echo $BASHPID > {pid}; exec bash {ROOT}/monitor.sh "$0" --every 0.1 --no-diagnosis)'
    terminal = start(command=["bash", "-c", run, str(make_run(tmp_path / "r", 3))])
    terminal.wait_for(r"reward_mean")
    number = int(pid.read_text())
    os.kill(number, signal.SIGSTOP)
    mode = termios.tcgetattr(terminal.fd)
    mode[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(terminal.fd, termios.TCSANOW, mode)
    os.kill(number, signal.SIGCONT)
    while termios.tcgetattr(terminal.fd)[3] & termios.ICANON:
        time.sleep(0.01)
    terminal.press("q")
    assert terminal.end() == 0


def test_news_wait_for_their_turn_but_no_longer_than_a_redraw_without_them():
    from rft.monitor import live

    assert live.pause_s(news=True, cost_s=0.01) == pytest.approx(0.01 / live.DRAW_SHARE)
    assert live.pause_s(news=True, cost_s=3.0) == live.pause_s(news=False, cost_s=3.0) == live.REDRAW_S
