"""``rft spare`` against a real sshd on loopback: what is sent, verified, run and fetched, and every refusal's line."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import scratch_repo
import ssh_server
from export_kit import make_adapter

from rft.provenance import sha256

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(
        ssh_server.missing() is not None, reason=f"{ssh_server.missing()} is not installed: no loopback ssh"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="sshd with a disk of its own needs root"),
]
PATHS = {"repo": "rft", "adapters": "adapters", "merged": "merged", "jobs": "jobs"}


class World:
    """here: a checkout; there: what the other machine's paths lie below; server: its sshd."""

    def __init__(self, folder: Path):
        self.there, self.config = folder / "there", folder / "spare.toml"
        self.there.mkdir()
        (folder / "ssh").mkdir()
        self.server = ssh_server.start(folder / "ssh")
        self.here = scratch_repo.make(folder / "here", RFT_SPARE_CONFIG=str(self.config))
        self.here.write("data/train.jsonl", '{"input": "1+1", "label": "2"}\n' * 9)
        self.write("far")

    def write(self, name: str, **changed) -> None:
        """One more machine in spare.toml, which differs from the first in what is given."""
        values = {"host": "127.0.0.1", "user": os.environ.get("USER") or "root", "key": str(self.server.key)}
        values |= {key: str(self.there / path) for key, path in PATHS.items()} | {"python": sys.executable}
        values |= {"known_hosts": str(self.server.known_hosts)} | changed
        lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        lines += [
            "" if "port" in changed else f"port = {self.server.port}",
            'data = ["data"]',
            "env = { MARK = 'a b' }",
        ]
        with open(self.config, "a") as file:
            file.write("\n".join(lines) + "\n")

    def spare(self, verb: str, *args, host: str = "far") -> subprocess.CompletedProcess:
        return self.here.rft("spare", verb, host, *args)

    def refused(self, verb: str, *args, host: str = "far") -> str:
        """The one line of a refusal."""
        done = self.spare(verb, *args, host=host)
        assert done.returncode == 2 and len(re.findall(r"(?m)^error: ", done.stderr)) == 1, done
        return done.stderr.strip().splitlines()[-1].removeprefix("error: ")

    def job(self, name: str, *command: str, options=()) -> None:
        done = self.spare("run", "--name", name, *options, "--", *command)
        assert done.returncode == 0, done

    def state(self, name: str) -> dict:
        jobs = json.loads(self.spare("status", "--json").stdout)["jobs"]
        return next(job for job in jobs if job["name"] == name)

    def ended(self, name: str) -> dict:
        while (state := self.state(name))["status"] == "running":
            time.sleep(0.2)
        return state


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    one = World(tmp_path_factory.mktemp("spare"))
    yield one
    one.server.stop()


@pytest.fixture(scope="module")
def synced(world):
    done = world.spare("sync")
    assert done.returncode == 0, done
    assert re.search(r"code: whole history to [0-9a-f]{12}, \d\.\d\d MB", done.stdout)
    return world


def test_sync_sends_what_is_committed_and_verifies_it(synced):
    there = synced.there / "rft"
    git = ["git", "-C", str(there)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert head == synced.here.git("rev-parse", "HEAD")
    assert not subprocess.run([*git, "status", "--porcelain"], capture_output=True).stdout
    assert (there / "data" / "train.jsonl").read_text() == (synced.here.root / "data" / "train.jsonl").read_text()
    assert not list(synced.there.glob(".*.bundle"))
    again = synced.spare("sync", "--json")
    assert "is there already" in again.stderr
    checks = {check["name"]: check for check in json.loads(again.stdout)}
    assert list(checks) == ["commit", "series", "packages", "data"] and all(check["ok"] for check in checks.values())
    assert "1 files equal" in checks["data"]["told"] and "applied on both" in checks["series"]["told"]


def test_a_new_commit_goes_as_a_small_bundle(synced):
    synced.here.write("new.txt", "x")
    commit = synced.here.commit("one file")
    done = synced.spare("sync")
    assert re.search(rf"code: [0-9a-f]{{12}} to {commit[:12]}, 0\.00 MB", done.stdout), done
    assert (synced.there / "rft" / "new.txt").read_text() == "x"


def test_wrong_commit_changed_files_and_data_are_named(synced):
    there = synced.there / "rft"
    git = ["git", "-C", str(there)]
    subprocess.run([*git, "checkout", "-q", "--detach", "HEAD~1"], check=True)
    line = synced.refused("run", "--", "true")
    assert re.match(r"far: commit: wrong commit: [0-9a-f]{12} there, [0-9a-f]{12} here; rft spare sync far, or", line)
    assert synced.spare("sync").returncode == 0
    (there / "README.md").write_text("mine")
    assert "README.md; commit or discard that there" in synced.refused("sync")
    assert "commit: changes that are not committed, there" in synced.refused("run", "--", "true")
    subprocess.run([*git, "checkout", "-q", "--", "README.md"], check=True)
    (there / "data" / "train.jsonl").write_text("other")
    assert re.match(
        r"far: data: data/train\.jsonl \([0-9a-f]{12} here, [0-9a-f]{12} there\)", synced.refused("run", "--", "true")
    )
    done = synced.spare("run", "--skip", "data", "--name", "skipping", "--", "true")
    assert done.returncode == 0
    assert json.loads((synced.there / "jobs" / "skipping" / "job.json").read_text())["skipped"]
    assert synced.spare("sync").returncode == 0
    synced.here.write("README.md", "changed here")
    assert "README.md not committed; commit or stash them: far gets what is committed" in synced.refused("sync")
    synced.here.git("checkout", "-q", "--", "README.md")


def test_a_job_runs_in_tmux_and_comes_back(synced):
    code = "import os; os.makedirs(os.environ['RFT_EVALS_DIR']); print(os.getcwd(), os.environ['MARK'], 'it''s')"
    code += "; open(os.environ['RFT_EVALS_DIR'] + '/r.json', 'w').write('{}')"
    synced.job("one", "python", "-c", code)
    assert synced.ended("one") | {"started": 0} == {
        "name": "one", "status": "finished", "code": 0, "started": 0, "line": f"{synced.there}/rft a b its",
    }  # fmt: skip
    done = synced.spare("fetch", "one", "--json")
    (fetched,) = json.loads(done.stdout)
    where = Path(fetched["path"])
    assert where == synced.here.runs / "spare" / "far" / "one" and fetched["status"] == "finished"
    assert (where / "log.txt").read_text() == f"{synced.there}/rft a b its\n" and (where / "exit").read_text() == "0\n"
    assert (where / "evals" / "r.json").read_text() == "{}"
    assert json.loads((where / "job.json").read_text())["command"] == ["python", "-c", code]
    assert synced.refused("run", "--name", "one", "--", "true").startswith("far: job one exists already")


def test_states_of_jobs(synced):
    synced.job("wrong", "bash", "-c", "echo going; echo out of memory >&2; exit 3")
    assert synced.ended("wrong")["code"] == 3 and synced.state("wrong")["status"] == "failed"
    assert synced.spare("status", "wrong").stdout == "going\nout of memory\n"
    synced.job("long", "bash", "-c", "echo started; while [ ! -e stop ]; do sleep 0.1; done; rm stop")
    assert synced.state("long")["status"] == "running"
    told = synced.spare("status").stdout
    assert re.search(r"(?m)^wrong +failed \(3\)  started .* ago  out of memory$", told) and "GB free of" in told
    (synced.there / "rft" / "stop").write_text("")
    assert synced.ended("long")["status"] == "finished"
    synced.job("killed", "bash", "-c", "echo started; exec sleep 1000")
    assert synced.server.tmux("kill-session", "-t", "killed").returncode == 0
    while synced.state("killed")["status"] == "running":
        time.sleep(0.1)
    assert synced.state("killed")["status"] == "died"
    assert "no job 'never'" in synced.refused("fetch", "never") and "no such job" in synced.refused("status", "never")
    every = synced.spare("fetch")
    assert {"killed: died", "wrong: failed"} <= {line.split("  ")[1] for line in every.stdout.splitlines()}


def test_fetch_a_path(synced):
    done = synced.spare("fetch", "--path", "data")
    assert done.returncode == 0, done
    assert (synced.here.runs / "spare" / "far" / "data" / "train.jsonl").is_file()
    assert "not there; name a path there" in synced.refused("fetch", "--path", "nothing")


def fake_adapter(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16}')
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(count))
    names = ("adapter_config.json", "adapter_model.safetensors")
    (folder / "digests.json").write_text(json.dumps({name: sha256(folder / name) for name in names}))
    return folder


def test_adapters_arrive_whole(synced, tmp_path):
    adapter = fake_adapter(tmp_path / "global_step10_hf", 50_000)
    done = synced.spare("sync", "--adapter", adapter)
    assert done.returncode == 0, done
    there = synced.there / "adapters" / "adapters" / "global_step10_hf"
    assert {path.name: sha256(path) for path in there.iterdir()} == {p.name: sha256(p) for p in adapter.iterdir()}
    assert f"{there} is there already" in synced.spare("sync", "--adapter", adapter).stdout
    (adapter / "adapter_model.safetensors").write_bytes(b"damaged")
    assert "adapter_model.safetensors is not what was written" in synced.refused("sync", "--adapter", adapter)


def test_an_interrupted_transfer_leaves_nothing_that_looks_whole_and_goes_on(synced, tmp_path):
    adapter = fake_adapter(tmp_path / "global_step20_hf", 400_000_000)
    there = synced.there / "adapters" / "adapters"
    command = [sys.executable, "-m", "rft.cli", "spare", "sync", "far", "--adapter", str(adapter)]
    process = subprocess.Popen(command, cwd=synced.here.root, env=synced.here.env, stderr=subprocess.PIPE, text=True)
    part = there / ".global_step20_hf.part"
    arrived = lambda: sum(path.stat().st_size for path in part.rglob("*") if path.is_file())  # noqa: E731
    while not part.is_dir() or arrived() < 20_000_000:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    for child in psutil.Process(process.pid).children():
        if child.name() == "rsync":
            child.terminate()
    error = process.communicate()[1]
    assert process.returncode == 2
    assert re.search(r"(?m)^error: far: adapter: interrupted \(rsync status \d+\); what arrived is kept, .*$", error)
    assert not (there / "global_step20_hf").exists() and arrived() >= 20_000_000
    assert synced.spare("sync", "--adapter", adapter).returncode == 0
    assert sha256(there / "global_step20_hf" / "adapter_model.safetensors") == sha256(
        adapter / "adapter_model.safetensors"
    )
    assert not part.exists()
    shutil.rmtree(there / "global_step20_hf")


def test_a_full_disk_is_named(synced, tmp_path):
    synced.write("small", adapters=str(synced.server.full / "adapters"))
    adapter = fake_adapter(tmp_path / "global_step30_hf", (ssh_server.FULL_MB + 1) << 20)
    line = synced.refused("sync", "--adapter", adapter, host="small")
    assert line.startswith("small: adapter: disk full (") and "free space, then call again" in line
    synced.write("nojobs", jobs=str(synced.server.full / "jobs"))
    with pytest.raises(OSError, match="No space"), open(synced.server.seen() / "filler", "wb", 0) as file:
        while True:
            file.write(bytes(4096))
    assert synced.refused("run", "--", "true", host="nojobs").startswith("nojobs: disk full (")
    assert not list((synced.server.seen() / "jobs").iterdir())  # no job that never was


def test_who_is_not_let_in_is_told_why(world, tmp_path):
    world.write("closed", port=ssh_server.free_port())
    assert "unreachable (ssh: connect to host 127.0.0.1 port" in world.refused("status", host="closed")
    ssh_server.make_key(tmp_path / "other")
    world.write("stranger", key=str(tmp_path / "other"))
    line = world.refused("status", host="stranger")
    assert f"key {tmp_path / 'other'} refused; add its public half to root's authorized_keys" in line
    assert "refused" in world.refused("sync", host="stranger")
    world.write("unknown", known_hosts=str(tmp_path / "nobody"))
    assert "the machine's own key is not known here" in world.refused("status", host="unknown")
    (tmp_path / "wide").write_bytes((tmp_path / "other").read_bytes())
    (tmp_path / "wide").chmod(0o644)
    world.write("wide", key=str(tmp_path / "wide"))
    assert f"chmod 600 {tmp_path / 'wide'}" in world.refused("status", host="wide")


def test_no_repository_and_no_python_there(synced):
    synced.write("bare", repo=str(synced.there / "nothing"), python=".venv/bin/python")
    assert "no repository there; send it: rft spare sync bare" in synced.refused("run", "--", "true", host="bare")
    assert "no Python there; build it: rft spare sync bare --setup" in synced.refused("sync", host="bare")
    synced.write("home", repo=str(synced.there))
    assert "not empty and no git repository" in synced.refused("sync", host="home")


def test_a_merged_model_is_built_there_once(synced, tiny_dir, tmp_path):
    adapter = make_adapter(tiny_dir / "model", tmp_path / "final")
    looks = ("python", "-c", "import os, sys; print(sorted(os.listdir(sys.argv[1])))", "{merged}")
    options = ("--adapter", adapter, "--format", "bf16")
    synced.job("first", *looks, options=options)
    assert synced.ended("first")["status"] == "finished", synced.spare("status", "first").stdout
    assert "model" in synced.state("first")["line"] and "config.json" in synced.state("first")["line"]
    synced.job("second", *looks, options=options)
    assert synced.ended("second")["status"] == "finished"
    assert "is there already" in synced.spare("status", "second").stdout
    merged = [path for path in (synced.there / "merged").iterdir() if path.is_dir()]
    assert len(merged) == 1 and re.fullmatch(r"model-[0-9a-f]{16}-bf16", merged[0].name)
    assert "say which with --adapter" in synced.refused("run", "--", "true", "{merged}")
