"""Run folders: layout, atomic run.json, ids, and `rft runs`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rft import cli, runs
from rft.errors import RftError


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    for name in ("METRICS_LOG_DIR", "SAMPLES_LOG_DIR", "RFT_CKPT_DIR", "RFT_SAVE_DIR", "RFT_LOG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path / "runs"))


def make(name: str = "t") -> runs.Run:
    run_id = runs.new_id(name)
    return runs.new_run(run_id, name, runs.layout(run_id), {"seed": 1})


def test_id():
    assert re.fullmatch(r"tiny-\d{8}-\d{6}-[0-9a-f]{4}", runs.new_id("tiny"))
    for bad in ("", "a/b", "../x", "a b", "-x"):
        with pytest.raises(RftError, match="cannot name a folder"):
            runs.new_id(bad)


def test_large_outputs_go_to_the_large_disks(tmp_path, monkeypatch):
    monkeypatch.delenv("RFT_RUNS_DIR")
    monkeypatch.setattr(runs, "DATA_DISK", tmp_path / "data")
    monkeypatch.setattr(runs, "SCRATCH_DISK", tmp_path / "scratch")
    here = runs.REPO / "runs" / "x"
    assert runs.layout("x").ckpt == str(here / "ckpt") and runs.layout("x").log == str(here / "log.txt")
    (tmp_path / "data").mkdir()
    (tmp_path / "scratch").mkdir()
    paths = runs.layout("x")
    assert (paths.ckpt, paths.save) == tuple(str(tmp_path / "data" / "rft" / "x" / n) for n in ("ckpt", "final"))
    assert paths.metrics == str(tmp_path / "scratch" / "rft" / "x" / "metrics")
    assert paths.log == str(tmp_path / "scratch" / "rft" / "x" / "log.txt")
    assert paths.run_dir == str(here)
    monkeypatch.setenv("RFT_CKPT_DIR", "/elsewhere")
    monkeypatch.setenv("METRICS_LOG_DIR", "/metrics")
    assert (runs.layout("x").ckpt, runs.layout("x").metrics) == ("/elsewhere", "/metrics")


def test_a_run_is_written_at_its_start_and_end_and_never_over(tmp_path):
    run = make()
    record = runs.read_json(run.dir / "run.json")
    assert (record["status"], record["seed"], record["paths"]["ckpt"]) == ("running", 1, str(run.dir / "ckpt"))
    with pytest.raises(RftError, match="exists already"):
        runs.new_run(run.id, "t", run.paths, {})
    run.finish("failed", 1, "why")
    record = runs.read_json(run.dir / "run.json")
    assert (record["status"], record["exit_code"], record["error"]) == ("failed", 1, "why")
    assert not list(run.dir.glob(".*"))


def test_write_json_keeps_the_old_file_when_it_fails(tmp_path):
    file = tmp_path / "a.json"
    runs.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        runs.write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == {"a": 1} and os.listdir(tmp_path) == ["a.json"]


def test_unmakeable_folder(monkeypatch):
    monkeypatch.setenv("RFT_RUNS_DIR", "/proc/x")
    with pytest.raises(RftError, match="cannot make"):
        make()


def test_list_show_and_json(capsys):
    assert cli.main(["runs", "--json"]) == 0 and json.loads(capsys.readouterr().out) == []
    first, second = make("a"), make("b")
    lines = [{"event": "train", "step": k, "total_steps": 9, "reward_mean": k / 10} for k in (1, 2)]
    text = "\n".join(map(json.dumps, [*lines, {"event": "eval", "step": 2}])) + '\n{"event": "train", "st'
    first.paths.metrics_file.write_text(text)
    first.finish("finished", 0)
    assert cli.main(["runs"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[:4] == [first.id, "finished", "2/9", "0.200"]
    assert table[2].split()[:4] == [second.id, "running", "0", "-"]
    cli.main(["runs", "--json"])
    assert [row["steps"] for row in json.loads(capsys.readouterr().out)] == [2, 0]
    for reference in ("last", "b-", second.id, str(second.dir)):
        cli.main(["runs", "show", reference])
        assert json.loads(capsys.readouterr().out)["id"] == second.id
    assert cli.main(["runs", "show", "none"]) == 2
    assert "error: run 'none': no such run" in capsys.readouterr().err


def test_a_launcher_that_vanished_is_told_from_a_running_one():
    run = make()
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    run.update(pid=int(gone.stdout))
    assert runs.describe(run.dir)["status"] == "interrupted"


def test_broken_run_json(tmp_path, capsys):
    folder = tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    assert cli.main(["runs", "show", "x"]) == 2
    assert "run.json cannot be read" in capsys.readouterr().err


def test_duration():
    assert [runs.duration(s) for s in (None, 4.4, 65, 3661)] == ["-", "4s", "1m05s", "1h01m"]


def test_help_is_instant_and_unknown_verbs_get_the_near_one(capsys):
    code = "import sys; from rft import cli; cli.main(['--help']); print(sorted(set(sys.modules) & {'torch', 'ray'}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=runs.REPO).stdout
    assert "patches" in out and "runs" in out and out.splitlines()[-1] == "[]"
    assert cli.main(["patchs"]) == 2 and "did you mean patches?" in capsys.readouterr().err
    assert cli.main([]) == 2


@pytest.mark.parametrize("verb", [verb for group in cli.VERBS.values() for verb in group])
def test_every_verb_answers_help_without_torch(verb):
    code = "import sys; from rft import cli\ntry: cli.main([sys.argv[1], '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, verb], capture_output=True, text=True, cwd=runs.REPO, check=False
    )
    assert done.returncode == 0 and f"rft {verb}" in done.stdout, done.stderr
    assert Path(runs.REPO / "rft").is_dir()
