"""`rft export` where something is wrong: one line that names it, and nothing that looks like an export."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import json
import os
import shutil
import signal
import subprocess
import sys

import export_kit as kit
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_plan import tiny_dir  # noqa: F401

from rft import cli
from rft.errors import RftError
from rft.export import base as bases
from rft.export import checkpoint
from rft.export.cli import main


@pytest.fixture(scope="module")
def made(tiny_dir, tmp_path_factory):
    return kit.make_adapter(tiny_dir / "model", tmp_path_factory.mktemp("adapter") / "final")


@pytest.fixture
def adapter(made, tmp_path):
    return shutil.copytree(made, tmp_path / "final")


@pytest.fixture
def base(tiny_dir, tmp_path):
    return shutil.copytree(tiny_dir / "model", tmp_path / "base")


def refused(adapter, base, out, *words, form="mxfp4", more=()):
    """The export fails with one line that has `words`, and leaves the folder of `out` as it was."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(RftError) as caught:
        main(["--adapter", str(adapter), "--base", str(base), "--out", str(out), "--format", form, "--quiet", *more])
    text = str(caught.value)
    assert "\n" not in text and not [word for word in words if word not in text], text
    assert sorted(out.parent.iterdir()) == before


def rewrite(folder, change):
    path = folder / "adapter_model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path, metadata={"format": "pt"})


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def nudge(base):
    """Another checkpoint of the same shapes."""
    found = load_file(base / "model.safetensors")
    found["model.norm.weight"] = found["model.norm.weight"] * 2
    save_file(found, base / "model.safetensors", metadata={"format": "pt"})


def test_another_base_than_the_adapter_names(adapter, base, tmp_path):
    nudge(base)
    refused(adapter, base, tmp_path / "out", str(base), "was trained on", "name that one")


def test_another_base_than_the_checkpoint_recorded(adapter, base, tmp_path):
    edit(adapter / "adapter_config.json", base_model_name_or_path="gone/away")
    bases.write_identity(adapter, str(base))
    kit.run_export(adapter, base, tmp_path / "fits", "mxfp4")
    nudge(base)
    refused(adapter, base, tmp_path / "out", "fingerprint", "was trained on", "name that one")


def test_a_base_of_which_nothing_is_known_is_said_aloud(adapter, base, tmp_path, capsys):
    edit(adapter / "adapter_config.json", base_model_name_or_path="gone/away")
    command = ["--adapter", str(adapter), "--base", str(base), "--out", str(tmp_path / "out"), "--format", "mxfp4"]
    assert main(command) == 0 and "warning: nothing tells whether" in capsys.readouterr().err
    assert "(not verified)" in (tmp_path / "out" / "README.md").read_text()


def test_a_rank_that_the_tensors_do_not_have(adapter, base, tmp_path):
    edit(adapter / "adapter_config.json", r=4)
    refused(adapter, base, tmp_path / "out", "adapter_model.safetensors", "rank 4", "(8, ")
    edit(adapter / "adapter_config.json", r=3)
    refused(adapter, base, tmp_path / "out", "adapter_model.safetensors", "rank 3")


def test_shapes_of_another_model(adapter, base, tmp_path):
    rewrite(adapter, lambda t: t.update({n: torch.ones(8, 96) for n in t if n.endswith("q_proj.lora_A.weight")}))
    refused(adapter, base, tmp_path / "out", "q_proj", "(8, 96)", "name the base")


def test_a_module_that_the_base_lacks(adapter, base, tmp_path):
    rewrite(adapter, lambda t: t.update({n.replace(".3.", ".9."): t.pop(n) for n in list(t) if ".3." in n}))
    refused(adapter, base, tmp_path / "out", "layers.9", "does not have")


def test_half_a_pair_and_a_value_that_is_not_finite(adapter, base, tmp_path):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    kept = load_file(adapter / "adapter_model.safetensors")[name]
    rewrite(adapter, lambda t: t.pop(name))
    refused(adapter, base, tmp_path / "out", "q_proj has lora_A only")
    rewrite(adapter, lambda t: t.update({name: torch.full_like(kept, float("nan"))}))
    refused(adapter, base, tmp_path / "out", "not finite")


@pytest.mark.parametrize(
    "setting", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"peft_type": "LOHA"}]
)
def test_an_adapter_that_is_more_than_b_times_a(adapter, base, tmp_path, setting):
    edit(adapter / "adapter_config.json", **setting)
    refused(adapter, base, tmp_path / "out", "adapter_config.json", next(iter(setting)))


def test_an_adapter_that_changed_since_it_was_written(adapter, base, tmp_path):
    (adapter / "digests.json").write_text(json.dumps({"adapter_model.safetensors": "0" * 64}))
    refused(adapter, base, tmp_path / "out", "adapter_model.safetensors is not what was written")


def test_no_adapter_no_weights(adapter, base, tmp_path):
    refused(tmp_path / "nowhere", base, tmp_path / "out", "adapter_config.json", "name a run's final/")
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, base, tmp_path / "out", "adapter_model.safetensors is missing")


def test_a_missing_and_a_torn_shard(adapter, tiny_dir, tmp_path):
    base = kit.shard(tiny_dir / "model", tmp_path / "sharded")
    second = base / "model-00002-of-00003.safetensors"
    whole = second.read_bytes()
    second.unlink()
    refused(adapter, base, tmp_path / "out", second.name, "missing", "again")
    second.write_bytes(whole[:-100])
    refused(adapter, base, tmp_path / "out", second.name, str(len(whole) - 100), "fetch it again")
    second.write_bytes(whole[:50])
    refused(adapter, base, tmp_path / "out", second.name, "fetch it again")


def test_mxfp4_from_a_base_that_has_none_and_a_model_of_another_kind(adapter, tiny_dir, base, tmp_path):
    refused(adapter, tiny_dir / "model-bf16", tmp_path / "out", "holds no MXFP4 experts", "--format bf16")
    edit(base / "config.json", model_type="llama")
    refused(adapter, base, tmp_path / "out", "'llama'", "gpt_oss")


def test_an_existing_folder_and_one_that_is_being_written(adapter, base, tmp_path):
    (tmp_path / "out").mkdir()
    refused(adapter, base, tmp_path / "out", str(tmp_path / "out"), "exists", "another folder")
    with checkpoint.new_folder(tmp_path / "other", 0):
        refused(adapter, base, tmp_path / "other", "another export is writing it")


def test_too_little_room_is_said_before_anything_is_written(adapter, base, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refused(adapter, base, tmp_path / "out", "are needed", "free space")


def in_another_process(adapter, base, out, prepare: str, advance: str = "lambda done: None"):
    """An export in a process of its own, with `prepare` run before and `advance` told of its progress."""
    code = (
        "import os, resource, signal, sys\nfrom pathlib import Path\n"
        "from rft.export import adapter, base, checkpoint\nfrom rft.errors import RftError\n"
        f"{prepare}\nfound = adapter.read(Path(sys.argv[1]))\n"
        "try: checkpoint.export(found, base.find(found, sys.argv[2]), Path(sys.argv[3]), 'mxfp4', "
        f"advance={advance})\n"
        "except RftError as err: sys.exit(str(err))"
    )
    return subprocess.run([sys.executable, "-c", code, adapter, base, out], capture_output=True, text=True)


def test_a_disk_that_fills_up_on_the_way(adapter, base, tmp_path):
    """A file may not grow beyond a limit, which cuts a write in the middle as a full disk does."""
    limit = (
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"
    )
    done = in_another_process(adapter, base, tmp_path / "out", limit)
    assert done.returncode == 1 and "cannot write it" in done.stderr and "free space" in done.stderr
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.part").exists()


def test_a_killed_export_leaves_nothing_that_loads_and_the_next_one_clears_it_away(adapter, base, tmp_path):
    done = in_another_process(adapter, base, tmp_path / "out", "", "lambda done: os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    left = tmp_path / ".out.part"
    assert left.is_dir() and not (left / "config.json").exists()
    kit.run_export(adapter, base, tmp_path / "out", "mxfp4")
    assert not left.exists() and (tmp_path / "out" / "config.json").is_file()


def test_ctrl_c_leaves_nothing(adapter, base, tmp_path):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kit.run_export(adapter, base, tmp_path / "out", "mxfp4", advance=interrupt)
    assert not [name for name in os.listdir(tmp_path) if "out" in name]


def test_the_command_ends_with_one_line_and_status_2(adapter, base, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    command = ["export", "--adapter", str(adapter), "--base", str(base), "--out", str(tmp_path / "out")]
    assert cli.main([*command, "--format", "mxfp4"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --out") and error.count("\n") == 1
