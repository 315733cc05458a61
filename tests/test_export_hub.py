"""`rft export --push_to_hub`, by huggingface_hub itself, to a hub on this machine (tests/hub_server.py)."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import socket

import export_kit as kit
import pytest
from hub_server import TOKEN, Hub
from tiny_plan import tiny_dir  # noqa: F401

from rft.errors import RftError
from rft.export.cli import main


@pytest.fixture
def hub(monkeypatch):
    found = Hub()
    monkeypatch.setenv("HF_ENDPOINT", found.url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.url)  # read from the environment at import
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_REPO_ID", "me/sums")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield found
    found.close()


@pytest.fixture(scope="module")
def adapter(tiny_dir, tmp_path_factory):
    return kit.make_adapter(tiny_dir / "model", tmp_path_factory.mktemp("adapter") / "final")


def push(adapter, base, out, *more):
    command = ["--out", str(out), "--push_to_hub", "--quiet", *more]
    if adapter is not None:
        command += ["--adapter", str(adapter), "--base", str(base), "--format", "mxfp4"]
    return main(command)


def refused(*arguments) -> str:
    with pytest.raises(RftError) as caught:
        push(*arguments)
    text = str(caught.value)
    assert "\n" not in text and TOKEN not in text
    return text


def test_all_files_arrive_in_one_commit_in_a_private_repository(hub, adapter, tiny_dir, tmp_path, capsys):
    out = tmp_path / "out"
    assert push(adapter, tiny_dir / "model", out) == 0
    repo = hub.repos["me/sums"]
    assert repo["private"] is True and repo["commits"] == 1
    assert repo["files"] == {path.name: path.read_bytes() for path in out.iterdir()}
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/me/sums (private)"


def test_public_is_asked_for(hub, adapter, tiny_dir, tmp_path):
    push(adapter, tiny_dir / "model", tmp_path / "out", "--public")
    assert hub.repos["me/sums"]["private"] is False
    with pytest.raises(RftError, match="--push_to_hub"):
        main(["--out", str(tmp_path / "x"), "--public", "--adapter", str(adapter), "--format", "mxfp4"])


def test_a_public_repository_gets_nothing_unasked(hub, adapter, tiny_dir, tmp_path):
    hub.repos["me/sums"] = {"private": False, "files": {}, "commits": 0}
    assert "exists and is public" in refused(adapter, tiny_dir / "model", tmp_path / "out")
    assert hub.repos["me/sums"]["files"] == {} and (tmp_path / "out").is_dir()


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_no_token_or_a_rejected_one_ends_it_before_anything_is_written(
    hub, adapter, tiny_dir, tmp_path, token, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", token)
    text = refused(adapter, tiny_dir / "model", tmp_path / "out")
    assert ("HF_TOKEN is not set" in text) if not token else ("401" in text)
    assert not (tmp_path / "out").exists() and not hub.repos


def test_no_repository_named(hub, adapter, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_REPO_ID", "sums")
    assert "HF_REPO_ID is 'sums'" in refused(adapter, tiny_dir / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("part", "status"), [("/api/repos/create", 403), ("/preupload/", 403), ("/lfs/", 403),
                                              ("/commit/", 413)])  # fmt: skip
def test_a_rejected_upload_shows_nothing_and_can_be_given_again(hub, adapter, tiny_dir, tmp_path, part, status):
    out = tmp_path / "out"
    hub.refuse[part] = status
    text = refused(adapter, tiny_dir / "model", out)
    assert str(status) in text and "no file of it became visible" in text and str(out) in text
    assert not hub.repos.get("me/sums", {}).get("files")
    hub.refuse.clear()
    assert push(None, None, out) == 0
    assert hub.repos["me/sums"]["files"].keys() == {path.name for path in out.iterdir()}


def test_only_a_whole_export_is_uploaded(hub, adapter, tiny_dir, tmp_path):
    kit.run_export(adapter, tiny_dir / "model", tmp_path / "out", "mxfp4")
    (tmp_path / "out" / "config.json").write_text("{}")
    assert "config.json is not what was written" in refused(None, None, tmp_path / "out")
    assert "not a whole export" in refused(None, None, tmp_path / "nowhere")
    assert not hub.repos


def test_a_hub_that_cannot_be_reached(hub, adapter, tiny_dir, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert "nothing was written" in refused(adapter, tiny_dir / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()
