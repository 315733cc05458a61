"""The parts of ``rft spare`` that need no other machine: its file, the comparison of two machines, a job's script."""

import json
import subprocess
from pathlib import Path

import pytest

from rft.errors import RftError
from rft.spare import config, facts, job, ssh, verify

GOOD = {"host": "h", "user": "u", "repo": "/r", "adapters": "/a", "merged": "/m", "jobs": "/j"}


@pytest.fixture
def key(tmp_path) -> Path:
    path = tmp_path / "key"
    path.write_text("k")
    path.chmod(0o600)
    return path


def host(tmp_path, private, **more) -> config.Host:
    values = {**GOOD, "key": str(private), **more}
    path, env = tmp_path / "spare.toml", values.pop("env", {})
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    lines += [f"env.{name} = {json.dumps(value)}" for name, value in env.items()]
    path.write_text("[far]\n" + "\n".join(lines) + "\n")
    return config.load("far", path)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(RftError) as caught:
        args[0](*args[1:], **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_machine(tmp_path, key):
    one = host(tmp_path, key, port=2222, data=["data", "x.jsonl"], python="/opt/python")
    assert one.address == "u@h" and one.port == 2222 and one.data == ("data", "x.jsonl")
    assert one.interpreter == "/opt/python" and host(tmp_path, key).interpreter == "/r/.venv/bin/python"
    assert config.file(None).name == "spare.toml" and config.file(Path("x")) == Path("x")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"host": None}, "[far] host: missing"),
        ({"jobs": ""}, "[far] jobs: missing"),
        ({"merged": "~/m"}, "merged = '~/m': give an absolute path on that machine"),
        ({"hots": "x"}, "hots: unknown key; known are adapters, "),
        ({"port": "22"}, "port = '22': give a int"),
        ({"key": "/none"}, "key = '/none': no such file here"),
        ({"host": "-oProxyCommand=x"}, "host and user begin with a letter"),
    ],
)
def test_what_is_wrong_with_a_machine(tmp_path, key, changed, said):
    assert said in refusal(host, tmp_path, key, **changed)


def test_keys_for_all_to_read_and_unknown_machines(tmp_path, key):
    host(tmp_path, key)
    assert "no machine [near]; it has far" in refusal(config.load, "near", tmp_path / "spare.toml")
    assert "not there; describe the machine" in refusal(config.load, "far", tmp_path / "none.toml")
    key.chmod(0o644)
    assert f"chmod 600 {key}" in refusal(host, tmp_path, key)


def side(**changed) -> dict:
    one = {"commit": "c" * 40, "dirty": False, "series": "s", "applied": "s"}
    return one | {"packages": ["a==1", "b==2"], "data": {"data/x": "d" * 64}} | changed


def compared(here=None, there=None, skip=()) -> dict:
    checks = verify.compare(side(**here or {}), side(**there or {}), "far", skip)
    return {check.name: check for check in checks}


def test_equal_machines():
    assert list(compared()) == list(verify.NAMES) and all(check.ok for check in compared().values())
    assert compared(there={"data": {"data/x": "d" * 64, "data/more": "e"}})["data"].ok


@pytest.mark.parametrize(
    ("name", "there", "told"),
    [
        ("commit", {"commit": "e" * 40}, f"wrong commit: {'e' * 12} there, {'c' * 12} here"),
        ("commit", {"commit": None}, "wrong commit: None there"),
        ("commit", {"dirty": True}, "changes that are not committed, there"),
        ("series", {"series": "t", "applied": "t"}, "here s (applied s), there t (t)"),
        ("series", {"applied": None}, "there s (None)"),
        ("packages", {"packages": ["a==1", "b==3"]}, "b (2 here, 3 there)"),
        ("packages", {"packages": ["a==1"]}, "b (2 here, missing there)"),
        ("data", {"data": {}}, f"data/x ({'d' * 12} here, missing there)"),
    ],
)
def test_each_difference_fails_its_own_check_alone(name, there, told):
    checks = compared(there=there)
    assert [check.name for check in checks.values() if not check.ok] == [name]
    assert told in checks[name].told and checks[name].remedy and not checks[name].skipped
    assert compared(there=there, skip=[name])[name].skipped


def test_facts_of_this_machine():
    found = facts.collect(["requirements", "LICENSE"])
    assert len(found["commit"]) == 40 and len(found["series"]) == 12
    assert any(line.startswith("openrlhf==0.9.3") for line in found["packages"])
    assert {"requirements/cpu.lock", "LICENSE"} <= set(found["data"])


def test_a_jobs_script_keeps_its_words(tmp_path, key):
    one = host(tmp_path, key, env={"MARK": "a b'c"}, repo=str(tmp_path), jobs=str(tmp_path / "j obs"))
    (tmp_path / "j obs" / "n").mkdir(parents=True)
    merge = job.Merge("/a/x", None, "bf16", "k")
    words = ["printf", "%s|", "$HOME `id`", "it's", "{merged}", "x={adapter}", "--flag=$(false)"]
    text = job.script(one, "n", ["sh", "-c", 'printf "%s|" "$@" "$MARK" "$PWD"', "sh", *words[2:4], *words[5:]], merge)
    subprocess.run(["bash", "-c", text], check=True)
    folder = tmp_path / "j obs" / "n"
    assert (folder / "log.txt").read_text() == f"$HOME `id`|it's|x=/a/x|--flag=$(false)|a b'c|{tmp_path}|"
    assert (folder / "exit").read_text() == "0\n" and "export" not in text.split("job() {")[1]
    built = job.script(one, "n", words, merge)
    assert "-m rft.cli export --adapter /a/x --out /m/k --format bf16 --quiet" in built and "flock 9" in built
    assert "/m/k x=/a/x" in built
    assert "say which with --adapter" in refusal(job.script, one, "n", words, None)


def test_names_of_jobs():
    assert job.new_name(["python", "eval_rl.py", "--x"], None).startswith("eval_rl-")
    assert job.new_name(["true"], "mine") == "mine"
    for wrong in ("a.b", "../x", "-x", "a:b", "x" * 62, "a b"):
        assert "use letters, digits" in refusal(job.new_name, ["true"], wrong)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ssh: connect to host h port 22: Connection timed out", "unreachable (ssh: connect to host h"),
        ("ssh: Could not resolve hostname h: Name or service not known", "unreachable (ssh: Could not resolve"),
        ("u@h: Permission denied (publickey).", "refused; add its public half to u's authorized_keys"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.", "own key has changed"),
        ("No ED25519 host key is known for h\nHost key verification failed.", "own key is not known here"),
        ('Load key "/k": invalid format\nu@h: Permission denied (publickey).', "is no private key (Load key"),
        ("", "unreachable (no reason given)"),
    ],
)
def test_why_there_is_no_connection(tmp_path, key, said, told):
    line = ssh.Remote(host(tmp_path, key)).trouble(said)
    assert told in line and "\n" not in line and line.startswith("far (u@h, port 22): ")
