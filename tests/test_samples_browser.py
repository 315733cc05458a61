"""`rft samples`: reading, filters, search, sorting, what is printed, the screen's keys, the whole on a terminal."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from monitor_kit import make_run, tree, write
from rich.console import Console
from terminal_kit import Terminal

from rft import cli
from rft.errors import RftError
from rft.samples_browser import index, query
from rft.samples_browser.browse import Browser

CONSOLE = Console(width=80)


def sample(step: int, place: int, reward: float, **more) -> dict:
    response = f"<|channel|>final<|message|>step {step} answer {place} is \\boxed{{{place}}}<|return|>"
    about = {"step": step, "prompt": f"What is {place}?", "label": str(place), "response": response}
    figures = {
        "answer": str(place),
        "reward": reward,
        "correctness": float(reward > 0.5),
        "response_length": 10.0 + place,
    }
    return {**about, **figures, "truncated": float(place % 4 == 0), "kinds": ["best", "median"][place % 2 :], **more}


def evaluation(number: int, correct: list[float]) -> dict:
    texts = [f"problem {number} try {i} \\boxed{{{i}}}" for i in range(len(correct))]
    about = {"index": number, "prompt": f"Problem {number}", "label": "1", "rewards": [c / 2 for c in correct]}
    return {**about, "correct": correct, "responses": texts, "adapter_version": [7] * len(correct)}


@pytest.fixture
def run(tmp_path):
    folder = make_run(tmp_path / "runs" / "tiny-1", 2)
    for step in (10, 20):
        write(folder / "samples" / f"samples_step{step}.jsonl", [sample(step, i, i / 10) for i in range(10)])
    write(folder / "samples" / "eval_step20_sampled.jsonl", [evaluation(i, [1.0, 0.0, 1.0]) for i in range(4)])
    write(folder / "samples" / "notes.jsonl", [{"response": "not a sample file"}])
    return folder


@pytest.fixture
def samples(run):
    return index.read(index.files(run / "samples"))


def command(*arguments: str, capsys) -> tuple[int, str, str]:
    status = cli.main(["samples", *arguments])
    return status, *capsys.readouterr()


def test_every_answer_is_a_row(samples):
    assert len(samples.rows) == 10 + 10 + 4 * 3 and samples.passed_over == 0
    assert [row.fields["step"] for row in samples.rows] == [10] * 10 + [20] * 22
    assert {row.fields["set"] for row in samples.rows} == {"train", "eval-sampled"}
    second = samples.rows[20]
    assert (second.fields["correct"], second.fields["correctness"], second.fields["reward"]) == (0.0, 0.0, 0.0)
    assert (second.fields["part"], second.fields["adapter_version"], second.fields["index"]) == (1, 7, 3)
    assert index.texts(second)["response"] == "problem 3 try 1 \\boxed{1}"
    assert index.texts(samples.rows[3])["response"].endswith("\\boxed{3}<|return|>")


def test_files_by_step_and_set(run):
    folder = run / "samples"

    def names(*arguments) -> list[str]:
        return [path.name for _, _, path in index.files(folder, *arguments)]

    assert names() == ["samples_step10.jsonl", "eval_step20_sampled.jsonl", "samples_step20.jsonl"]
    assert names({10}) == ["samples_step10.jsonl"] and names(set(), "train") == ["samples_step20.jsonl"]
    assert names(None, "eval") == ["eval_step20_sampled.jsonl"]
    with pytest.raises(RftError, match=r"--step 5: .* has samples of the steps 10, 20"):
        names({5})


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("reward<0.3 set=train step=10", [0, 1, 2]),
        ("reward >= 0.7, step=10 and set=train", [7, 8, 9]),
        ("truncated=1 step=10", [0, 4, 8]),
        ("kinds~best step=10", [0, 2, 4, 6, 8]),
        ("label=7 step=10", [7]),
        ("label!=7 step=10 reward>0.55", [6, 8, 9]),
        ("set~^tr step=10 response_length<=11", [0, 1]),
        ("step=10 set='train' reward==0.5", [5]),
        ("step<reward", []),
    ],
)
def test_filters(samples, text, wanted):
    assert [samples.rows.index(row) for row in query.select(samples, text)] == wanted


def test_a_row_without_the_field_never_matches(samples):
    assert {row.fields["set"] for row in query.select(samples, "truncated!=9")} == {"train"}


def test_search(samples):
    found = query.select(samples, search="ANSWER 3 IS")
    assert [row.fields["step"] for row in found] == [10, 20]
    assert len(query.select(samples, search="boxed{3}")) == 2  # braces as they stand
    assert len(query.select(samples, search=r"/step 1\d answer [12]/")) == 2
    assert len(query.select(samples, search="Problem 2")) == 3  # in the prompt
    assert query.select(samples, search="nowhere") == []


def test_sort(samples):
    rows = query.select(samples, "step=10", sort="-reward")
    assert [row.fields["reward"] for row in rows] == [i / 10 for i in range(9, -1, -1)]
    rows = query.select(samples, sort="truncated")
    assert [row.fields.get("truncated") for row in rows][-12:] == [None] * 12  # without it: last, both ways
    assert [row.fields.get("truncated") for row in query.select(samples, sort="-truncated")][-12:] == [None] * 12


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"where": "reward"}, "is no comparison"),
        ({"where": "reward<0.5 or step=1"}, "'or' is no comparison"),
        ({"where": "colour=1"}, "no sample has the field 'colour'; there are: adapter_version"),
        ({"where": "kinds~["}, "pattern '\\['"),
        ({"search": "/[/"}, "pattern '\\['"),
        ({"sort": "colour"}, "no sample has the field 'colour'"),
    ],
)
def test_a_bad_question_is_one_line(samples, asked, message):
    with pytest.raises(RftError, match=message) as caught:
        query.select(samples, **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad", [b"{torn", b"\xff\xfe\x00", b"[]", b"[" * 100_000, b'{"reward": 1}', b'{"responses": 3}']
)
def test_what_is_no_answer_is_passed_over_and_counted(run, bad):
    path = run / "samples" / "samples_step10.jsonl"
    path.write_bytes(path.read_bytes() + bad + b"\n" + json.dumps(sample(10, 11, 0.1)).encode())
    found = index.read(index.files(run / "samples", {10}))
    assert (len(found.rows), found.passed_over) == (11, 1)


def test_strange_values_are_no_end(run):
    values = [None, 10**400, float("nan"), True, {"a": {"b": 1}}, ["x", None], "\x1b[2J" * 20, -0.0, [], {}]
    lines = [{**sample(10, i, 0.5), "odd": v, "label": v, "reward": v, "response": v} for i, v in enumerate(values)]
    lines += [{**evaluation(1, [1.0, 0.0]), "rewards": v, "label": v, "correct": v} for v in values]
    path = run / "samples" / "samples_step10.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = index.read(index.files(run / "samples", {10}))
    assert len(found.rows) == 30
    for sort in found.names():
        assert len(query.select(found, f"{sort}!=zzz", search="/./", sort=sort)) <= 30
    browser = Browser(found)
    for _ in range(30):
        browser.lines(80, 24, CONSOLE)
        browser.press("enter")
        assert "\x1b" not in "".join(line.plain for line in browser.lines(80, 24, CONSOLE))
        browser.press("q")
        browser.press("down")


def test_a_file_that_changes_is_no_end(run, samples):
    (run / "samples" / "samples_step10.jsonl").write_text("")
    index._answers_at.cache_clear()
    assert index.texts(samples.rows[5]) == {}
    browser = Browser(samples)
    assert "the file has changed" in browser.lines(80, 24, CONSOLE)[2].plain
    browser.press("enter")
    assert any("the file has changed" in line.plain for line in browser.lines(80, 24, CONSOLE))


def test_table(run, capsys):
    status, out, _ = command(str(run), "--where", "step=10 reward>0.6", "--sort", "-reward", capsys=capsys)
    assert status == 0
    assert re.fullmatch(
        r" +# +step +set +reward right tokens cut answer\n"
        r" +1 +10 train +0.9 +1 +19 +0 +… step 10 answer 9 is \\boxed\{9\}\n"
        r" +2 +10 train +0.8 +1 +18 +1 +… step 10 answer 8 is \\boxed\{8\}\n"
        r" +3 +10 train +0.7 +1 +17 +0 +… step 10 answer 7 is \\boxed\{7\}\n"
        r"3 of 32 answers\n",
        out,
    ), out
    assert len(command(str(run), "--limit", "2", capsys=capsys)[1].splitlines()) == 4
    assert max(map(len, command(str(run), capsys=capsys)[1].splitlines())) <= 80


def test_show_and_json_and_fields(run, capsys):
    _, out, _ = command(str(run), "--where", "step=20 set~eval", "--show", "2", capsys=capsys)
    assert (
        "── response ──\nproblem 0 try 1 \\boxed{1}" in out and "── prompt ──\nProblem 0" in out and "reward 0" in out
    )
    _, out, _ = command(str(run), "--where", "step=10 reward=0.3", "--json", capsys=capsys)
    [record] = map(json.loads, out.splitlines())
    assert (record["prompt"], record["answer"], record["set"], record["reward"]) == ("What is 3?", "3", "train", 0.3)
    _, out, _ = command(str(run), "--set", "eval", "--fields", capsys=capsys)
    assert "adapter_version" in out.split() and "kinds" not in out.split()


def test_the_run_by_id_by_samples_folder_and_copied(run, capsys, monkeypatch):
    monkeypatch.setenv("RFT_RUNS_DIR", str(run.parent))
    for reference in ("last", "tiny-1", "tiny", str(run), str(run / "samples")):
        assert command(reference, capsys=capsys)[1].endswith("32 of 32 answers\n"), reference


def test_wrong_arguments_are_one_line(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path / "none"))
    empty = make_run(tmp_path / "empty", 1)
    for arguments in (
        ["absent"],
        [],
        [str(empty)],
        [str(run), "--step", "x"],
        [str(run), "--step", "7"],
        [str(run), "--show", "99"],
        [str(run), "--where", "x"],
    ):
        status, _, err = command(*arguments, capsys=capsys)
        assert status == 2 and err.startswith("error: ") and err.count("\n") == 1, arguments


def test_help_without_anything_heavy():
    code = """
import sys
for name in ("torch", "numpy", "datasets", "rich"):
    sys.modules[name] = None
from rft import cli
cli.main(["samples", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--where" in done.stdout, done.stderr


def press(browser: Browser, *pressed: str) -> list[str]:
    for key in pressed:
        browser.press(key)
    return [line.plain for line in browser.lines(80, 20, CONSOLE)]


def test_browsing_the_list(samples):
    browser = Browser(samples)
    text = press(browser)
    assert len(text) == 20 and text[0].startswith("1/32 of 32 answers") and text[2].startswith(">     1 ")
    assert press(browser, "down", "j", "up")[3].startswith(">     2 ")
    assert press(browser, "end")[-2].startswith(">    32 ")
    assert press(browser, "down")[0].startswith("32/32")
    assert press(browser, "pageup")[0].startswith("16/32") and press(browser, "g")[0].startswith("1/32")
    assert not browser.done
    browser.press("q")
    assert browser.done


def test_reading_an_answer(samples):
    browser = Browser(samples, where="step=10")
    text = press(browser, "down", "down", "enter")
    assert "── response ──" in text and any("answer 2 is" in line for line in text)
    assert any("answer 3 is" in line for line in press(browser, "n"))
    assert any("answer 2 is" in line for line in press(browser, "p"))
    assert press(browser, "escape")[0].startswith("3/10") and not browser.done


def test_scrolling_stays_within_the_answer(run):
    long = sample(30, 1, 0.1, response="\n".join(f"line {i}" for i in range(100)))
    write(run / "samples" / "samples_step30.jsonl", [long])
    browser = Browser(index.read(index.files(run / "samples", {30})))
    assert not any("line 99" in line for line in press(browser, "enter"))
    assert press(browser, *["pagedown"] * 50)[-2].strip() in ("line 99", "")
    text = press(browser)
    assert any("line 99" in line for line in text) and any("line 90" in line for line in text)
    assert any("── prompt ──" in line for line in press(browser, "home"))


def test_typing_a_filter_a_search_and_a_sort(samples):
    browser = Browser(samples)
    assert press(browser, "f", *"reward>0.65")[-1].endswith("reward>0.65_")
    text = press(browser, "backspace", "backspace", "8", "enter")
    assert text[0] == "1/2 of 32 answers  where reward>0.8"
    press(browser, "s", *"-step", "enter")
    assert [row.fields["step"] for row in browser.rows[:1]] == [20]
    wanted = "2/2 of 32 answers  where reward>0.8  search answer 9  sort -step"
    assert press(browser, "/", *"answer 9", "enter")[0] == wanted
    assert press(browser, "/", *"zzz", "enter")[1].startswith("no answer matches")
    assert press(browser, "enter", "down", "n")[1].startswith("no answer matches")
    assert press(browser, "c")[0] == "1/32 of 32 answers"


def test_a_bad_filter_is_said_and_changes_nothing(samples):
    browser = Browser(samples)
    text = press(browser, "f", *"colour=1", "enter")
    assert "no sample has the field 'colour'" in text[-1] and "32 of 32" in text[0]
    assert "filter" in press(browser, "up")[-1]  # the help line is back
    press(browser, "f", *"reward=9", "escape")
    assert browser.asked["where"] == ""


def test_the_row_under_the_cursor_stays(samples):
    browser = Browser(samples)
    press(browser, *["down"] * 7)
    assert press(browser, "f", *"reward>0.5 step=10", "enter")[0].startswith("2/4")


@pytest.mark.parametrize("size", [(20, 3), (40, 5), (80, 24), (200, 60), (80, 1)])
def test_the_screen_fits(samples, size):
    width, height = size
    browser = Browser(samples)
    for pressed in ([], ["end"], ["enter"], ["/"], ["escape", "q", "f", *"reward<9", "enter"]):
        for key in pressed:
            browser.press(key)
        found = browser.lines(width, height, CONSOLE)
        assert len(found) <= height and max(line.cell_len for line in found) <= width


def test_on_a_terminal(run):
    before = tree(run)
    terminal = Terminal([sys.executable, "-m", "rft.cli", "samples", str(run)], rows=24)
    try:
        terminal.wait_for(r"1/32 of 32 answers")
        terminal.press("/answer 4\r")
        terminal.wait_for(r"1/2 of 32 answers")
        terminal.press("\x1b[B")
        terminal.wait_for(r"2/2 of 32")
        terminal.press("\r")
        terminal.wait_for(r"── response ──")
        terminal.press("qq")
        assert terminal.end() == 0
    finally:
        if terminal.status is None:
            os.kill(terminal.pid, signal.SIGKILL)
            terminal.end()
    assert tree(run) == before


def test_what_the_trainer_writes_is_read(tmp_path, monkeypatch):
    """samples_log's own evaluation file, of a real Experience."""
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    from rft import samples_log

    monkeypatch.setenv("SAMPLES_LOG_DIR", str(tmp_path / "samples"))
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(map(str, ids.tolist())))
    answers = [
        SimpleNamespace(
            prompts=["p"],
            labels=["4"],
            sequences=torch.tensor([[1, 2, 3, 4]]),
            action_mask=torch.tensor([[0, 1, 1]]),
            rewards=[torch.tensor(float(i))],
            info={
                "adapter_version": torch.tensor([3.0]),
                "correctness": torch.tensor([float(i)]),
                "truncated": torch.tensor([False]),
            },
        )
        for i in range(2)
    ]
    samples_log.write_evaluation(5, "sampled", answers, 2, tokenizer)
    found = index.read(index.files(Path(tmp_path) / "samples"))
    assert [(row.fields["step"], row.fields["reward"], index.texts(row)["response"]) for row in found.rows] == [
        (5, 0.0, "3 4"),
        (5, 1.0, "3 4"),
    ]
