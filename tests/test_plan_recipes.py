"""`rft plan` on the recipes: their own flags, the verdict, the cheapest change, a run's figures (rft/plan/)."""

import json
import os
from pathlib import Path

import pytest

from rft.errors import RftError
from rft.plan import advice, calibrate, cli, node, seconds, setting, tables
from rft.plan.geometry import find
from rft.runs import REPO

ENV = dict(os.environ)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recipes():
    """Each model's setting as its launcher gives it, read once: a launcher takes a second to answer."""
    return {model: setting.read(model, None, [], dict(os.environ), 80 << 30) for model in ("20b", "120b")}


def test_the_numbers_are_the_launchers(recipes):
    small, large = recipes["20b"], recipes["120b"]
    assert (small.lora_rank, small.answer_tok, small.prompts, small.offload, small.reference_passes) == (
        32,
        4096,
        16,
        False,
        True,
    )
    assert (large.lora_rank, large.answer_tok, large.prompts, large.offload, large.adam_offload) == (
        64,
        3072,
        8,
        True,
        True,
    )
    assert (large.ranks, large.engines, large.tensor_parallel, large.checkpointing) == (4, 2, 2, True)


def test_flags_behind_the_recipe_win():
    flags = [*cli.split_flags(1), "--generate_max_len", "512"]
    found = setting.read("20b", None, flags, ENV, 80 << 30)
    assert (found.ranks, found.engines, found.colocated, found.sleeps, found.answer_tok) == (1, 1, True, True, 512)


def test_a_flag_that_the_recipe_refuses_is_one_line():
    with pytest.raises(RftError, match=r"train_grpo_20b.sh --dry-run refused.*--generate_max_len"):
        setting.read("20b", None, ["--generate_max_leng", "512"], ENV, 80 << 30)
    with pytest.raises(RftError, match=r"--recipe nothing\.sh"):
        setting.read("20b", "nothing.sh", [], ENV, 80 << 30)


@pytest.mark.parametrize(
    ("gpus", "ranks", "engines", "tensor_parallel"), [(2, 1, 1, 1), (3, 1, 1, 2), (4, 2, 1, 2), (8, 4, 2, 2)]
)
def test_gpus_are_shared_out(gpus, ranks, engines, tensor_parallel):
    flags = cli.split_flags(gpus)
    value = dict(zip(flags[::2], flags[1::2], strict=True))
    assert int(value["--actor_num_gpus_per_node"]) == ranks
    assert int(value["--vllm_num_engines"]) == engines and int(value["--vllm_tensor_parallel_size"]) == tensor_parallel


def test_the_cheapest_change_fits_and_is_the_fastest(recipes):
    """The advice, applied, fits; no other single change that fits is faster; what fits already gets none."""
    whole = recipes["120b"].changed(streamed=False)
    for s in (
        whole,
        recipes["20b"].changed(gpu_bytes=32 << 30, streamed=False),
        recipes["20b"].changed(answer_tok=30000),
    ):
        assert not node.plan(s).fits
        found = advice.cheapest(s)
        assert found is not None and found.before_s == seconds.step_s(s)
        single = [change for change in advice.changes(s) if node.plan(change.of(s)).fits]
        same_training = [change for change in single if change.rank == 0]
        assert found.flags in [change.flags for change in same_training or single] or not single
        for change in same_training:
            assert found.step_s <= seconds.step_s(change.of(s))
    assert advice.cheapest(recipes["20b"]) is None


def test_shorter_answers_come_after_everything_else(recipes):
    s = recipes["20b"].changed(answer_tok=12000)
    assert not node.plan(s).fits and "generate_max_len" not in advice.cheapest(s).flags


def test_a_small_host_wants_streamed_loading(recipes):
    """Four ranks with a whole bf16 copy each are 168 GB."""
    s = recipes["20b"].changed(host_bytes=128 << 30, streamed=False)
    planned = node.plan(s)
    assert planned.worst.name == "host" and planned.worst.largest.bytes == 4 * find("20b").bf16_bytes
    assert "--stream_load" in advice.cheapest(s).flags or "resident" in advice.cheapest(s).flags


def test_nothing_helps_on_a_card_that_is_too_small(recipes):
    assert advice.cheapest(recipes["120b"].changed(gpu_bytes=8 << 30)) is None


def test_verdict_and_exit_status(recipes, monkeypatch, capsys):
    monkeypatch.setattr(setting, "read", lambda model, *_, **__: recipes[model].changed(streamed=False))
    assert cli.main(["--model", "120b"]) == 1
    said = capsys.readouterr().out
    assert "does not fit: actor GPU (1 of 4): 220.1 GiB of 80.0 GiB (deepspeed.initialize)" in said
    assert "cheapest change: --experts resident" in said
    assert cli.main(["--model", "120b", "--stream_load", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["change"] is None and {"train", "generate"} <= found["phases_s"].keys()
    for pool in found["pools"]:
        assert sum(term["bytes"] for term in pool["terms"]) == pool["peak_bytes"]


def test_several_cards_are_several_plans(recipes, monkeypatch, capsys):
    monkeypatch.setattr(setting, "read", lambda model, *_, **__: recipes[model])
    assert cli.main(["--model", "20b", "--gpu_gib", "24,80", "--json"]) == 1
    assert [plan["fits"] for plan in json.loads(capsys.readouterr().out)] == [False, True]
    with pytest.raises(RftError, match="--gpu_gib eighty"):
        cli.main(["--gpu_gib", "eighty"])


def test_the_documents_hold_the_printed_tables(recipes):
    text = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    one_gpu = setting.read("20b", "train_grpo_1gpu.sh", [], ENV, 80 << 30)
    for table in (tables.ways(recipes["20b"]), tables.ways(recipes["120b"]), tables.cards(one_gpu)):
        assert table in text, table
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.ways(recipes["20b"]) in readme and tables.ways(recipes["120b"]) in readme


@pytest.fixture
def run(tmp_path, monkeypatch, recipes):
    """A finished run of the 20b recipe on GPUs: it measured 3 GB more than planned, and trained twice as long."""
    s = recipes["20b"].changed(answer_tok=2000)
    actor = node.plan(s).pools[0]
    actor.moments.pop("deepspeed.initialize", None)
    context = next(term.bytes for term in actor.static if term.name.startswith("CUDA context"))
    tensors = actor.peak - context
    folder = tmp_path / "run-1"
    (folder / "metrics").mkdir(parents=True)
    flags, _ = setting.recipe_flags("train_grpo_20b.sh", [], dict(os.environ))
    paths = dict.fromkeys(("log", "samples", "ckpt", "save"), str(folder))
    paths |= {"run_dir": str(folder), "metrics": str(folder / "metrics")}
    record = {"command": ["python", "-u", "-m", setting.MODULE_TOKEN, *flags], "paths": paths, "environment": {}}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "resources.json").write_text(json.dumps({"peak_pss_bytes": 100 * 10**9}))
    line = {"event": "train", "truncated": 0.0, "response_length_p99": 2000.0, "gpu_peak_bytes": tensors + 3 * 10**9}
    line |= {"train_s": 2 * seconds.phases(s)["train"], "generate_s": 7.0}
    small = {**line, "gpu_peak_bytes": 10**9, "response_length_p99": 900.0}
    (folder / "metrics" / "training_metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in (small, line)))
    return folder


def test_a_run_calibrates_the_plan(run, recipes):
    found = calibrate.read(str(run), 80 << 30)
    assert found.gpu_bytes == 3 * 10**9 and found.ratios["train"] == pytest.approx(2.0)
    plain = node.plan(recipes["20b"])
    carried = found.apply(node.plan(recipes["20b"]))
    assert carried.pools[0].peak == plain.pools[0].peak + 3 * 10**9
    assert carried.pools[-1].peak - plain.pools[-1].peak == found.host_bytes
    assert carried.pools[1].peak == plain.pools[1].peak  # engines were not measured
    assert found.phases({"train": 10.0, "save": 1.0}) == {"train": pytest.approx(20.0), "save": 1.0}
    assert "gpu_peak_bytes" in found.text()


def test_answers_that_were_cut_off_have_full_length(run):
    lines = [{"truncated": 0.1, "response_length_p99": 10.0}]
    s = setting.Setting(find("20b"), 4, 2, 2, 1024, 4096, 16, 8, 16, 1, 1, 32, ("q_proj",), 0.85, 80 << 30)
    assert calibrate._longest(lines, s) == 4096
    assert calibrate._longest([{"truncated": 0.0, "response_length_p99": 10.0}], s) == 10


def test_a_run_that_never_trained_is_refused(run):
    (run / "metrics" / "training_metrics.jsonl").write_text("")
    with pytest.raises(RftError, match="no training line"):
        calibrate.read(str(run), 80 << 30)


def test_a_finished_tiny_run_is_planned_from_its_own_record():
    """The newest tiny run of this checkout, where there is one: processes are most of its memory."""
    folders = sorted((REPO / "runs").glob("tiny-*/resources.json"))
    if not folders:
        pytest.skip(f"{REPO / 'runs'}: no tiny run; make one with bash train_grpo_tiny.sh")
    rows = {row.name: row for row in calibrate.read(str(folders[-1].parent), 80 << 30).rows}
    assert abs(rows["peak_pss_bytes"].error) < 0.3
