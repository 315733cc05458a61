"""`rft export`: an adapter merged into a checkpoint, against PEFT's own merge in memory."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import json
import subprocess
import sys

import export_kit as kit
import pytest
import torch
from tiny_plan import tiny_dir  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer

from rft.checkpoint import verify
from rft.dequantise import SOURCE_KEY, checkpoint_digest
from rft.export import card
from rft.export.cli import main
from rft.export.safetensors_file import encode_header, read_header
from rft.tiny.model import load_checkpoint

EXPERTS = ("gate_up_proj_blocks", "gate_up_proj_scales", "down_proj_blocks", "down_proj_scales")


@pytest.fixture(scope="module")
def model(tiny_dir):
    return tiny_dir / "model"


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return kit.make_adapter(model, tmp_path_factory.mktemp("adapter") / "final")


@pytest.fixture(scope="module")
def exported(model, adapter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for form in ("mxfp4", "bf16"):
        kit.run_export(adapter, model, folder / form, form)
    return folder


def test_reloaded_logits_are_those_of_the_merge_in_memory_bit_for_bit(model, adapter, exported):
    wanted = kit.logits(kit.merged_in_memory(model, adapter))
    assert not torch.equal(wanted, kit.logits(load_checkpoint(model)))  # the adapter does something
    assert torch.equal(kit.logits(load_checkpoint(exported / "mxfp4")), wanted)


def test_bf16_and_mxfp4_give_the_same_logits(exported):
    narrow = AutoModelForCausalLM.from_pretrained(exported / "bf16", dtype=torch.bfloat16, attn_implementation="eager")
    assert torch.equal(kit.logits(narrow), kit.logits(load_checkpoint(exported / "mxfp4")))


def test_only_the_targets_changed_and_the_experts_are_the_same_bytes(model, exported):
    before, after = kit.tensors(model), kit.tensors(exported / "mxfp4")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert {name.split(".")[-2] for name in changed} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(changed) == 16 and sum(name.endswith(EXPERTS) for name in before) == 16
    config = json.loads((exported / "mxfp4" / "config.json").read_text())
    assert config["quantization_config"] == json.loads((model / "config.json").read_text())["quantization_config"]
    assert "quantization_config" not in json.loads((exported / "bf16" / "config.json").read_text())


def test_shards_stay_shards_and_blocks_may_lie_apart_from_their_scales(model, adapter, exported, tmp_path):
    base = kit.shard(model, tmp_path / "sharded")
    for form in ("mxfp4", "bf16"):
        out = tmp_path / form
        kit.run_export(adapter, base, out, form)
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == {path.name for path in base.glob("*.safetensors")}
        ours, whole = kit.tensors(out), kit.tensors(exported / form)
        assert ours.keys() == whole.keys() == index["weight_map"].keys()
        assert all(torch.equal(ours[name], whole[name]) for name in ours)
        assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in ours.values())


def test_the_bf16_twin_as_base_gives_the_same_and_loses_the_claim_to_be_a_twin(tiny_dir, adapter, exported, tmp_path):
    kit.run_export(adapter, tiny_dir / "model-bf16", tmp_path / "out", "bf16")
    ours, whole = kit.tensors(tmp_path / "out"), kit.tensors(exported / "bf16")
    assert ours.keys() == whole.keys() and all(torch.equal(ours[name], whole[name]) for name in ours)
    assert SOURCE_KEY not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_it_stands_alone_and_its_digests_hold(model, exported):
    for form in ("mxfp4", "bf16"):
        folder = exported / form
        assert verify(folder) is None
        names = {path.name for path in folder.iterdir()}
        assert {"generation_config.json", "chat_template.jinja", "README.md", "model.safetensors.index.json"} <= names
        ours, base = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(model)
        assert ours.chat_template == base.chat_template and len(ours) == len(base)
        assert not [name for name in names if name.endswith(".part")]
    assert checkpoint_digest(exported / "mxfp4") != checkpoint_digest(model)


def test_patterns_and_rslora_scale_as_peft_scales(model, tmp_path):
    options = {"rank_pattern": {"o_proj": 4}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}, "use_rslora": True}
    adapter = kit.make_adapter(model, tmp_path / "adapter", **options)
    kit.run_export(adapter, model, tmp_path / "out", "mxfp4")
    wanted, ours = kit.merged_in_memory(model, adapter).state_dict(), kit.tensors(tmp_path / "out")
    assert all(torch.equal(ours[name], wanted[name]) for name in ours if ".self_attn." in name)


def test_a_header_is_read_back_as_it_was_written(tmp_path):
    table = [("b", "BF16", (2, 3)), ("a", "U8", (5,)), ("none", "F32", (0, 4))]
    (tmp_path / "x").write_bytes(encode_header(table) + bytes(17))
    found = read_header(tmp_path / "x")
    assert [(entry.name, entry.dtype, entry.shape) for entry in found] == table
    assert (found[0].start - 8) % 8 == 0 and found[1].start == found[0].start + 12


def test_the_card_tells_base_adapter_recipe_and_evaluation(model, adapter, tmp_path, capsys):
    import shutil

    run = tmp_path / "runs" / "try-1"
    (run / "metrics").mkdir(parents=True)
    final = shutil.copytree(adapter, run / "final")
    flags = [
        "--actor_learning_rate",
        "1e-3",
        "--target_modules",
        "q_proj",
        "k_proj",
        "--prompt_data",
        "/secret/a.jsonl",
    ]
    record = {"id": "try-1", "flags": flags, "commit": "abc", "series_id": "s1", "versions": {"torch": "2"}}
    (run / "run.json").write_text(json.dumps(record))
    lines = [{"event": "train", "step": 40}]
    lines += [{"event": "eval", "step": s, "mode": "greedy_pass@1", "accuracy": a, "dataset": "/secret/held.jsonl",
               "n_problems": 9} for s, a in ((0, 0.25), (10, 0.5), (40, 0.75))]  # fmt: skip
    (run / "metrics" / "training_metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = main(["--adapter", str(final), "--base", str(model), "--out", str(tmp_path / "m"), "--format", "mxfp4"])
    card = (tmp_path / "m" / "README.md").read_text()
    report = json.loads((tmp_path / "m" / "rft_export.json").read_text())
    assert code == 0 and report["adapter"]["digest"] in card and report["base"]["fingerprint"] in card
    assert "| run | try-1, step 40 |" in card and "`q_proj k_proj`" in card and "`1e-3`" in card
    assert "| base | held | greedy_pass@1 | 9 | 0.2500 |" in card and "0.7500" in card and "0.5000" not in card
    assert "secret" not in card and str(tmp_path) not in card  # it may be published
    assert report["adapter"]["digest"][:12] in capsys.readouterr().out


def test_an_adapter_on_a_data_disk_is_of_the_run_whose_id_it_lies_under(adapter, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path / "runs"))
    (tmp_path / "runs" / "try-2").mkdir(parents=True)
    (tmp_path / "runs" / "try-2" / "run.json").write_text(json.dumps({"id": "try-2", "flags": []}))
    folder = shutil.copytree(adapter, tmp_path / "data" / "try-2" / "ckpt" / "global_step20_hf")
    facts = card.of_run(folder)
    assert facts["run"] == "try-2" and facts["step"] == 20 and card.of_run(adapter) == {"evaluation": []}


def test_help_answers_without_torch():
    code = (
        "import sys; from rft.export.cli import main\n"
        "try: main(['-h'])\nexcept SystemExit: print({'torch', 'numpy', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")
