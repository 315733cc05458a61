"""What an evaluation during training leaves: a result that the programs' results compare with, warnings, a stop."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from rft import metrics_file
from rft.evals import compared, of_run, results, settings
from rft.evals.in_training import EvaluationWatch

ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = [{"input": f"What is {n} + 1?", "label": str(n + 1)} for n in range(40)]


class Tokenizer:
    chat_template = "{{ messages }}"

    def __call__(self, text, **_):
        return {"input_ids": list(text.encode())}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path / "metrics"))
    monkeypatch.setenv("SAMPLES_LOG_DIR", str(tmp_path / "samples"))
    monkeypatch.setenv("RFT_EVALS_DIR", str(tmp_path / "evals"))
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROBLEMS))
    return tmp_path


def arguments(place: Path, **more) -> Namespace:
    known = {"eval_dataset": str(place / "set.jsonl"), "engine_pretrain": None, "pretrain": str(place / "model")}
    known |= {"seed": 42, "rollout_seed": "request", "input_template": None, "lora_apply": "sidepath"}
    return Namespace(**known, ckpt_path=str(place / "ckpt"), early_stop=False, **more)


def evaluate(place: Path, watch: EvaluationWatch, step: int, right: int, temperature: float = 0.0, n: int = 1) -> None:
    """The first `right` problems are answered rightly, in every sample."""
    records = []
    for index, row in enumerate(PROBLEMS):
        text = rf"\boxed{{{row['label'] if index < right else -1}}}"
        record = {"index": index, "prompt": f"<p>{row['input']}", "label": row["label"], "responses": [text] * n}
        correct = [float(index < right)] * n
        records.append(record | {"correct": correct, "tokens": [7] * n, "truncated": [int(index == 3)] * n})
    kind = "sampled" if temperature else "greedy"
    metrics_file.write_all(f"{metrics_file.samples_folder()}/eval_step{step}_{kind}.jsonl", records)
    watch.write(step, {"temperature": temperature, "n_samples_per_prompt": n, "max_new_tokens": 32, "top_p": 1.0})


def warnings(place: Path) -> list[dict]:
    path = place / "metrics" / "training_metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["event"] == "warning"]


def test_the_record_is_a_result_like_the_programs(place):
    watch = EvaluationWatch(arguments(place), Tokenizer())
    evaluate(place, watch, 0, right=10)
    evaluate(place, watch, 5, right=30)
    first, second = (results.load(place / "samples" / f"eval_step{step}_greedy.json") for step in (0, 5))
    assert first["settings"]["mode"] == "greedy_pass@1" and first["figures"]["accuracy"] == 0.25
    assert first["figures"]["boxed"] == 1.0 and first["figures"]["truncated"] == 1 / 40
    assert first["figures"]["tokens_mean"] == 7 and first["settings"]["max_tokens"] == 32
    assert first["problems"][3]["id"] == of_file(place, 3) and first["settings"]["data_set"] == "set"
    assert first["settings"]["adapter"] is None and second["settings"]["adapter"] == "step 5"
    assert settings.differences(first["settings"], second["settings"]) == []
    (pair,), refused = compared.against_first([first, second], force=False)
    assert refused is None and pair.claim == "better"


def of_file(place: Path, index: int) -> str:
    from rft.evals import sets

    return sets.load(str(place / "set.jsonl"), place).problems[index].id


def test_modes_have_records_of_their_own(place):
    watch = EvaluationWatch(arguments(place), Tokenizer())
    evaluate(place, watch, 5, right=30, temperature=0.6, n=4)
    evaluate(place, watch, 5, right=30)
    one = results.load(place / "samples" / "eval_step5_sampled.json")
    assert one["settings"]["mode"] == "sampling_pass@4" and one["settings"]["seed"] == 42
    assert one["figures"]["pass_at"].keys() == {"1", "2", "3", "4"}
    assert results.load(place / "samples" / "eval_step5_greedy.json")["settings"]["seed"] is None


def test_an_adapter_is_named_by_its_checkpoint_or_its_frame(place):
    from rft.evals import adapters

    watch = EvaluationWatch(arguments(place), Tokenizer())
    metrics_file.append(f"{metrics_file.folder()}/sync_log.jsonl", {"version": 6, "digests": ["ab" * 16, "cd" * 16]})
    evaluate(place, watch, 5, right=30)
    known = results.load(place / "samples" / "eval_step5_greedy.json")["settings"]
    assert known["adapter_digest"] == "frame " + "ab" * 16 + " " + "cd" * 16
    folder = place / "ckpt" / "global_step5_hf"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "lora_alpha": 16}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    evaluate(place, watch, 5, right=30)
    known = results.load(place / "samples" / "eval_step5_greedy.json")["settings"]
    assert known["adapter_digest"] == adapters.read(folder).digest and known["adapter"] == str(folder)


def test_two_falls_warn_and_under_early_stop_end_the_run(place):
    for early_stop, name in ((False, "plain"), (True, "stopping")):
        shutil.rmtree(place / "samples", ignore_errors=True)
        shutil.rmtree(place / "metrics", ignore_errors=True)
        args = arguments(place)
        args.early_stop = early_stop
        watch = EvaluationWatch(args, Tokenizer())
        for step, right in ((0, 30), (5, 22), (10, 15)):
            assert not watch.stop and warnings(place) == [], name
            evaluate(place, watch, step, right)
            watch.check(step)
        (warning,) = warnings(place)
        assert warning["step"] == 10 and "set greedy_pass@1 falls against step 0" in warning["texts"][0]
        assert watch.stop is early_stop


def test_one_fall_or_noise_is_no_alarm(place):
    args = arguments(place)
    args.early_stop = True
    watch = EvaluationWatch(args, Tokenizer())
    for step, right in ((0, 30), (5, 20), (10, 30), (15, 29), (20, 28)):
        evaluate(place, watch, step, right)
        watch.check(step)
    assert warnings(place) == [] and not watch.stop


def test_divergence_is_said_beside_the_fall(place):
    watch = EvaluationWatch(arguments(place), Tokenizer())
    for step in range(1, 11):
        line = {"event": "train", "step": step, "correctness": 0.3 + 0.04 * step}
        metrics_file.append(f"{metrics_file.folder()}/training_metrics.jsonl", line)
    for step, right in ((0, 30), (5, 22), (10, 15)):
        evaluate(place, watch, step, right)
        watch.check(step)
    assert len(warnings(place)[0]["texts"]) == 2 and "does not carry over" in warnings(place)[0]["texts"][1]


def test_what_a_killed_run_left_of_later_steps_is_not_judged(place):
    watch = EvaluationWatch(arguments(place), Tokenizer())
    for step, right in ((0, 30), (5, 22), (10, 15)):
        evaluate(place, watch, step, right)
    watch.check(5)
    assert warnings(place) == []


def test_a_set_whose_labels_no_grader_of_ours_reads(place):
    """A task of the code reward: rewards say what is right, the set is known by its rendered prompts."""
    (place / "set.jsonl").write_text("".join(json.dumps(row | {"label": "sort words!"}) + "\n" for row in PROBLEMS))
    watch = EvaluationWatch(arguments(place), Tokenizer())
    evaluate(place, watch, 0, right=10)
    result = results.load(place / "samples" / "eval_step0_greedy.json")
    assert result["figures"]["accuracy"] == 0.25 and len(result["settings"]["data_sha256"]) == 64


def test_the_run_reads_its_own_records_back(place):
    watch = EvaluationWatch(arguments(place), Tokenizer())
    evaluate(place, watch, 5, right=30)
    (place / "run.json").write_text(json.dumps({"id": "r", "flags": ["--eval_dataset", "set.jsonl"], "paths": {}}))
    (own,) = of_run.own(place)
    assert own["settings"]["prompts_sha256"] and own["figures"]["accuracy"] == 0.75
