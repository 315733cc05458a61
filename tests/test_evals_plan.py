"""From models, sets and modes to results, with a recorded engine: cache, resume, seeds (rft/evals/plan.py)."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from evals_kit import RANK, Recorded, adds, make_adapter, make_model, make_set, text

from rft import rollout_seed
from rft.errors import RftError
from rft.evals import adapters, models, modes, results, sets
from rft.evals.plan import Options, Policy, evaluate
from rft.evals.records import read_samples

OPTIONS = Options(max_tokens=32, quiet=True)
MODES = [modes.parse("greedy"), modes.parse("sampling_pass@4", 1.0)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def tokenizer(model):
    return models.tokenizer(model)


@pytest.fixture
def where(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RFT_EVALS_DIR", str(tmp_path / "evals"))
    return tmp_path / "evals"


@pytest.fixture
def policies(model, tmp_path) -> list[Policy]:
    steps = [make_adapter(tmp_path / "ckpt" / f"global_step{n}_hf", model, n) for n in (20, 10)]
    found = adapters.find(tmp_path / "ckpt")
    assert [adapter.path for adapter in found] == steps[::-1]
    return [Policy("base", str(model), None, 0)] + [Policy(f"step{a.step}", str(model), a, a.step) for a in found]


@pytest.fixture
def one(tmp_path):
    return sets.load(str(make_set(tmp_path / "sums.jsonl")), tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    """Results byte by byte, samples as sets of lines."""
    read = {path.name: path.read_bytes() for path in folder.glob("*.json") if path.name != "weights.json"}
    return read | {path.name: sorted(path.read_bytes().splitlines()) for path in folder.glob("*.jsonl")}


def test_one_engine_start_serves_every_set_mode_and_checkpoint(where, policies, one, tokenizer, tmp_path):
    other = sets.load(str(make_set(tmp_path / "other.jsonl", 5, start=30)), tmp_path)
    engine = Recorded(tokenizer, adds)
    made = evaluate(policies, [one, other], MODES, OPTIONS, engine.start)
    assert len(engine.starts) == 1 and engine.closed == 1 and engine.served == [None, 10, 20]
    assert [len(batch) for batch in engine.batches] == [(12 + 5) * (1 + 4)] * 3  # all of an adapter's at once
    assert [(r["name"], r["settings"]["data_set"], r["settings"]["mode"]) for r in made[:4]] == [
        ("base", "sums", "greedy_pass@1"),
        ("base", "sums", "sampling_pass@4"),
        ("base", "other", "greedy_pass@1"),
        ("base", "other", "sampling_pass@4"),
    ]
    folder, shape = engine.starts[0][:2]
    assert folder == Path(policies[0].model) and (shape.rank, shape.alpha) == (RANK, 8)


def test_a_result_says_what_it_is(where, policies, one, tokenizer):
    base, tuned = evaluate(policies[:2], [one], MODES[1:], OPTIONS, Recorded(tokenizer, adds).start)
    assert base["settings"].keys() == tuned["settings"].keys() >= {
        "mode", "data_set", "data_sha256", "n_problems", "model", "model_digest", "adapter_digest", "lora_apply",
        "chat_template", "input_template", "reasoning_effort", "prompts_sha256", "max_tokens", "seed", "engine",
    }  # fmt: skip
    assert base["settings"]["engine"].startswith("vllm 0.") and base["settings"]["seed"] == 42
    assert (base["settings"]["lora_apply"], tuned["settings"]["lora_apply"]) == (None, "sidepath")
    assert tuned["settings"]["adapter_digest"] == policies[1].adapter.digest
    figures = tuned["figures"]
    wanted = [[adds(10, _request(p, n), p["prompt"])[0] == text(p["label"], n % 3 == 2) for n in range(4)]
              for p in tuned["problems"]]  # fmt: skip
    assert [problem["correct"] for problem in tuned["problems"]] == wanted
    assert figures["accuracy"] == pytest.approx(sum(map(sum, wanted)) / 48)
    assert figures["pass_at"]["4"] == pytest.approx(sum(map(any, wanted)) / 12)
    assert figures["boxed"] == figures["final_channel"] == 1.0 and figures["truncated"] == 0.0
    assert results.load(where / Path(tuned["samples"]).with_suffix(".json")) == tuned


@dataclasses.dataclass
class _Asked:
    number: int
    temperature: float = 1.0


def _request(problem, number):
    return _Asked(number)


def test_format_truncation_and_length_are_counted(where, policies, one, tokenizer):
    kinds = [
        (text(1), "stop"),
        ("<|channel|>final<|message|>the answer is 12<|return|>", "stop"),
        ("<|channel|>analysis<|message|>on and on", "length"),
        ("<|channel|>analysis<|message|>\\boxed{1}<|return|>", "stop"),
    ]
    said = Recorded(tokenizer, lambda step, request, prompt: kinds[request.number])
    (result,) = evaluate(policies[:1], [one], MODES[1:], OPTIONS, said.start)
    figures = result["figures"]
    assert (figures["boxed"], figures["final_channel"], figures["truncated"]) == (0.25, 0.5, 0.25)
    assert result["problems"][0]["truncated"] == [0, 0, 1, 0] and result["problems"][0]["boxed"] == [1, 0, 0, 0]
    lengths = [len(tokenizer(words, add_special_tokens=False)["input_ids"]) for words, _ in kinds]
    assert result["problems"][0]["tokens"] == lengths and figures["tokens_max"] == max(lengths)


def test_the_same_call_starts_no_engine(where, policies, one, tokenizer):
    first = evaluate(policies, [one], MODES, OPTIONS, Recorded(tokenizer, adds).start)
    before, idle = files(where), Recorded(tokenizer, adds)
    assert evaluate(policies, [one], MODES, OPTIONS, idle.start) == first
    assert idle.starts == [] and files(where) == before


def test_content_counts_not_names(where, policies, one, tokenizer, model, tmp_path):
    evaluate(policies[1:2], [one], MODES, OPTIONS, Recorded(tokenizer, adds).start)
    shutil.copytree(policies[1].adapter.path, tmp_path / "copy")
    shutil.copytree(model, tmp_path / "same weights")
    again = Policy("again", str(tmp_path / "same weights"), adapters.read(tmp_path / "copy"))
    renamed = sets.load(str(make_set(tmp_path / "renamed.jsonl")), tmp_path)
    idle = Recorded(tokenizer, adds)
    (result, _) = evaluate([again], [renamed], MODES, OPTIONS, idle.start)
    assert idle.starts == [] and result["name"] == "again"


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 33}, {"seed": 43}, {"effort": "high"}, {"template": "Solve: {}"}, {"lora_apply": "merge"}],
)
def test_another_setting_is_another_result(where, policies, one, tokenizer, change):
    evaluate(policies[1:2], [one], MODES[1:], OPTIONS, Recorded(tokenizer, adds).start)
    engine = Recorded(tokenizer, adds)
    evaluate(policies[1:2], [one], MODES[1:], dataclasses.replace(OPTIONS, **change), engine.start)
    assert len(engine.batches[0]) == 48


def test_changed_weights_are_another_model(where, policies, one, tokenizer, tmp_path):
    make_model(tmp_path / "other", seed=1)
    evaluate(policies[:1], [one], MODES[:1], OPTIONS, Recorded(tokenizer, adds).start)
    engine = Recorded(tokenizer, adds)
    evaluate([Policy("base", str(tmp_path / "other"))], [one], MODES[:1], OPTIONS, engine.start)
    assert len(engine.starts) == 1


@pytest.mark.parametrize("dies_after", [0, 1, 17, 70, 179])
def test_an_engine_that_dies_leaves_what_it_made_and_the_next_call_ends_it(where, policies, one, tokenizer, dies_after):
    uninterrupted = evaluate(policies, [one], MODES, OPTIONS, Recorded(tokenizer, adds).start)
    whole = files(where)
    shutil.rmtree(where)
    dying = Recorded(tokenizer, adds, dies_after)
    with pytest.raises(RftError, match="the engine died"):
        evaluate(policies, [one], MODES, OPTIONS, dying.start)
    assert dying.closed == 1
    kept = sum(len(read_samples(path)) for path in where.glob("*.jsonl"))
    assert kept == dies_after
    assert [path for path in where.glob("*.json") if path.name != "weights.json"] == []  # nothing looks whole
    rest = Recorded(tokenizer, adds)
    assert evaluate(policies, [one], MODES, OPTIONS, rest.start) == uninterrupted
    assert rest.answered == 180 - dies_after and files(where) == whole


def test_killed_while_writing_it_goes_on_to_the_same_result(where, policies, one, tokenizer):
    evaluate(policies, [one], MODES, OPTIONS, Recorded(tokenizer, adds).start)
    whole = files(where)
    for number, path in enumerate(sorted(where.glob("*.jsonl"))):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * number // 6 + 11])
        path.with_suffix(".json").unlink()
    again = Recorded(tokenizer, adds)
    evaluate(policies, [one], MODES, OPTIONS, again.start)
    assert 0 < again.answered < 180 and files(where) == whole


def test_a_grader_error_in_the_writer_stops_the_generation(where, policies, one, tokenizer, monkeypatch):
    from rft.evals import work

    def full(self, record):
        raise RftError("disk full: free space")

    monkeypatch.setattr(work.Samples, "append", full)
    engine = Recorded(tokenizer, adds)
    with pytest.raises(RftError, match="disk full"):
        evaluate(policies, [one], MODES, OPTIONS, engine.start)
    assert engine.closed == 1


def test_seeds_are_those_of_training_and_greedy_has_none(where, policies, one, tokenizer):
    engine = Recorded(tokenizer, adds)
    evaluate(policies[:2], [one], MODES, dataclasses.replace(OPTIONS, seed=7), engine.start)
    asked = [{(r.problem, r.number): r.seed for r in batch if r.temperature} for batch in engine.batches]
    assert asked[0] == asked[1]  # base and checkpoint draw alike
    problem = one.problems[5]
    assert asked[0][problem.id, 3] == rollout_seed.derive(rollout_seed.derive(7, "eval-sampling_pass@4", 5), 3)
    assert len(set(asked[0].values())) == 48
    assert {r.seed for batch in engine.batches for r in batch if not r.temperature} == {None}


def test_samples_of_an_older_grader_are_graded_again(where, policies, one, tokenizer, monkeypatch):
    from rft.evals import grade

    monkeypatch.setattr(grade, "version", lambda: "older")
    monkeypatch.setattr(grade, "grade", lambda *_: dict.fromkeys(grade.FIELDS, 0) | {"answer": ""})
    (wrong,) = evaluate(policies[:1], [one], MODES[:1], OPTIONS, Recorded(tokenizer, adds).start)
    monkeypatch.undo()
    monkeypatch.setenv("RFT_EVALS_DIR", str(where))
    idle = Recorded(tokenizer, adds)
    (right,) = evaluate(policies[:1], [one], MODES[:1], OPTIONS, idle.start)
    assert wrong["figures"]["accuracy"] == 0 < right["figures"]["accuracy"] and idle.starts == []
    assert right["grader"] == grade.version() != "older"


def test_an_adapter_that_does_not_fit_is_refused_before_an_engine(where, policies, one, tokenizer, model, tmp_path):
    wide = adapters.read(make_adapter(tmp_path / "wide", model, 1, heads=8))
    engine = Recorded(tokenizer, adds)
    with pytest.raises(RftError, match="does not fit the base model") as error:
        evaluate([*policies, Policy("wide", str(model), wide)], [one], MODES, OPTIONS, engine.start)
    assert engine.starts == [] and "\n" not in str(error.value) and "adapter_model.safetensors" in str(error.value)


def test_adapters_of_another_shape_get_an_engine_of_their_own(where, policies, one, tokenizer, model, tmp_path):
    larger = adapters.read(make_adapter(tmp_path / "larger", model, 1, rank=8))
    engine = Recorded(tokenizer, adds)
    evaluate([*policies, Policy("larger", str(model), larger)], [one], MODES[:1], OPTIONS, engine.start)
    assert [start[1].rank for start in engine.starts] == [4, 8] and engine.served == [None, 10, 20, None]


def test_more_tokens_than_the_model_has_are_refused(where, policies, one, tokenizer):
    with pytest.raises(RftError, match=r"exceed the model's 4096; lower --max_tokens"):
        evaluate(
            policies[:1],
            [one],
            MODES[:1],
            dataclasses.replace(OPTIONS, max_tokens=4090),
            Recorded(tokenizer, adds).start,
        )


@pytest.mark.parametrize(
    "break_it, says",
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
    ],
)
def test_a_model_that_is_not_whole(where, one, model, tokenizer, tmp_path, break_it, says):
    shutil.copytree(model, tmp_path / "broken")
    break_it(tmp_path / "broken")
    engine = Recorded(tokenizer, adds)
    with pytest.raises(RftError, match=says) as error:
        evaluate([Policy("broken", str(tmp_path / "broken"))], [one], MODES[:1], OPTIONS, engine.start)
    assert engine.starts == [] and "\n" not in str(error.value)


def test_mxfp4_on_a_cpu_takes_the_twin(where, model, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "gpus", list)
    folder = tmp_path / "packed"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RftError, match="rft dequantise"):
        models.engine_folder(folder)
    twin = tmp_path / "packed-bf16"
    shutil.copytree(model, twin)
    with pytest.raises(RftError, match="not the bf16 twin"):
        models.engine_folder(folder)
    config = json.loads((twin / "config.json").read_text())
    from rft.dequantise import SOURCE_KEY, checkpoint_digest

    (twin / "config.json").write_text(json.dumps(config | {SOURCE_KEY: checkpoint_digest(folder)}))
    assert models.engine_folder(folder) == twin
    monkeypatch.setattr(models, "gpus", lambda: ["H100"])
    assert models.engine_folder(folder) == folder
