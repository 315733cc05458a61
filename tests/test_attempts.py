"""The parts of ``rft attempt``: names, notes, presets, secrets, the log, and what a start refuses."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rft.attempts import capsule, cli, found, log, model_digest, names, notes, presets, secret, start
from rft.attempts.git import Git
from rft.errors import RftError

ROOT = Path(__file__).resolve().parent.parent
SAID = {"Question": "Does it?", "Expectation": "over 50 %", "The one change": "lr 2e-6, against 30"}


@pytest.fixture
def git(tmp_path, monkeypatch):
    """A repository with the notes' template, the log and a launcher that prints a command."""
    for key, value in {
        "AUTHOR_NAME": "a",
        "AUTHOR_EMAIL": "a@b",
        "COMMITTER_NAME": "a",
        "COMMITTER_EMAIL": "a@b",
    }.items():
        monkeypatch.setenv(f"GIT_{key}", value)
    for name in ("GLOBAL", "SYSTEM"):
        monkeypatch.setenv(f"GIT_CONFIG_{name}", os.devnull)
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path / "runs"))
    root = tmp_path / "repo"
    (root / "notes").mkdir(parents=True)
    shutil.copy(ROOT / notes.TEMPLATE, root / notes.TEMPLATE)
    shutil.copy(ROOT / log.FILE, root / log.FILE)
    (root / "go.sh").write_text(
        'case " $* " in *" --break "*) echo "error: --break: no such flag" >&2; exit 2 ;; esac\n'
        'echo HF_TOKEN=hf_x; echo A=b; echo python; printf "%s\\n" --prompt_data p.jsonl --pretrain m "$@"\n'
    )
    one = Git(root)
    one("init", "-q", "-b", "main")
    one("add", "-A")
    one("commit", "-q", "-m", "x")
    return one


def refusal(*args, **kwargs) -> str:
    with pytest.raises(RftError) as caught:
        args[0](*args[1:], **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def prepare(git, *command, number=31, arm=None, preset=None):
    return start.prepare(git, number, arm, preset, list(command))


def test_names():
    one = names.named("31", "lr-2e-6")
    assert (one.branch, one.tag) == ("attempt-31-lr-2e-6", "attempt-31-start")
    assert (one.notes, one.capsule) == ("notes/attempt-31-lr-2e-6.md", "notes/attempt-31-lr-2e-6.json")
    assert names.named("7", "x").tag == "attempt-07-start" and names.named("128", "x").tag == "attempt-128-start"
    assert [names.split(text) for text in ("31", "31a", "attempt-07b2")] == [(31, None), (31, "a"), (7, "b2")]
    for number, short in (
        ("0", "x"),
        ("x", "x"),
        ("3", "Has Space"),
        ("3", "start"),
        ("3", "a..b"),
        ("3", "a.lock"),
        ("3", ""),
    ):
        assert refusal(names.named, number, short)


def test_new_without_words_leaves_notes_to_fill_in(git):
    said = start.new(git, names.named("31", "lr"), {"Question": "Does it?"})
    assert said[1].startswith("fill in Expectation, The one change in notes/attempt-31-lr.md, commit")
    assert git.branch() == "attempt-31-lr" and git.changes() == ["notes/attempt-31-lr.md"]
    git("add", "-A")
    git("commit", "-q", "-m", "unfinished")
    assert refusal(prepare, git, "bash", "go.sh").startswith("notes/attempt-31-lr.md: '## Expectation' is empty")


def test_a_number_is_given_once(git):
    start.new(git, names.named("31", "lr"), SAID)
    assert "attempt-31-lr exists already; take the next number: 32" in refusal(
        start.new, git, names.named("31", "b"), SAID
    )
    git("branch", "attempt-31-other")
    assert "several have that number" in refusal(names.get, git, 31)
    git("tag", "attempt-40-start")
    assert "attempt-40-start exists already" in refusal(start.new, git, names.named("40", "b"), SAID)


def test_new_undoes_itself(git, monkeypatch):
    hook = git.root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'fatal: not today' >&2\nexit 1\n")
    hook.chmod(0o755)
    assert "not today" in refusal(start.new, git, names.named("31", "lr"), SAID)
    assert git.branch() == "main" and git("branch", "--list", "attempt*") == "" and git.changes() == []


def test_only_the_notes_are_committed(git):
    (git.root / "mine.txt").write_text("x")
    start.new(git, names.named("31", "lr"), SAID)
    assert git.changes() == ["mine.txt"] and git("log", "-1", "--format=%s") == "Attempt 31: Does it?"
    sections = notes.sections((git.root / "notes/attempt-31-lr.md").read_text())
    assert {name: sections[name] for name in SAID} == SAID and sections["Notes"] == ""
    line = refusal(prepare, git, "bash", "go.sh")
    assert "mine.txt not committed; commit or stash them: attempt-31-start must name exactly what runs" in line


def test_what_a_start_refuses(git):
    assert "attempt 31: there is none" in refusal(prepare, git, "bash", "go.sh")
    start.new(git, names.named("31", "lr"), SAID)
    assert "start what?" in refusal(prepare, git)
    assert "train_grpo: give a launcher" in refusal(prepare, git, "train_grpo")
    launch = prepare(git, "bash", "go.sh", "--break")
    assert "bash go.sh --dry-run: --break: no such flag" in refusal(start.mark, git, launch, False)
    assert git("tag", "--list") == "" and not capsule.launches(git, launch.attempt)
    git("switch", "-q", "main")
    assert "on main, not on attempt-31-lr; change: git switch attempt-31-lr" in refusal(prepare, git, "bash", "go.sh")


def test_tag_and_capsule(git, monkeypatch):
    for name in [name for name in os.environ if name.startswith("RFT_") and name != "RFT_RUNS_DIR"]:
        monkeypatch.delenv(name)  # of whoever runs the tests
    monkeypatch.setenv("VLLM_API_KEY", "sesame")
    monkeypatch.setenv("RFT_VERBOSE", "1")
    start.new(git, names.named("31", "lr"), SAID)
    (git.root / "m").mkdir()
    (git.root / "m" / "config.json").write_text("{}")
    (git.root / "p.jsonl").write_text("{}\n")
    git("add", "-A")
    git("commit", "-q", "-m", "data")
    launch = prepare(git, "bash", "go.sh", "--use_wandb", "0123456789", "--lr", "2e-6", arm="a")
    assert launch.words() == (
        "env RFT_ATTEMPT=31 RFT_ATTEMPT_ARM=a bash go.sh --use_wandb 0123456789 --lr 2e-6 --name attempt-31a"
    )
    path = start.mark(git, launch, False)
    (one,) = json.loads(path.read_text())["launches"]
    assert git.commit_of("attempt-31-start") == git.commit_of("HEAD") == one["commit"]
    assert one["variables"] == {"HF_TOKEN": "<hidden>", "A": "b"} and one["environment"] == {
        "RFT_RUNS_DIR": str(path.parent.parent), "RFT_VERBOSE": "1",
    } | {key: value for key, value in one["environment"].items() if not key.startswith("RFT_")}  # fmt: skip
    assert one["command"] == ["bash", "go.sh", "--use_wandb", "<hidden>", "--lr", "2e-6", "--name", "attempt-31a"]
    everything = path.read_text() + git("for-each-ref", "--format=%(contents)", "refs/tags")
    assert not re.search("sesame|0123456789|hf_x", everything)
    assert set(one["data_sha256"]) == {"p.jsonl"} and set(one["models"][0]["files"]) == {"config.json"}
    start.mark(git, launch, False)  # again, on the same commit
    assert len(capsule.launches(git, launch.attempt)) == 2
    (git.root / "p.jsonl").write_text("{}\n{}\n")
    git("commit", "-q", "-am", "later")
    assert "a changed approach is a new attempt" in refusal(start.mark, git, launch, False)
    start.mark(git, launch, True)
    last = capsule.launches(git, launch.attempt)[-1]
    assert git.commit_of("attempt-31-start") == git.commit_of("HEAD") and last["retagged_from"] == one["commit"]


def test_digests_are_read_once_and_follow_a_change(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w.safetensors").write_bytes(b"abc")
    store = tmp_path / "digests.json"
    first = model_digest.of("m", tmp_path, {}, store)
    assert first["files"]["w.safetensors"].startswith("ba7816bf8f01cfea")
    kept = store.read_text().replace("ba7816bf", "00000000")
    store.write_text(kept)
    assert model_digest.of("m", tmp_path, {}, store)["files"]["w.safetensors"].startswith("00000000")  # from the store
    (tmp_path / "m" / "w.safetensors").write_bytes(b"abcd")
    assert model_digest.of("m", tmp_path, {}, store)["files"]["w.safetensors"].startswith("88d4266fd4e6338d")


def test_digests_of_a_cached_hub_model(tmp_path):
    repo = tmp_path / "hub" / "models--o--m"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc123")
    (repo / "blobs").mkdir()
    (repo / "blobs" / ("f" * 64)).write_bytes(b"weights")
    (repo / "snapshots" / "abc123").mkdir(parents=True)
    (repo / "snapshots" / "abc123" / "w.safetensors").symlink_to(repo / "blobs" / ("f" * 64))
    known = model_digest.of("o/m", tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub")}, tmp_path / "s")
    assert known == {"name": "o/m", "revision": "abc123", "files": {"w.safetensors": "f" * 64}}
    absent = model_digest.of("o/n", tmp_path, {"HF_HUB_CACHE": str(tmp_path / "hub")}, tmp_path / "s")
    assert absent == {"name": "o/n", "revision": None, "files": {}}


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        (["--use_wandb", "k123"], ["--use_wandb", "<hidden>"]),
        (["--use_wandb", "True"], ["--use_wandb", "True"]),
        (["--api_key=k", "--label_key", "label"], ["--api_key=<hidden>", "--label_key", "label"]),
        (["--env", "HF_TOKEN=x", "--env", "A=b"], ["--env", "HF_TOKEN=<hidden>", "--env", "A=b"]),
        (["--hub-token", "t", "--seed", "1"], ["--hub-token", "<hidden>", "--seed", "1"]),
        (["https://me:pw@host/x"], ["https://me:<hidden>@host/x"]),
        (["--password", "--seed", "1"], ["--password", "--seed", "1"]),
        (["--input_key=input", "--max_tokens", "9"], ["--input_key=input", "--max_tokens", "9"]),
    ],
)
def test_secrets_are_hidden_and_nothing_else(words, hidden):
    assert secret.hide(words) == hidden


def test_shipped_pair_differs_in_the_clip_alone_and_comes_to_200_steps(tmp_path):
    one = presets.get("eps_clip")
    resolved = [capsule.resolve(one.command(arm), ROOT)[1] for arm in "ab"]
    differing = [(a, b) for a, b in zip(*resolved, strict=True) if a != b]
    assert differing == [("0.2", "0.1")] and resolved[0][resolved[0].index("0.2") - 1] == "--eps_clip"
    assert "data/sft_rl_pool_400.jsonl" in resolved[0] and one.change == "--eps_clip: a 0.2, b 0.1"
    pool = tmp_path / "pool.jsonl"
    pool.write_text("{}\n" * 400)
    start._check_steps(ROOT, one, [*one.command("a"), "--prompt_data", str(pool)])
    pool.write_text("{}\n" * 390)
    line = refusal(start._check_steps, ROOT, one, [*one.command("a"), "--prompt_data", str(pool)])
    assert "195 optimizer steps from 390 prompts, the preset says 200" in line
    missing = refusal(
        start._check_steps, tmp_path, one, ["bash", str(ROOT / one.launcher), "--prompt_data", "no.jsonl"]
    )
    assert "no.jsonl is not there; make it: python prepare_sft_data.py" in missing
    for name in presets.load():
        assert (ROOT / presets.get(name).launcher).is_file()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[x", "not readable as presets"),
        ("[x]\n", "launcher is missing"),
        ('[x]\nlauncher = "a"\nflag = 1\n', "unknown key 'flag'"),
        ('[x]\nlauncher = "a"\n[x.arms]\na = { e = 1 }\n', "at least two arms"),
        ('[x]\nlauncher = "a"\n[x.arms]\na = { e = 1 }\nb = { f = 1 }\n', "arm b sets other flags"),
        ('[x]\nlauncher = "a"\n[x.arms]\na = { e = 1 }\nb = { e = 1 }\n', "two arms are equal"),
        (
            '[x]\nlauncher = "a"\n[x.flags]\ne = 1\n[x.arms]\na = { e = 1 }\nb = { e = 2 }\n',
            "sets a flag that [x.flags]",
        ),
    ],
)
def test_bad_presets_are_one_line(tmp_path, text, said):
    path = tmp_path / "p.toml"
    path.write_text(text)
    assert said in refusal(presets.load, path)


def test_arms_of_a_preset():
    one = presets.get("eps_clip_tiny")
    assert one.command("b")[:2] == ["bash", "train_grpo_tiny.sh"] and one.command("b")[-2:] == ["--eps_clip", "0.1"]
    assert "--eval_at_end" in one.command("b") and "" not in one.command("b")
    assert "--arm c: no such arm" in refusal(one.command, "c") and "which arm?" in refusal(one.command, None)
    assert "it has eps_clip, eps_clip_tiny" in refusal(presets.get, "nothing")


def test_entries_of_the_log_newest_first():
    empty = (ROOT / log.FILE).read_text()
    assert log.verdicts(empty) == {} or all(isinstance(number, int) for number in log.verdicts(empty))
    head = "# Research log\n\nWords.\n"
    one = log.with_entry(head, 30, "## 30 — flat (2026-11-20)\n\nA\n")
    two = log.with_entry(one, 31, "## 31 — better: 50 % to 60 % (2026-11-21)\n\nB\n")
    assert two.index("## 31") < two.index("## 30") and two.startswith(head)
    assert log.verdicts(two) == {31: "better: 50 % to 60 %", 30: "flat"}
    assert "attempt 31 has an entry already (better" in refusal(log.require_place, two, 31, False)
    for number, rest in ((31, "A"), (30, "B")):
        anew = log.with_entry(two, number, f"## {number} — worse (2026-11-22)\n\nC\n")
        assert log.verdicts(anew)[number] == "worse" and len(log.verdicts(anew)) == 2
        assert rest in anew and "C" in anew and ("A" in anew) + ("B" in anew) == 1


def test_bad_words_on_the_command_line(git, capsys, monkeypatch):
    monkeypatch.setattr(cli.runs, "REPO", git.root)
    assert "nothing goes behind --" in refusal(cli.main, ["list", "--", "x"])
    assert "give its number" in refusal(cli.main, ["show", "x"])
    assert "--arm A B" in refusal(cli.main, ["start", "31", "--arm", "A B"])
    start.new(git, names.named("31", "lr"), SAID)
    assert "attempt-31-start is not there: it was never started; rft attempt start 31" in refusal(
        cli.main, ["finish", "31"]
    )
    assert "finished with all its arms" in refusal(cli.main, ["finish", "31a"])
    assert "no run of it in" in refusal(found.one, git, "31")
    assert cli.main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["attempt"], row["state"], row["commit"], row["verdict"]) == (31, "new", None, None)


def test_no_repository(tmp_path):
    assert "no git repository" in refusal(names.top, tmp_path)


def test_help_imports_nothing_heavy():
    code = "import sys; from rft.cli import main\ntry: main([sys.argv[1], '--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'datasets', 'ray'} & set(sys.modules); assert not heavy, heavy"
    for verb in ("attempt", "disk", "spare"):
        done = subprocess.run([ROOT / ".venv/bin/python", "-c", code, verb], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0 and "usage: rft" in done.stdout, done
