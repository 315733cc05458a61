"""The programs as a user calls them, vLLM aside: tables, verdicts, refusals, exit codes (rft/evals/*_cli.py)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evals_kit import Recorded, adds, make_adapter, make_model, make_set, text

from rft import runs
from rft.errors import RftError
from rft.evals import baseline_cli, compare_cli, models, posthoc_cli, rl_cli, sft_rule, vllm_engine
from rft.rewards.grading import grade

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "datasets", "transformers", "vllm")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def engine(monkeypatch, tmp_path, model) -> Recorded:
    """In vLLM's place; results go to tmp_path/evals."""
    monkeypatch.setenv("RFT_EVALS_DIR", str(tmp_path / "evals"))
    engine = Recorded(models.tokenizer(model), adds)
    monkeypatch.setattr(vllm_engine, "start", engine.start)
    return engine


@pytest.fixture
def run(tmp_path, model) -> Path:
    """A finished run with checkpoints of steps 10 and 35, and its own evaluations, as training leaves them."""
    return make_run(tmp_path / "runs" / "tiny-1", tmp_path, model)


def make_run(folder: Path, tmp_path: Path, model: Path, flip: int = 0, lora_apply: str = "sidepath") -> Path:
    from rft.data.chat_rows import render
    from rft.evals.prompts import date

    for step in (10, 35):
        make_adapter(folder / "ckpt" / f"global_step{step}_hf", model, step)
    for name, start in (("heldout", 0), ("train", 50)):
        make_set(tmp_path / f"{name}.jsonl", 12, start)
    flags = {"pretrain": model, "prompt_data": tmp_path / "train.jsonl", "eval_dataset": tmp_path / "heldout.jsonl"}
    flags |= {"generate_max_len": 24, "eval_temperature": 1.0, "eval_n_samples_per_prompt": 4, "seed": 7}
    flags |= {"lora_apply": lora_apply}
    record = {"id": folder.name, "start": 1.0, "paths": {}, "data_sha256": {}, "versions": {"vllm": "0.15.1"}}
    listed = [word for key, value in flags.items() for word in (f"--{key}", str(value))] + ["--eval_greedy"]
    runs.write_json(folder / "run.json", {**record, "flags": listed})
    (folder / "samples").mkdir()
    (folder / "metrics").mkdir()
    metrics = [{"event": "train", "step": s, "reward_mean": 0.3 + s / 100 + flip / 10, "kl": 0.1} for s in range(1, 21)]
    (folder / "metrics" / "training_metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    tokenizer = models.tokenizer(model)
    rows = [json.loads(line) for line in (tmp_path / "heldout.jsonl").read_text().splitlines()]
    prompts = [render(row["input"], tokenizer.apply_chat_template, None, date(None)) for row in rows]
    for step in (0, 10, 35):
        for kind, n in (("greedy", 1), ("sampled", 4)):
            lines = []
            for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
                asked = [_Asked(number + flip, float(n > 1)) for number in range(n)]
                responses = [adds(step, request, prompt)[0] for request in asked]
                right = [float(grade(said, row["label"]).correct) for said in responses]
                line = {
                    "index": index,
                    "prompt": prompt,
                    "label": row["label"],
                    "rewards": right,
                    "responses": responses,
                }
                lines.append(json.dumps(line) + "\n")
            (folder / "samples" / f"eval_step{step}_{kind}.jsonl").write_text("".join(lines))
    return folder


class _Asked:
    def __init__(self, number: int, temperature: float):
        self.number, self.temperature = number, temperature


def last_json(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_runs_checkpoints_are_asked_what_the_run_asked(engine, run, capsys):
    assert rl_cli.main(["--checkpoint_path", str(run / "ckpt"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "### heldout, sampling_pass@4, T 1: 12 problems x 4, up to 24 tokens" in out
    assert "### heldout, greedy_pass@1: 12 problems x 1, up to 24 tokens" in out
    found = json.loads(out.splitlines()[-1])
    assert [(r["name"], r["settings"]["mode"]) for r in found["results"]] == [
        (name, mode) for name in ("base", "step10", "step35") for mode in ("sampling_pass@4", "greedy_pass@1")
    ]
    assert {r["settings"]["seed"] for r in found["results"]} == {7, None}
    assert out.count("agrees: within the 95 % interval") == 6 and "DISAGREES" not in out
    assert "12 problems can detect" in err and "80 % power" in err  # before the run
    assert len(engine.starts) == 1
    assert "| step35 | 12 | side path |" in out


def test_a_gain_is_claimed_and_noise_is_not(engine, run, capsys):
    assert rl_cli.main(["--checkpoint_path", str(run / "ckpt"), "--mode", "sampling_pass@4", "--json", "--quiet"]) == 0
    found = {pair["second"]: pair for pair in last_json(capsys)["comparisons"]}
    assert found["step35"]["claim"] == "better" and found["step35"]["p"] < 0.05
    assert "step35 is better than base" in found["step35"]["verdict"]
    same = run / "ckpt" / "global_step35_hf"
    shutil.copytree(same, run.parent / "copy")
    names = [f"a={same}", f"b={run.parent / 'copy'}"]
    flags = ["--set", str(run.parents[1] / "heldout.jsonl"), "--max_tokens", "24", "--json", "--quiet"]
    before = engine.answered
    assert (
        posthoc_cli.main(["--model", *names, "--mode", "sampling_pass@4", *flags, "--temperature", "1", "--seed", "7"])
        == 0
    )
    (pair,) = last_json(capsys)["comparisons"]
    assert (pair["claim"], pair["p"], pair["difference"]) == ("none", 1.0, 0.0)
    assert "no difference can be claimed" in pair["verdict"] and "12 problems" in pair["verdict"]
    assert engine.answered == before  # known by digest: nothing was generated twice


def test_a_sweep_compares_each_with_the_first(engine, model, tmp_path, capsys):
    make_model(tmp_path / "other", seed=1)
    make_set(tmp_path / "s.jsonl")
    flags = ["--set", str(tmp_path / "s.jsonl"), "--max_tokens", "24", "--json", "--quiet"]
    assert baseline_cli.main(["--teacher", str(model), "--student", str(tmp_path / "other"), *flags]) == 0
    found = last_json(capsys)
    assert [r["name"] for r in found["results"]] == ["teacher", "student"] and len(engine.starts) == 2
    assert [(pair["first"], pair["second"]) for pair in found["comparisons"]] == [("teacher", "student")]


def test_reasoning_effort_reaches_the_template(engine, model, tmp_path, capsys):
    make_set(tmp_path / "s.jsonl", 2)
    flags = ["--set", str(tmp_path / "s.jsonl"), "--max_tokens", "24", "--quiet", "--model", str(model)]
    for effort in ("low", "high"):
        assert baseline_cli.main([*flags, "--reasoning", effort]) == 0
    asked = [engine.tokenizer.decode(list(batch[0].token_ids)) for batch in engine.batches]
    assert ["Reasoning: low" in asked[0], "Reasoning: high" in asked[1]] == [True, True]


def test_nondeterminism_is_reported_apart(engine, model, tmp_path, capsys):
    make_set(tmp_path / "s.jsonl", 4)

    def wavers(step, request, prompt):
        left, right = (int(part) for part in prompt.split("What is ")[1].split("?")[0].split(" + "))
        return text(left + right + (left == 2 and request.number > 5)), "stop"

    engine.say = wavers
    flags = ["--set", str(tmp_path / "s.jsonl"), "--max_tokens", "24", "--quiet", "--model", str(model)]
    assert baseline_cli.main([*flags, "--mode", "greedy", "nondet"]) == 0
    out = capsys.readouterr().out
    assert "nondet_proxy_pass@8" in out and "gap to greedy_pass@1 -6.2 points, 1 of 4 problems are fragile (#2)" in out


def test_results_of_other_settings_are_refused_unless_forced(engine, model, tmp_path, capsys):
    make_set(tmp_path / "s.jsonl")
    for limit in (24, 25):
        flags = ["--set", str(tmp_path / "s.jsonl"), "--max_tokens", str(limit), "--quiet"]
        assert baseline_cli.main(["--model", str(model), *flags]) == 0
    files = sorted(str(path) for path in (tmp_path / "evals").glob("greedy*.json"))
    with pytest.raises(RftError, match=r"settings differ \(max_tokens: 2\d and 2\d\)"):
        compare_cli.main(files)
    capsys.readouterr()
    assert compare_cli.main([*files, "--force"]) == 0
    assert "Forced, settings differ: max_tokens" in capsys.readouterr().out


def test_two_runs_side_by_side(run, tmp_path, model, capsys):
    other = make_run(tmp_path / "runs" / "tiny-2", tmp_path, model, flip=1, lora_apply="merge")
    assert compare_cli.main([str(run), str(other)]) == 0
    out = capsys.readouterr().out
    assert "- changed: --lora_apply: sidepath and merge" in out
    assert "| reward_mean | 0.455 | 0.555 | +0.1 | [+0.1, +0.1] |" in out and "Training, 10 steps from step 11" in out
    assert out.count("| sampling_pass@4 |") == 3 and out.count("- step 35, ") == 2
    record = runs.read_json(other / "run.json")
    record["flags"][record["flags"].index("--prompt_data") + 1] = "elsewhere.jsonl"
    runs.write_json(other / "run.json", record)
    with pytest.raises(RftError, match="trained on different prompts"):
        compare_cli.main([str(run), str(other)])
    assert compare_cli.main([str(run), str(other), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["remarks"][0].startswith("pool: ")


def test_the_interval_of_a_series_allows_for_likeness_of_neighbours():
    import numpy as np

    from rft.evals.compare_runs import block_interval

    rng = np.random.default_rng(0)
    independent = rng.normal(size=400)
    drifting = np.repeat(rng.normal(size=20), 20)
    low, high = block_interval(independent.tolist())
    assert low < independent.mean() < high and 0.12 < high - low < 0.28  # 4 sigma of the mean: 0.2
    slow = block_interval(drifting.tolist())
    assert slow[1] - slow[0] > 2.5 * (high - low)
    assert block_interval([0.1] * 7) is None and block_interval([0.5] * 8) == (0.5, 0.5)


def test_the_sft_rule(engine, model, tmp_path, capsys):
    make_set(tmp_path / "s.jsonl", 40)
    verdicts = {}
    for unboxed in (0, 3, 20):
        engine.say = lambda step, r, prompt, unboxed=unboxed: (
            text(1)
            if int(prompt.split("What is ")[1].split(" + ")[0]) >= unboxed
            else "<|channel|>final<|message|>1<|return|>",
            "stop",
        )
        shutil.rmtree(tmp_path / "evals", ignore_errors=True)
        flags = ["--set", str(tmp_path / "s.jsonl"), "--quiet", "--max_tokens"]
        # the tiny model holds 4,096 tokens, so the limit of the rule is written into the result
        assert baseline_cli.main(["--model", str(model), *flags, "24"]) == 0
        (path,) = (tmp_path / "evals").glob("greedy*.json")
        with pytest.raises(RftError, match="--max_tokens 24; the rule is for 8192"):
            sft_rule.main([str(path)])
        result = json.loads(path.read_text())
        result["settings"]["max_tokens"] = 8192
        verdicts[unboxed] = sft_rule.decide(result)
    assert [verdicts[n]["sft"] for n in (0, 3, 20)] == [False, True, True]
    assert [verdicts[n]["certain"] for n in (0, 3, 20)] == [False, False, True]  # 40 of 40: [91, 100]
    assert verdicts[20]["verdict"].startswith("SFT first: 50.0 % boxed [") and "40 problems" in verdicts[20]["verdict"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--model", "no/such/model/here", "--set", "{tmp}/s.jsonl"], "no such folder"),
        (["--model", "{model}", "--set", "{tmp}/none.jsonl"], "does not exist"),
        (["--model", "{model}", "--set", "{tmp}/s.jsonl", "--mode", "pass@8"], "no mode"),
        (["--model", "{model}", "--set", "{tmp}/s.jsonl", "--max_tokens", "0"], "--max_tokens 0"),
        (["--model", "{model}", "--set", "{tmp}/s.jsonl", "--input_template", "x"], "no {} in it"),
        (["--model", "{model}", "--set", "{tmp}/s.jsonl", "--train", "{tmp}/s.jsonl"], "problems are training data"),
        (["--model", "a={model}", "a={model}", "--set", "{tmp}/s.jsonl"], "two are called 'a'"),
        (["--model", "a={model}", "b={tmp}", "--engine_model", "{model}", "--set", "{tmp}/s.jsonl"], "one at a time"),
        (["--teacher", "{model}"], "give both"),
        ([], "--model is missing"),
        (["--auto-symlink", "{tmp}/none"], "no such folder"),
    ],
)
def test_bad_input_is_one_line_and_starts_nothing(engine, model, tmp_path, capsys, arguments, says):
    make_set(tmp_path / "s.jsonl")
    filled = [word.replace("{model}", str(model)).replace("{tmp}", str(tmp_path)) for word in arguments]
    assert baseline_cli.main([*filled, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and says in err
    assert engine.starts == [] and not list((tmp_path / "evals").glob("*.json*"))


def test_overlap_may_be_allowed_and_then_is_said(engine, model, tmp_path, capsys):
    make_set(tmp_path / "s.jsonl")
    flags = ["--set", str(tmp_path / "s.jsonl"), "--train", str(tmp_path / "s.jsonl"), "--allow_overlap"]
    assert baseline_cli.main(["--model", str(model), *flags, "--max_tokens", "24"]) == 0
    assert "12 of 12 problems are training data" in capsys.readouterr().err


@pytest.mark.parametrize(
    "break_it, says",
    [
        (lambda folder: shutil.rmtree(folder / "ckpt"), "no such folder"),
        (lambda folder: [shutil.rmtree(path) for path in (folder / "ckpt").iterdir()], "neither an adapter nor"),
        (lambda folder: (folder / "ckpt/global_step10_hf/adapter_model.safetensors").unlink(), "is missing"),
        (
            lambda folder: (folder / "ckpt/global_step10_hf/adapter_config.json").write_text("{}"),
            "not readable as a LoRA",
        ),
        (
            lambda folder: (folder / "samples/eval_step0_greedy.jsonl").write_text('{"index": 0}\n'),
            "no evaluated problem",
        ),
    ],
)
def test_broken_checkpoints_are_one_line(engine, run, capsys, break_it, says):
    break_it(run)
    assert rl_cli.main(["--checkpoint_path", str(run / "ckpt"), "--quiet"]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and engine.starts == []


def test_a_step_that_is_not_there(engine, run, capsys):
    assert rl_cli.main(["--checkpoint_path", str(run), "--steps", "11", "--quiet"]) == 2
    assert "it has 10, 35" in capsys.readouterr().err


def test_the_report_is_written(engine, run, tmp_path, capsys):
    flags = ["--checkpoint_path", str(run), "--quiet", "--report", str(tmp_path / "deep" / "report")]
    assert rl_cli.main(flags) == 0
    written = (tmp_path / "deep" / "report" / "report.md").read_text()
    assert capsys.readouterr().out in written and written.startswith("# Evaluation")


def test_links_for_the_expected_paths(tmp_path, monkeypatch, capsys):
    from rft.evals import options

    make_set(tmp_path / "aime_eval.jsonl")
    monkeypatch.setattr(options, "REPO", tmp_path / "repo")
    assert baseline_cli.main(["--auto-symlink", str(tmp_path)]) == 0
    assert (tmp_path / "repo" / "data" / "aime_eval.jsonl").resolve() == tmp_path / "aime_eval.jsonl"


@pytest.mark.parametrize(
    "command",
    [["eval_baseline.py"], ["eval_rl.py"], ["-m", "rft.cli", "eval-posthoc"], ["-m", "rft.cli", "compare"],
     ["-m", "rft.cli", "sft-decision"]],
)  # fmt: skip
def test_help_answers_without_heavy_imports(command, tmp_path):
    code = (
        f"import runpy, sys; sys.argv = {[*command[-1:], '--help']!r}\n"
        f"command = {command!r}\n"
        "try:\n"
        "    if command[0] == '-m':\n"
        "        from rft.cli import main; sys.exit(main([command[2], '--help']))\n"
        "    runpy.run_path(command[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout


def test_published_problems_and_a_model_that_cannot_solve_them(engine, model, shared_data, capsys):
    """GSM8K and AIME as published: honest zeros, n beside them."""
    engine.say = lambda step, request, prompt: ("no idea", "length")
    names = [str(shared_data / name) for name in ("gsm8k_test.jsonl", "aime24.jsonl")]
    flags = ["--model", str(model), "--set", *names, "--limit", "30", "--max_tokens", "64", "--quiet", "--json"]
    assert baseline_cli.main(flags) == 0
    for result in last_json(capsys)["results"]:
        figures = result["figures"]
        assert figures["accuracy"] == 0.0 and figures["accuracy_ci95"][1] > 0.1 and figures["truncated"] == 1.0


def test_a_run_whose_labels_are_no_answers(run):
    """A code task's label: the reward's own correctness counts, the format is not said."""
    from rft.evals import of_run

    path = run / "samples" / "eval_step0_greedy.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    tasks = [{**line, "label": " { } ", "correct": [float(at % 2)]} for at, line in enumerate(lines)]
    path.write_text("".join(json.dumps(line) + "\n" for line in tasks))
    result = of_run.own(run)[0]
    assert result["figures"]["accuracy"] == 0.5 and "boxed" not in result["figures"]
    assert of_run.own(run)[1]["figures"]["boxed"] == 1.0


def test_on_a_cpu_seeded_requests_have_the_engine_to_themselves():
    from rft.evals.engine import Request
    from rft.evals.vllm_engine import batches

    mixed = [Request(0, "a", n, (1,), float(n % 2), 1.0, 8, n if n % 2 else None) for n in range(5)]
    seeded, greedy = batches(mixed, cpu=True)
    assert [r.seed for r in seeded] == [1, 3] and [r.number for r in greedy] == [0, 2, 4]
    assert batches(mixed, cpu=False) == [mixed] and batches(greedy, cpu=True) == [greedy]


def test_the_lines_of_a_bar_that_is_no_terminal(capsys, monkeypatch):
    from rft.evals import bar

    monkeypatch.setattr(bar, "LINE_S", 0.0)
    shown = bar.Bar([("base aime greedy_pass@1", 2, 1, 4)])
    with shown.shown():
        for correct in (1, 0):
            shown.seen(0, {"correct": correct, "tokens": 500})
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.startswith("3 of 4 samples, ") and first.endswith("tok/s · base aime greedy_pass@1 0.667 (3 of 4)")
    assert second.endswith("0.500 (4 of 4)") and last.startswith("2 samples, 1,000 tokens in ")
