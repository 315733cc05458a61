"""Adapter checkpoints: whole or not there, verified, pruned last, refused when they do not fit (rft/checkpoint.py)."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_plan import tiny_dir  # noqa: F401  (a fixture)
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft import checkpoint
from rft.checkpoints import base as checkpoint_base
from rft.errors import RftError
from rft.export import base as export_base


@pytest.fixture(scope="module")
def made(tiny_dir):  # noqa: F811
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_dir / "model-bf16", dtype=torch.bfloat16)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "o_proj"]), autocast_adapter_dtype=False)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    return model, AutoTokenizer.from_pretrained(tiny_dir / "model"), tiny_dir


def save(made, folder, step, **state):
    def write_resume(resume):
        (resume / "rank0.pt").write_bytes(b"x" * 1000)

    model, tokenizer, _ = made
    path = folder / f"global_step{step}_hf"
    return checkpoint.save_adapter(model, tokenizer, str(path), write_resume, {"controller": {"step": step}, **state})


def test_a_save_holds_what_peft_loads_back_bit_equal(made, tmp_path):
    folder = save(made, tmp_path, 1)
    names = {p.name for p in folder.iterdir()}
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "digests.json",
        "base.json",
        "resume",
    } <= names
    assert "config.json" not in names and checkpoint.verify(folder) is None
    assert json.loads((folder / "adapter_config.json").read_text())["inference_mode"] is True
    model, _, tiny = made
    base = AutoModelForCausalLM.from_pretrained(tiny / "model-bf16", dtype=torch.bfloat16)
    loaded = PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False)
    wanted = {n: p for n, p in model.named_parameters() if ".lora_" in n}
    found = {n: p for n, p in loaded.named_parameters() if ".lora_" in n}
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[n], found[n]) for n in wanted)


def test_a_second_save_replaces_the_first(made, tmp_path):
    save(made, tmp_path, 1)
    (tmp_path / "global_step1_hf" / "stray").write_text("of the earlier save")
    save(made, tmp_path, 1)
    assert not (tmp_path / "global_step1_hf" / "stray").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["global_step1_hf"]


def test_newest_takes_the_newest_whole_one_and_says_what_it_skipped(made, tmp_path, capsys):
    for step in (1, 2, 10):
        save(made, tmp_path, step)
    assert checkpoint.newest(tmp_path).name == "global_step10_hf"
    for name in ("adapter_model.safetensors", "resume/rank0.pt"):
        with open(tmp_path / "global_step10_hf" / name, "r+b") as file:
            file.truncate(10)
        assert checkpoint.newest(tmp_path).name == "global_step2_hf"
        assert f"global_step10_hf: {name if 'adapter' in name else 'adapter'}" in capsys.readouterr().out
    (tmp_path / "global_step2_hf" / "tokenizer.json").unlink()
    assert checkpoint.newest(tmp_path).name == "global_step1_hf"
    assert "tokenizer.json is missing" in capsys.readouterr().out


def test_nothing_to_continue_is_an_error(made, tmp_path):
    with pytest.raises(RftError, match=r"--load_checkpoint: .* holds no checkpoint to continue \(it is empty\)"):
        checkpoint.newest(tmp_path)
    model, tokenizer, _ = made
    checkpoint.save_adapter(model, tokenizer, str(tmp_path / "global_step5_hf"))
    with pytest.raises(RftError, match="global_step5_hf: it holds no resume state"):
        checkpoint.newest(tmp_path)


def test_prune_drops_the_oldest_steps(made, tmp_path):
    for step in (2, 9, 10, 11):
        save(made, tmp_path, step)
    checkpoint.prune(tmp_path, keep=3)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == [f"global_step{s}_hf" for s in (9, 10, 11)]


def test_the_best_stays_beside_the_latest(made, tmp_path):
    for step in (2, 9, 10, 11):
        save(made, tmp_path, step)
    (tmp_path / "best").symlink_to("global_step2_hf")
    checkpoint.prune(tmp_path, keep=2)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == [f"global_step{s}_hf" for s in (2, 10, 11)]
    (tmp_path / "best").unlink()
    (tmp_path / "best").symlink_to("global_step11_hf")
    checkpoint.prune(tmp_path, keep=1)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["global_step11_hf"]


def test_nothing_is_deleted_while_the_newest_is_not_whole(made, tmp_path):
    for step in (1, 2, 3):
        save(made, tmp_path, step)
    with open(tmp_path / "global_step3_hf" / "resume" / "rank0.pt", "r+b") as file:
        file.truncate(10)
    with pytest.raises(RftError, match=r"global_step3_hf: reading it back, .*rank0.pt is not what was written"):
        checkpoint.prune(tmp_path, keep=1)
    assert len(checkpoint.checkpoints(tmp_path)) == 3


def test_a_base_of_other_contents_is_refused(made, tmp_path):
    """Same name, other weights."""
    folder = save(made, tmp_path, 1)
    model = made[2] / "model-bf16"
    recorded = json.loads((folder / "base.json").read_text())
    assert recorded["fingerprint"] == export_base.fingerprint(export_base.tables(model))
    assert checkpoint_base.problem_of(folder, str(model)) is None
    assert checkpoint_base.problem_of(folder, "not/here") is None
    args = SimpleNamespace(ckpt_path=str(tmp_path), pretrain=str(model))
    assert checkpoint._chosen(args) == folder
    (folder / "base.json").write_text(json.dumps({**recorded, "fingerprint": "0" * 32}))
    assert "trained on" in checkpoint_base.problem_of(folder, str(model))
    digests = json.loads((folder / "digests.json").read_text())
    digests["base.json"] = checkpoint.sha256(folder / "base.json")
    (folder / "digests.json").write_text(json.dumps(digests))
    with pytest.raises(RftError, match=r"its adapter was trained on .* other weights; give the model"):
        checkpoint._chosen(args)


@pytest.mark.parametrize(
    ("key", "value"),
    [("pretrain", "another"), ("lora_rank", 8), ("lora_alpha", 3), ("seed", 1), ("target_modules", [])],
)
def test_a_checkpoint_of_another_run_is_refused(made, tmp_path, key, value, monkeypatch):
    identity = {"pretrain": "m", "lora_rank": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "seed": 0}
    save(made, tmp_path, 1, identity=identity)
    args = SimpleNamespace(ckpt_path=str(tmp_path), **{**identity, key: value})
    with pytest.raises(RftError, match=f"written with --{key}"):
        checkpoint.load(None, None, args)


def test_a_full_disk_leaves_nothing_half_written(made, tmp_path):
    """A real OSError in the middle of a write (a limit on the size of a file): one line, earlier checkpoints stand."""
    save(made, tmp_path, 1)
    _, _, tiny = made
    code = f"""
import resource, sys
sys.path.insert(0, {str(os.path.dirname(__file__))!r})
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from rft import checkpoint
from rft.checkpoints import base as checkpoint_base
from rft.errors import RftError
from rft.export import base as export_base
from pathlib import Path
tiny, out = Path({str(tiny)!r}), Path({str(tmp_path)!r})
base = AutoModelForCausalLM.from_pretrained(tiny / "model-bf16", dtype=torch.bfloat16)
model = PeftModel.from_pretrained(base, out / "global_step1_hf", is_trainable=True)
tokenizer = AutoTokenizer.from_pretrained(tiny / "model")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save_adapter(model, tokenizer, str(out / "global_step2_hf"))
except RftError as error:
    print("RFT", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RFT")]
    assert "global_step2_hf: writing the adapter failed (rank 0: " in line and "free space" in line
    assert [p.name for p in tmp_path.iterdir()] == ["global_step1_hf"]
    assert checkpoint.verify(tmp_path / "global_step1_hf") is None
