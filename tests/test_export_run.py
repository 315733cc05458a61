"""`rft run-exported` and `rft smoke-adapter` on a tiny model with transformers; the view of a Harmony answer."""

# ruff: noqa: F811 (a fixture and its argument share a name)

import io
import json
import shutil
import subprocess
import sys

import export_kit as kit
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_plan import tiny_dir  # noqa: F401
from transformers import AutoTokenizer

from rft.errors import RftError
from rft.export import answering, run_cli, smoke_cli
from rft.export.transcript import View

ANSWER = (
    "<|channel|>analysis<|message|>3 and 4 <b>, yes<|end|>"
    "<|start|>assistant<|channel|>final<|message|>It is 7.<|return|>"
)


@pytest.fixture(scope="module")
def model(tiny_dir):
    return tiny_dir / "model"


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return kit.make_adapter(model, tmp_path_factory.mktemp("adapter") / "final")


@pytest.fixture(scope="module")
def exported(model, adapter, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    kit.run_export(adapter, model, out, "mxfp4")
    return out


def greedy(merged, tokenizer, question: str, effort: str, count: int) -> str:
    """What transformers' own generate says, not streamed."""
    chat = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, reasoning_effort=effort)
    with torch.no_grad():
        out = merged.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=count, pad_token_id=0)
    return tokenizer.decode(out[0, len(ids) :])


# --- the view ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_markers_are_not_shown_however_the_text_comes(size):
    view, shown = View(), ""
    for at in range(0, len(ANSWER), size):
        shown += view.feed(ANSWER[at : at + size])
    assert shown + view.finish() == "[analysis] 3 and 4 <b>, yes\nIt is 7."


def test_text_is_shown_as_soon_as_it_cannot_be_a_marker():
    view = View()
    assert view.feed("<|channel|>final<|message|>It is") == "It is"
    assert view.feed(" 7 <") == " 7 " and view.feed("8<|ret") == "<8" and view.feed("urn|>") == ""
    assert view.finish() == ""


def test_text_without_markup_is_shown_as_it_is():
    view = View()
    assert view.feed("Seven") + view.feed(", I think") + view.finish() == "Seven, I think"
    assert View().feed("") == "" and View().finish() == ""


def test_an_answer_that_is_cut_off_in_a_header_shows_what_came_before():
    view = View()
    shown = view.feed("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>fin")
    assert shown + view.finish() == "[analysis] hm"


# --- run-exported --------------------------------------------------------------------------------------------------


def test_the_export_and_base_with_adapter_give_transformers_own_greedy_answer(model, adapter, exported, capsys):
    tokenizer = AutoTokenizer.from_pretrained(exported)
    options = ["What is 3 + 4?", "--reasoning", "high", "--max_tokens", "12", "--temperature", "0", "--raw"]
    wanted = greedy(kit.merged_in_memory(model, adapter), tokenizer, "What is 3 + 4?", "high", 12)
    assert run_cli.main([str(exported), *options]) == 0
    assert capsys.readouterr().out == wanted + "\n"
    assert run_cli.main(["--adapter", str(adapter), "--base", str(model), *options]) == 0
    assert capsys.readouterr().out.strip()  # unmerged: bf16 may part from the merged one at a near tie


def test_it_streams_and_a_seed_repeats_an_answer(exported):
    opened = answering.open_model("transformers", exported, None, 0)
    ids = answering.prompt_ids(opened.tokenizer, [{"role": "user", "content": "What is 3 + 4?"}], "low")
    pieces: list[str] = []
    sampling = answering.Sampling(max_tokens=24, temperature=1.0, seed=7)
    first, finish = opened.answer(ids, sampling, pieces.append)
    assert len([piece for piece in pieces if piece]) > 1 and "".join(pieces) == opened.tokenizer.decode(first)
    assert (finish == "stop") == (first[-1] in opened.model.generation_config.eos_token_id)
    again, _ = opened.answer(ids, sampling, lambda text: None)
    other, _ = opened.answer(ids, answering.Sampling(24, 1.0, seed=8), lambda text: None)
    assert first == again != other


def test_a_file_of_prompts_and_one_prompt_of_text(exported, tmp_path, capsys):
    rows = [{"input": "What is 3 + 4?", "label": "7"}, {"prompt": "What is 5 + 6?"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--max_tokens", "2", "--temperature", "0"]
    assert run_cli.main([str(exported), "--file", str(tmp_path / "p.jsonl"), *options]) == 0
    out = capsys.readouterr().out
    assert "> What is 3 + 4?" in out and "> What is 5 + 6?" in out
    (tmp_path / "p.txt").write_text("What is\n3 + 4?\n")
    assert run_cli.main([str(exported), "--file", str(tmp_path / "p.txt"), *options]) == 0


class Recorder:
    """The seam of a model: it answers from a list and keeps the prompts."""

    def __init__(self, tokenizer, answers):
        self.tokenizer, self.answers, self.prompts = tokenizer, list(answers), []

    def answer(self, token_ids, sampling, show):
        self.prompts.append(self.tokenizer.decode(token_ids))
        text = self.answers.pop(0)
        show(text)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"], "stop"


def test_a_chat_keeps_final_texts_and_drops_reasoning_until_new(model, capsys):
    tokenizer = AutoTokenizer.from_pretrained(model)
    recorder = Recorder(tokenizer, [ANSWER, "<|channel|>final<|message|>8<|return|>", ANSWER])
    args = run_cli.parser().parse_args(["m", "--system", "Be brief."])
    run_cli.Chat(recorder, answering.Sampling(), args).talk(io.StringIO("one\ntwo\n/new\nthree\n\nnever\n"))
    first, second, third = recorder.prompts
    assert "Be brief." in first and "It is 7." in second and "3 and 4" not in second
    assert "one" in second and "It is 7." not in third and "Be brief." in third and not recorder.answers
    assert capsys.readouterr().out.startswith("[analysis] 3 and 4 <b>, yes\nIt is 7.\n8\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "name an exported model"),
        (["{out}", "q", "--adapter", "{adapter}"], "one of the two"),
        (["{out}", "q", "--file", "{out}/config.json"], "both given"),
        (["{out}", "q", "--top_p", "0"], "--top_p"),
        (["{out}", "--file", "{out}/nothing.txt"], "not readable"),
        (["{out}/nowhere", "q"], "no such folder"),
        (["--adapter", "{out}", "q"], "no adapter"),
    ],
)
def test_bad_words_are_one_line(exported, adapter, words, error):
    with pytest.raises(RftError, match=error) as caught:
        run_cli.main([word.format(out=exported, adapter=adapter) for word in words])
    assert "\n" not in str(caught.value)


def test_a_row_without_a_prompt_names_its_line(exported, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"input": "x"}\n{"label": "7"}\n')
    with pytest.raises(RftError, match=r"p\.jsonl line 2"):
        run_cli.main([str(exported), "--file", str(tmp_path / "p.jsonl")])


# --- smoke-adapter -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--quantized"]])
def test_smoke_shows_the_answers_with_and_without(model, adapter, capsys, more):
    command = [str(adapter), "--base", str(model), "--max_tokens", "8", "--prompt", "What is 3 + 4?", *more]
    assert smoke_cli.main(command) == 0
    out = capsys.readouterr().out
    assert "16 weights; trained on this base" in out and "without:" in out and "with:   " in out
    without, with_ = (line.split(":", 1)[1].strip() for line in out.splitlines() if line.startswith("  with"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = (
        greedy(kit.load_checkpoint(model).eval(), tokenizer, "What is 3 + 4?", "medium", 8).replace("\n", "\\n").strip()
    )
    assert without == base and with_ != without
    assert float(out.rsplit("max ", 1)[1].split()[0]) > 0.01


def test_smoke_refuses_an_adapter_that_changes_nothing(model, tmp_path):
    nothing = kit.make_adapter(model, tmp_path / "nothing", scale=0.0)
    with pytest.raises(RftError, match="changes no log-prob"):
        smoke_cli.main([str(nothing), "--base", str(model), "--max_tokens", "4"])


def test_smoke_checks_digests_base_and_shapes_before_it_loads_anything(model, adapter, tmp_path):
    other = shutil.copytree(model, tmp_path / "base")
    found = load_file(other / "model.safetensors")
    found["model.norm.weight"] *= 2
    save_file(found, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RftError, match="was trained on"):
        smoke_cli.main([str(adapter), "--base", str(other)])
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    (copy / "digests.json").write_text(json.dumps({"adapter_model.safetensors": "0"}))
    with pytest.raises(RftError, match="not what was written"):
        smoke_cli.main([str(copy), "--base", str(model)])


@pytest.mark.parametrize("module", ["run_cli", "smoke_cli"])
def test_help_answers_without_torch(module):
    code = (
        f"import sys; from rft.export.{module} import main\n"
        "try: main(['-h'])\nexcept SystemExit: print({'torch', 'numpy', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")
