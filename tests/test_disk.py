"""rft disk: what is counted, what does not belong, what may go and what never does."""

import json
import os
import time

import pytest

from rft import runs
from rft.cli import main
from rft.disk import inventory, rules, usage, whole
from rft.errors import RftError
from rft.provenance import sha256

DAY = 86400


def fill(path, count: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(count))
    return path


def checkpoint(folder, step: int, good: bool = True):
    one = folder / f"global_step{step}_hf"
    files = [fill(one / "adapter_model.safetensors", 40_000), fill(one / "resume" / "rank0.pt", 80_000)]
    digests = {str(file.relative_to(one)): sha256(file) for file in files}
    (one / "digests.json").write_text(json.dumps(digests))
    if not good:
        fill(one / "resume" / "rank0.pt", 80_000)
    return one


def a_run(name: str, status: str = "finished", evals=(), steps=(), ended_days: float = 0.0, **paths):
    folder = runs.runs_dir() / name
    for part in ("metrics", "samples", "ckpt"):
        (folder / part).mkdir(parents=True)
    names = {"ckpt": "ckpt", "save": "final", "metrics": "metrics", "samples": "samples", "log": "log.txt"}
    where = {key: str(folder / part) for key, part in names.items()} | {"run_dir": str(folder)} | paths
    record = {"id": name, "status": status, "start": time.time() - 3600, "end": time.time() - ended_days * DAY}
    record |= {"paths": where, "pid": os.getpid(), "pid_started": runs.process_start(os.getpid())}
    (folder / "run.json").write_text(json.dumps(record))
    lines = [{"event": "eval", "step": s, "mode": m, "accuracy": a} for s, m, a in evals]
    (folder / "metrics" / "training_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in steps:
        checkpoint(folder / "ckpt", step)
    return folder


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path / "runs"))
    for name in ("HF_HOME", "XDG_CACHE_HOME", "RAY_TMPDIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "caches" / name))
    (tmp_path / "runs").mkdir()


def pruned(capsys, *arguments) -> list[str]:
    """Paths that --prune names, below the runs; checks that its sum is that of its lines."""
    assert main(["disk", "--prune", "--json", *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == sum(one["bytes"] for one in said["proposals"])
    assert all(one["bytes"] > 0 and one["why"] for one in said["proposals"])
    return [os.path.relpath(one["path"], runs.runs_dir()) for one in said["proposals"]]


def test_counts_what_the_disk_gives(tmp_path):
    fill(tmp_path / "t" / "a", 1_000_000)
    os.link(tmp_path / "t" / "a", tmp_path / "t" / "b")  # one file, two names
    os.symlink(tmp_path, tmp_path / "t" / "everything")
    with open(tmp_path / "t" / "sparse", "wb") as file:
        file.truncate(1 << 30)
    counted = usage.Counter().tree(tmp_path / "t")
    assert 1_000_000 <= counted < 1_100_000
    assert usage.Counter().tree(tmp_path / "t", [tmp_path / "t" / "a", tmp_path / "t" / "b"]) < 100_000
    assert usage.Counter().tree(tmp_path / "none") == 0
    twice = usage.Counter()
    assert twice.tree(tmp_path / "t" / "a") and not twice.tree(tmp_path / "t" / "b")


def test_sizes_in_words():
    said = [usage.size(count) for count in (0, 512, 31_900_000, 999_600, 41_800_000_000, 3_200_000_000_000)]
    assert said == ["0 B", "512 B", "31.9 MB", "1.0 MB", "41.8 GB", "3.2 TB"]


def test_usage_of_runs_on_other_disks(tmp_path, capsys):
    far = tmp_path / "far" / "a-1" / "ckpt"
    folder = a_run("a-1", ckpt=str(far))
    (folder / "ckpt").rmdir()
    checkpoint(far, 10)
    fill(folder / "samples" / "samples_step10.jsonl", 50_000)
    assert main(["disk", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    kinds = {part["kind"]: part["bytes"] for part in run["parts"]}
    assert kinds["checkpoint"] >= 120_000 and kinds["samples"] >= 50_000
    assert run["bytes"] == sum(part["bytes"] for part in run["parts"])
    together = usage.Counter()
    assert run["bytes"] - together.tree(folder) - together.tree(far) in range(-8192, 8193)
    assert main(["disk", "a-1"]) == 0
    told = capsys.readouterr().out
    assert "1 checkpoints 1" in told and f"checkpoint  {far}/global_step10_hf\n" in told


def test_newest_whole_and_best_stay(capsys):
    evals = [(10, "greedy_pass@1", 0.5), (20, "greedy_pass@1", 0.9), (30, "greedy_pass@1", 0.9), (10, "sampling", 1.0)]
    folder = a_run("a-1", evals=evals, steps=(10, 20, 30, 40))
    checkpoint(folder / "ckpt", 50, good=False)
    assert rules.best_step("a-1") == 20
    assert whole.newest(folder / "ckpt").name == "global_step40_hf"
    assert pruned(capsys) == [f"a-1/ckpt/global_step{step}_hf" for step in (50, 30, 10)]
    assert pruned(capsys, "--keep", "2") == [f"a-1/ckpt/global_step{step}_hf" for step in (50, 10)]
    assert sorted(path.name for path in (folder / "ckpt").iterdir())[0] == "global_step10_hf"  # nothing was touched


def test_yes_deletes_what_was_listed(capsys):
    folder = a_run("a-1", steps=(10, 20))
    before = usage.Counter().tree(folder)
    assert main(["disk", "--prune"]) == 0
    listed = capsys.readouterr().out
    assert "would delete" in listed and "the same command with --yes" in listed
    assert main(["disk", "--prune", "--yes"]) == 0
    assert [path.name for path in (folder / "ckpt").iterdir()] == ["global_step20_hf"]
    assert before - usage.Counter().tree(folder) >= 120_000
    assert main(["disk", "--prune"]) == 0
    assert "nothing to delete" in capsys.readouterr().out


def test_no_whole_checkpoint_no_deletion(capsys):
    folder = a_run("a-1", "failed")
    checkpoint(folder / "ckpt", 10, good=False)
    checkpoint(folder / "ckpt", 20, good=False)
    assert pruned(capsys) == []


def test_a_running_run_is_left_alone(capsys):
    folder = a_run("a-1", "running", steps=(10, 20))
    fill(folder / "ckpt" / ".global_step30_hf.part" / "x", 5000)
    fill(folder / "ckpt" / "global_step10_hf" / "model-00001-of-00002.safetensors", 5000)
    continued = a_run("a-2", "failed", ckpt=str(folder / "ckpt"))  # shares the folder of the one that runs
    (continued / "ckpt").rmdir()
    assert pruned(capsys, *[word for name in rules.RULES for word in ("--rule", name)]) == []


def test_half_written_saves_and_shards(capsys):
    folder = a_run("a-1", "failed", steps=(10,))
    fill(folder / "ckpt" / ".global_step20_hf.part" / "resume" / "rank0.pt", 7000)
    fill(folder / "ckpt" / ".global_step10_hf.old" / "x", 7000)
    fill(folder / "ckpt" / "global_step10_hf" / "model-00001-of-00009.safetensors", 90_000)
    fill(folder / "ckpt" / "global_step10" / "zero_pp_rank_0_mp_rank_00_optim_states.pt", 9000)
    fill(folder / "final" / "adapter_model.safetensors", 4000)
    fill(folder / "final" / "pytorch_model.bin", 90_000)
    fill(folder / "ckpt" / "pytorch_model-00001-of-00002.bin", 9000)
    fill(folder / "ckpt" / "mine.txt", 9000)
    assert sorted(pruned(capsys, "--rule", "half")) == [
        "a-1/ckpt/.global_step10_hf.old",
        "a-1/ckpt/.global_step20_hf.part",
    ]
    shards = ["ckpt/global_step10_hf/model-00001-of-00009.safetensors", "ckpt/pytorch_model-00001-of-00002.bin"]
    shards += ["final/pytorch_model.bin"]
    assert sorted(pruned(capsys, "--rule", "shards")) == [f"a-1/{name}" for name in shards]
    assert main(["disk"]) == 0
    assert "! 3 full-model files that do not belong, " in capsys.readouterr().out
    assert main(["disk", "--prune", "--yes"]) == 0
    assert whole.verify(folder / "ckpt" / "global_step10_hf") is None
    assert (folder / "final" / "adapter_model.safetensors").is_file() and (folder / "ckpt" / "mine.txt").is_file()


def test_full_model_runs_keep_their_shards(capsys):
    folder = a_run("a-1")
    fill(folder / "final" / "model-00001-of-00002.safetensors", 9000)  # no adapter beside it: lora_rank 0
    assert pruned(capsys) == []


def test_older(capsys):
    a_run("old", steps=(10, 20), ended_days=40)
    a_run("new", steps=(10, 20), ended_days=1)
    assert pruned(capsys, "--older", "30") == ["old/ckpt/global_step10_hf"]
    fill(runs.runs_dir() / "merged" / "m" / "model.safetensors", 9000)
    assert pruned(capsys, "--rule", "merged") == []  # made today
    month = time.time() - 31 * DAY
    for path in (runs.runs_dir() / "merged" / "m").iterdir():
        os.utime(path, (month, month))
    assert pruned(capsys, "--rule", "merged", "--older", "30") == ["merged/m"]


def test_runs_that_are_gone_only_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RFT_RUNS_DIR")
    monkeypatch.setattr(runs, "REPO", tmp_path)
    monkeypatch.setattr(runs, "DATA_DISK", tmp_path / "data")
    monkeypatch.setattr(runs, "SCRATCH_DISK", tmp_path / "scratch")
    checkpoint(tmp_path / "data" / "rft" / "lost-1" / "ckpt", 10)
    fill(tmp_path / "data" / "rft" / "photos" / "x", 9000)  # not what a run leaves
    assert pruned(capsys) == []
    assert pruned(capsys, "--rule", "gone") == ["../data/rft/lost-1"]


def test_links_are_not_followed(tmp_path, capsys):
    folder = a_run("a-1", "failed", steps=(20,))
    theirs = checkpoint(tmp_path / "theirs", 10)
    (folder / "ckpt" / "global_step10_hf").symlink_to(theirs)
    assert pruned(capsys) == [] and main(["disk", "--prune", "--yes"]) == 0
    assert whole.verify(theirs) is None and (folder / "ckpt" / "global_step10_hf").is_symlink()
    with pytest.raises(RftError, match="global_step10_hf: a link"):
        rules.remove(rules.Proposal("checkpoints", folder / "ckpt" / "global_step10_hf", 1, ""))


def test_whole_means_every_file(tmp_path):
    one = checkpoint(tmp_path, 10)
    assert whole.verify(one) is None and whole.newest(tmp_path) == one
    (one / "resume" / "rank0.pt").unlink()
    assert "rank0.pt is missing" in whole.verify(one) and whole.newest(tmp_path) is None
    (one / "digests.json").write_text("{")
    assert "no readable digests.json" in whole.verify(one)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--keep", "0", "--prune"], "--keep 0: keep at least 1"),
        (["--yes"], "--yes: only with --prune"),
        (["--prune", "--older", "-1"], "--older -1.0: give days"),
        (["nothere"], "no such run"),
    ],
)
def test_bad_input_is_one_line(argv, said, capsys):
    assert main(["disk", *argv]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_caches_are_listed(tmp_path):
    fill(tmp_path / "caches" / "HF_HOME" / "hub" / "models--a--b" / "x", 70_000)
    found = {one.name: one.bytes for one in inventory.caches(usage.Counter())}
    assert found["hub models"] >= 70_000
