"""What the monitor draws: widths and heights, no colour, every state of a run, foreign text, --once and --svg."""

import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest
from monitor_kit import eval_line, make_run, sync_line, train_line, tree, write

from rft import cli, metrics, metrics_file, runs
from rft.monitor import definitions, diagnosing, machine
from rft.monitor.definitions import Row
from rft.monitor.machine import Disk, Gpu
from rft.monitor.screen import View, draw
from rft.monitor.source import open_run
from rft.monitor.state import Follow
from rft.monitor.text import ASCII_BLOCKS, BLOCKS, clean, figure, sparkline

ROOT = Path(__file__).resolve().parent.parent
FULL = View(
    gpus=[Gpu(0, 97, 70_000, 81_559, 66), Gpu(1, 12, 60_000, 81_559, 71)],
    disks=[Disk(("metrics", "ckpt"), 5 * 10**9, 10**12)],
    diagnosis=["entropy collapses (entropy_collapse)", "-> raise the temperature"],
)


@pytest.fixture
def run(tmp_path):
    """A run in every respect: figures, evaluations, certificate, spikes."""
    folder = make_run(tmp_path / "tiny-1", 12)
    path = folder / "metrics" / "training_metrics.jsonl"
    records = [eval_line(0, 0.4), *(eval_line(0, 0.3, f"sampling_pass@{n}", n) for n in (8, 16))]
    last = runs.metrics_lines(path)[-1]["time"]
    with open(path, "ab") as file:
        file.writelines(map(metrics_file.line, [*records, eval_line(12, 0.5), train_line(13, at=last + 4)]))
    write(folder / "metrics" / "sync_log.jsonl", [sync_line(14)])
    write(
        folder / "metrics" / "spike_log.jsonl",
        [{"optimizer_step": 7, "rank": 0, "grad_norm": 812.0, "time": time.time(), "action": "skip"}],
    )
    return folder


def drawn(folder: Path, view: View | None = None, width: int = 80, height: int | None = None) -> str:
    follow = Follow(open_run(str(folder)))
    follow.poll()
    return "\n".join(line.plain.rstrip() for line in draw(follow, view or View(), width, height))


def once(*arguments: str, **env: str) -> subprocess.CompletedProcess:
    """monitor.sh in a process of its own; without the diagnosis, whose libraries take a second to load."""
    command = ["bash", str(ROOT / "monitor.sh"), *arguments, "--no-diagnosis"]
    environment = {**os.environ, "PYTHON": sys.executable, **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_everything_that_the_screen_promises(run):
    text = drawn(run, FULL)
    for part in (
        r"^tiny-1  running +\d\d:\d\d:\d\d$",
        r"step +13/40  ━+·+ 32%  4 s/step  ETA 1m48s  last line \ds ago",
        r"2,000 tokens/s generated  500 tokens/s trained",
        r"G generate 1.0 s 25%  L old_logprob 0.5 s 12%  T train 2.0 s 50%",
        r"^Tier 1: ground truth\n  reward_mean +0.53 +0.47 ▁",
        r"^Tier 2: stability\n  grad_norm .+ 1e-09 to 50$",
        r"^Tier 3: collapse\n",
        r"^evaluation  greedy_pass@1 0.5 \[0.404, 0.596\]  step 12  \+0.100 since step 0",
        r"sampling_pass@16 0.3 \[0.\d+, 0.\d+\]  step 0",
        r"^certificate sync 14: 2 ranks of 1 engine hold it  14 ms",
        r"canary 0.0012, worst 0.04  served 99%",
        r"^spikes +! 1 optimizer step; last: 7, grad_norm 812, skip, \ds ago",
        r"^GPU +2 GPUs  use 12-97 %  memory 58.6-68.4 of 79.6 GiB  up to 71 °C",
        r"^disk +! 4.7 GiB of 931.3 GiB free \(metrics, ckpt\)",
        r"^diagnosis   entropy collapses \(entropy_collapse\)\n +-> raise the temperature",
    ):
        assert re.search(part, text, re.MULTILINE), f"{part}\n{text}"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 250])
@pytest.mark.parametrize("everything", [False, True])
def test_no_line_is_wider_than_the_terminal(run, width, everything):
    view = View(**{**vars(FULL), "everything": everything})
    text = drawn(run, view, width)
    assert max(map(len, text.split("\n"))) <= width
    assert "reward_mean" in text and "Tier 3" in text


@pytest.mark.parametrize("height", [1, 3, 10, 20, 24, 30, 50])
def test_no_screen_is_higher_than_the_terminal(run, height):
    assert len(drawn(run, FULL, 80, height).split("\n")) <= height


def test_a_low_terminal_keeps_what_is_wrong(tmp_path):
    folder = make_run(tmp_path / "r", 0)
    figures = dict.fromkeys(definitions.ESSENTIAL, 0.5) | {"entropy_mean": 1.5, "grad_norm": 1.0}
    bad = {"log_ratio_min": -9.0, "canary_served": 0.1}
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(s, **figures, **bad) for s in (1, 2)])
    text = drawn(folder, View(diagnosis=["something"]), 80, 24)
    assert len(text.split("\n")) <= 24
    for name in (*bad, "reward_mean", "something", "spikes"):
        assert name in text
    assert "policy_loss" not in text and re.search(r"\d+ more figures, none outside", text)
    many = {m.name: m.healthy[1] + 1 for m in metrics.tier(2) if m.healthy and m.healthy[1] is not None}
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(1, **many)])
    assert re.search(
        r"^! \d+ more figures, \d+ outside their range: enlarge", drawn(folder, None, 80, 24), re.MULTILINE
    )


def test_a_figure_outside_its_range_is_marked_without_colour(run):
    with open(run / "metrics" / "training_metrics.jsonl", "ab") as file:
        file.write(metrics_file.line(train_line(14, at=time.time(), entropy_mean=0.2, on_policy_log_ratio_abs_max=0.1)))
    text = drawn(run)
    assert re.search(r"^! entropy_mean +0.2 ", text, re.MULTILINE)
    assert re.search(r"^! on_policy_log_ratio_abs_max +0.1 ", text, re.MULTILINE)  # shown for that reason alone
    assert re.search(r"^  grad_norm ", text, re.MULTILINE)


def test_ranges_and_units_are_those_of_the_definitions(run):
    for metric in (metrics.get("entropy_mean"), metrics.get("dlogp_abs_mean"), metrics.get("truncated")):
        assert re.search(
            rf"{metric.name} .*{re.escape(metric.range_text())} +{metric.unit}$", drawn(run, None, 120), re.M
        )


def test_parts_of_a_composed_reward_are_shown_with_all(run):
    with open(run / "metrics" / "training_metrics.jsonl", "ab") as file:
        file.write(metrics_file.line(train_line(14, **{"reward/exact": 0.25, "of_my_own": 3.0})))
    assert "reward/exact" not in drawn(run)
    assert re.search(r"^  reward/exact +0.25 +0.25 ", drawn(run, View(everything=True)), re.MULTILINE)


def test_null_is_shown_as_no_number(run):
    with open(run / "metrics" / "training_metrics.jsonl", "ab") as file:
        file.write(metrics_file.line(train_line(14, grad_norm=float("nan"))))
    assert re.search(r"grad_norm +- +0.07 ", drawn(run))


def test_ascii_alone(run):
    text = drawn(run, View(**{**vars(FULL), "ascii_only": True}))
    assert text.isascii() and "reward_mean" in text and "#" in text


def test_foreign_text_cannot_steer_the_terminal(tmp_path):
    evil = "\x1b[2J\x1b]0;owned\x07\u202eabc\r\n[bold red]x[/]\x9b31m\ud800"
    folder = make_run(tmp_path / "r", 2, status="failed", error=evil, id=evil)
    (folder / "log.txt").write_bytes(b"\x1b[2J hidden\x00\n")
    line = {**train_line(3), "event": "eval", "mode": evil, "dataset": evil, "accuracy": 0.5, "n_problems": 5}
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(1), line])
    write(folder / "metrics" / "sync_log.jsonl", [{**sync_line(1), "digests": [evil, "x"]}])
    done = once(str(folder), "--once", PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", done.stdout)
    assert "[bold red]x[/]" in done.stdout


@pytest.mark.parametrize(
    "record, wanted",
    [
        ({"status": "finished"}, ["finished"]),
        ({"status": "failed", "error": "engine 0 rank 1 holds digest x"}, ["failed", "engine 0 rank 1 holds"]),
        ({"status": "interrupted"}, ["interrupted"]),
        ({"pid_started": 1}, ["died", "its launcher is gone", "last line 0s ago"]),
        ({}, ["running"]),
    ],
)
def test_the_state_of_a_run(tmp_path, record, wanted):
    text = drawn(make_run(tmp_path / "r", 3, **record))
    assert all(part in text for part in wanted), text
    assert ("ETA" in text) == (record == {})


def test_a_run_that_has_not_started(tmp_path):
    folder = make_run(tmp_path / "r", 0)
    assert "no step yet; no log.txt yet" in " ".join(drawn(folder).split())
    (folder / "log.txt").write_text("Loading checkpoint shards\n\n")
    text = " ".join(drawn(folder).split())
    assert "starting" in text and "log.txt written 0s ago: Loading checkpoint shards" in text
    shutil.rmtree(folder / "metrics", ignore_errors=True)
    (folder / "run.json").unlink()
    assert "not started" in drawn(folder)


def test_a_run_that_is_quiet_says_for_how_long(tmp_path):
    folder = make_run(tmp_path / "r", 0)
    ago = time.time() - 725
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(s, at=ago - 40 + 4 * s) for s in range(1, 11)])
    text = " ".join(drawn(folder).split())
    assert "running, quiet" in text and "last line 12m05s ago, a step takes 4s" in text
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(s, at=ago - 4000 + 400 * s) for s in range(1, 11)])
    assert "quiet" not in drawn(folder)  # a step takes 400 s: nothing is wrong yet


def test_a_clock_that_goes_ahead_is_no_negative_age(tmp_path):
    folder = make_run(tmp_path / "r", 0)
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(1, at=time.time() + 1000)])
    assert "last line 0s ago" in drawn(folder)


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b'{"event": "tra', b"\x00" * 5000, b"[" * 200_000 + b"\n", b"{}\n" * 50]
)
@pytest.mark.parametrize("name", ["training_metrics.jsonl", "sync_log.jsonl", "spike_log.jsonl"])
def test_bad_files_give_an_answer(tmp_path, name, data):
    folder = make_run(tmp_path / "r", 3)
    (folder / "metrics" / name).write_bytes(data)
    text = drawn(folder, FULL)
    assert "running" in text or "starting" in text


@pytest.mark.parametrize("name", ["training_metrics.jsonl", "sync_log.jsonl", "spike_log.jsonl"])
def test_gigabytes_without_a_line_give_an_answer(tmp_path, name):
    """A file of 4 GB (sparse) whose end alone is a line; little of it is read, and less is kept."""
    folder = make_run(tmp_path / "r", 3)
    path = folder / "metrics" / name
    path.write_bytes(b"")
    os.truncate(path, 4_000_000_000)
    with open(path, "ab") as file:
        file.write(b"\n" + metrics_file.line({**train_line(77), **sync_line(5), "step": 77, "optimizer_step": 9}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = drawn(folder, FULL)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert {"t": "77/40", "s": "sync 5" if name[1] == "y" else "more than 1 optimizer step; last: 9"}[name[0]] in text


def test_strange_values_give_an_answer(tmp_path):
    """Every figure once as each kind of JSON value."""
    folder = make_run(tmp_path / "r", 0)
    names = [*metrics.METRICS, "event", "mode", "accuracy", "n", "n_problems", "dataset", "temperature", "version"]
    names += ["engines", "canary", "digests", "grad_norm", "optimizer_step", "total_steps"]
    for value in (None, "x", [], {}, -1, 0, 1e308, -1e308, 10**400, True, [{"ranks": 3}]):
        lines = [train_line(1), {**train_line(2), **dict.fromkeys(names, value), "step": 2}]
        lines += [{**train_line(3), **dict.fromkeys(names, value), "step": 3, "event": "train"}]
        lines += [{**dict.fromkeys(names, value), "step": 3, "event": "eval"}]
        for name in ("training_metrics.jsonl", "sync_log.jsonl", "spike_log.jsonl"):
            write(folder / "metrics" / name, lines)
        assert "r" in drawn(folder, View(everything=True))


def test_torn_lines_and_unreadable_files_are_told(run):
    with open(run / "metrics" / "training_metrics.jsonl", "ab") as file:
        file.write(b"torn\n")
    (run / "metrics" / "spike_log.jsonl").unlink()
    (run / "metrics" / "spike_log.jsonl").mkdir()
    text = " ".join(drawn(run).split())
    assert "training_metrics.jsonl: 1 torn or foreign line passed over" in text
    assert "cannot be read: not a plain file" in text


def test_a_certificate_with_a_fault_is_told(run):
    write(run / "metrics" / "sync_log.jsonl", [sync_line(14, ["aa" * 16, "cc" * 16])])
    assert re.search(r"^certificate ! sync 14: engine 0 rank 1 holds digest cccc", drawn(run), re.MULTILINE)


def test_nothing_is_written(run):
    before = tree(run)
    assert once(str(run), "--once").returncode == 0
    assert tree(run) == before


def test_once_is_plain_and_80_columns_into_a_pipe(run):
    done = once(str(run), "--once")
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    assert "reward_mean" in done.stdout
    piped = once(str(run)).stdout  # without --once too
    assert re.sub(r"\d+\w* ago|\d\d:\d\d:\d\d", "", piped) == re.sub(r"\d+\w* ago|\d\d:\d\d:\d\d", "", done.stdout)


def test_once_where_the_locale_knows_no_unicode(run):
    done = once(str(run), "--once", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii() and "reward_mean" in done.stdout


def test_no_run_yet_is_a_line(tmp_path):
    done = once("--once", RFT_RUNS_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "no run yet: start one with bash train_grpo.sh\n")


def test_wrong_arguments_are_one_line(tmp_path, capsys):
    for arguments in (
        ["absent"],
        ["--every", "0"],
        ["--width", "3"],
        [str(tmp_path), "--svg", str(tmp_path / "no/x.svg")],
    ):
        assert cli.main(["monitor", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1
    done = once(str(tmp_path), "--once", PYTHON=str(tmp_path / "no-python"))
    assert done.returncode == 2 and "bash setup.sh" in done.stderr


def test_svg(run, tmp_path):
    target = tmp_path / "monitor.svg"
    done = once(str(run), "--svg", str(target))
    assert done.returncode == 0, done.stderr
    assert "@font-face" not in target.read_text() and "url(http" not in target.read_text()  # nothing is fetched
    text = "".join(xml.etree.ElementTree.parse(target).getroot().itertext())
    assert "reward_mean" in text and "Tier\xa01:\xa0ground\xa0truth" in text
    assert [p.name for p in tmp_path.iterdir() if "svg" in p.name] == ["monitor.svg"]


def test_help_without_anything_heavy():
    code = """
import sys
for name in ("torch", "numpy", "scipy", "datasets", "rich"):
    sys.modules[name] = None
from rft import cli
cli.main(["monitor", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--once" in done.stdout
    assert (
        "--once" in subprocess.run(["bash", str(ROOT / "monitor.sh"), "--help"], capture_output=True, text=True).stdout
    )


def test_fitting_prefers_what_is_outside_then_the_essential():
    def row(name: str, state: str) -> Row:
        return Row(metrics.get(name), 1.0, 1.0, state, state)

    found = [
        row("policy_loss", "ok"),
        row("reward_mean", "ok"),
        row("seq_weight_ess", "low"),
        row("log_ratio_min", "ok"),
    ]
    names = [[r.metric.name for r in definitions.fitting(found, count)] for count in (1, 2, 3)]
    assert names == [
        ["seq_weight_ess"],
        ["reward_mean", "seq_weight_ess"],
        ["policy_loss", "reward_mean", "seq_weight_ess"],
    ]


def test_throughput_is_tokens_by_seconds_not_a_mean_of_rates(tmp_path):
    folder = make_run(tmp_path / "r", 0)
    slow = train_line(2, tokens_in_rollout=1000, generate_s=9.0, tokens_in_batch=None)
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(1), slow])
    follow = Follow(open_run(str(folder)))
    follow.poll()
    assert definitions.throughput(follow.history) == {"generated": 300.0, "trained": 500.0}


def test_sparkline():
    assert sparkline([(i, float(i)) for i in range(8)], 8) == BLOCKS
    assert sparkline([(i, float(i)) for i in range(8)], 8, ascii_only=True) == ASCII_BLOCKS
    assert sparkline([(1, 5.0), (2, 5.0)], 4) == "▁▁  "
    assert sparkline([], 3) == "   "
    assert sparkline([(0, 0.0), (1, 0.0), (2, 8.0), (3, 8.0)], 2) == "▁█"
    assert sparkline([(0, 1.0), (1, 1.0), (99, 2.0)], 3) == "▁ █"  # steps that are not known are a gap
    assert len(sparkline([(0, 1e308), (1, -1e308)], 2).strip()) == 2


def test_figures():
    shown = [figure(v) for v in (0.0012345, 12.345, 123456, 1.5e7, 3.2e-7, 0, 1, None, float("inf"), True, 10**400)]
    assert shown == ["0.00123", "12.3", "123,456", "1.50e+07", "3.20e-07", "0", "1", "-", "-", "-", "-"]
    assert figure(-0.00123456) == "-0.00123" and figure(3 * 2**30, "bytes") == "3.0 GiB"
    assert clean("a\x1b[31mb\u202ec\n d", 100) == "a?[31mb?c d" and clean("x" * 50, 10) == "x" * 9 + "…"


def test_nvidia_smi(tmp_path, monkeypatch):
    """A real process in its place: what it prints, what it says when it fails, and that a hanging one holds nobody."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def ask(script: str, wait_s: float = 10.0) -> machine.Gpus:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        gpus = machine.Gpus()
        gpus.poll(wait_s)
        return gpus

    text = "0, 97, 70000, 81559, 66\n1, [N/A], 60000, 81559, [Unknown Error]"
    found = ask(f"printf '{text}\\n'")
    assert found.devices == [Gpu(0, 97, 70000, 81559, 66), Gpu(1, None, 60000, 81559, None)] and found.error is None
    found = ask("echo 'NVIDIA-SMI has failed'; exit 9")
    assert (found.devices, found.error) == ([], "nvidia-smi: NVIDIA-SMI has failed")
    assert ask("exit 3").error == "nvidia-smi: exit status 3"
    monkeypatch.setattr(machine, "TIMEOUT_S", 0.2)
    assert ask("exec sleep 60").error == "nvidia-smi: TimeoutExpired"
    assert machine.gpu_line([Gpu(0, None, None, None, None)]) == "1 GPU"
    monkeypatch.setenv("PATH", "/nonexistent")
    gpus = machine.Gpus()
    gpus.poll(1.0)
    assert (gpus.devices, gpus.error) == ([], None)


def test_disks(tmp_path):
    (tmp_path / "a").mkdir()
    [disk] = machine.disks({"a": tmp_path / "a", "b": tmp_path, "none": tmp_path / "absent"})
    assert disk.names == ("a", "b") and 0 < disk.free <= disk.total
    assert Disk(("x",), 10 * 10**9, 10**12).low and not Disk(("x",), 30 * 10**9, 10**12).low
    assert not Disk(("x",), 10 * 10**9, 40 * 10**9).low


def test_the_diagnosis_that_is_not_there_or_fails_is_no_end(run, monkeypatch):
    follow = Follow(open_run(str(run)))
    follow.poll()
    for name in [name for name in sys.modules if name.startswith("rft.diagnosis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rft.diagnosis", None)
    asked = diagnosing.Diagnosing()
    asked.poll(follow, wait=True)
    assert asked.lines == []
    monkeypatch.undo()
    monkeypatch.setattr(diagnosing, "ask", lambda *_: 1 / 0)
    asked = diagnosing.Diagnosing()
    asked.poll(follow, wait=True)
    assert asked.lines == ["failed: ZeroDivisionError: division by zero"]


def test_the_diagnosis_names_a_sick_run(tmp_path):
    pytest.importorskip("rft.diagnosis.line", reason="no rft.diagnosis here")
    folder = make_run(tmp_path / "r", 0)
    write(folder / "metrics" / "training_metrics.jsonl", [train_line(s, has_boxed=0.1) for s in range(1, 9)])
    follow = Follow(open_run(str(folder)))
    follow.poll()
    asked = diagnosing.Diagnosing()
    asked.poll(follow)
    assert asked.lines == [] and asked._thread is None  # the screen comes first
    asked.poll(follow, wait=True)
    assert "box" in asked.lines[0] and asked.lines[1].startswith("-> ")
    assert "box" in drawn(folder, View(diagnosis=asked.lines))
