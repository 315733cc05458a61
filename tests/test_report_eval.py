"""The page of evaluation results: what changed both ways, with the texts; what is refused."""

import re

import pytest
from test_report import Page

from rft.errors import RftError
from rft.evals import figures, records, settings
from rft.report import eval_report, flips

N = 24


def result(name, step, right, n=1, tokens=None, folder=None, **other):
    """A result over N problems; right(problem, sample) -> is it right. Its samples lie in `folder` where given."""
    of = {"mode": "greedy_pass@1" if n == 1 else f"sampling_pass@{n}", "temperature": 0.0, "n": n, "max_tokens": 64}
    of |= {
        "data_set": "heldout",
        "data_sha256": "d",
        "n_problems": N,
        "adapter": name,
        "lora_apply": "sidepath",
        **other,
    }
    problems = []
    for i in range(N):
        correct = [int(right(i, sample)) for sample in range(n)]
        one = {"id": f"id{i}", "index": i, "prompt": f"What is <{i}>?", "label": str(i), "correct": correct}
        one |= {key: [0] * n for key in ("truncated", "unparseable")}
        one |= {key: [1] * n for key in ("boxed", "final_channel")}
        one["tokens"] = [tokens(i)] * n if tokens else None
        problems.append({**one, "answers": [str(i) if c else "wrong" for c in correct]})
    made = {"format": 1, "name": name, "step": step, "settings": of, "settings_digest": settings.digest(of)}
    made |= {"grader": "g", "samples": None, "figures": figures.of(problems), "problems": problems}
    if folder is not None:
        made["samples"] = f"{name.replace(' ', '_')}.jsonl"
        with records.open_samples(folder / made["samples"], of) as samples:
            for one in problems:
                for sample in range(n):
                    said = f"{name} says <b>{one['answers'][sample]}</b> in sample {sample} of {one['id']}"
                    samples.append({"problem": one["id"], "sample": sample, "response": said})
    return made


def base(folder=None, **other):
    return result("base", None, lambda i, _: i < 8 or i == 20, folder=folder, tokens=lambda i: 30 + i, **other)


def trained(folder=None, **other):
    return result("step 40", 40, lambda i, _: i < 18, folder=folder, tokens=lambda i: 20 + i, **other)


def test_flips_both_ways_with_what_was_said(tmp_path):
    source = eval_report.html([base(tmp_path), trained(tmp_path)], tmp_path)
    page = Page(source)
    text = "".join(page.text)
    assert page.open == [] and "script" not in page.tags
    assert "10 problems better" in text and "1 problems worse" in text
    lost = text.split("1 problems worse")[1]
    assert "problem 20, answer 20: right → wrong" in lost
    assert "base says <b>20</b> in sample 0 of id20" in lost and "step 40 says <b>wrong</b> in sample 0 of id20" in lost
    assert "What is <20>?" in lost


def test_accuracy_intervals_verdict_and_lengths_stand_there(tmp_path):
    text = " ".join(Page(eval_report.html([base(), trained()], tmp_path)).text)
    assert "0.375" in text and "[0.212, 0.573]" in text  # Wilson, 9 of 24
    assert "step 40 against base: " in text and "p = 0.012" in text  # McNemar, 10 to 1
    assert "n = 24 problems x 1" in text
    assert "41.5" in text and "31.5" in text  # mean tokens


def test_the_heat_map_has_a_row_a_problem_the_hardest_first(tmp_path):
    source = eval_report.problems([base(), trained()])
    told = re.findall(r"<title>problem (\d+), answer \d+ at (base|40): ([\d.]+)</title>", source)
    assert len(told) == 2 * N
    totals = [float(a[2]) + float(b[2]) for a, b in zip(told[::2], told[1::2], strict=True)]
    assert totals == sorted(totals) and totals[0] == 0 and totals[-1] == 2


def test_sampled_changes_are_ordered_by_size(tmp_path):
    first = result("base", None, lambda i, sample: sample < 2, n=4)
    second = result("step 5", 5, lambda i, sample: sample < (4 if i == 3 else 0 if i == 4 else 3 if i < 9 else 2), n=4)
    up, down = flips.changes(first, second)
    assert [after["index"] for _, after in up] == [3, 0, 1, 2, 5, 6, 7, 8]
    assert [after["index"] for _, after in down] == [4]
    text = "".join(Page(eval_report.html([first, second], tmp_path)).text)
    assert "problem 3, answer 3: 2 of 4 right → 4 of 4 right" in text and "(no text at hand)" in text


def test_the_best_checkpoint_is_shown_beside_the_last(tmp_path):
    middle = result("step 20", 20, lambda i, _: i < 22)
    text = "".join(Page(eval_report.html([base(), middle, trained()], tmp_path)).text)
    assert "step 40 against base" in text and "step 20 against base" in text


def test_sets_and_modes_are_not_mixed(tmp_path):
    other = {**trained(data_set="aime"), "name": "on aime"}
    page = Page(eval_report.html([base(), trained(), other], tmp_path))
    assert "heldout, greedy_pass@1" in page.text and "aime, greedy_pass@1" in page.text
    assert "on aime against" not in " ".join(page.text)


def test_other_settings_are_not_compared(tmp_path):
    text = " ".join(Page(eval_report.html([base(), trained(max_tokens=128)], tmp_path)).text)
    assert "not compared" in text and "max_tokens" in text


def test_no_result_is_an_error_and_nothing_is_written(tmp_path):
    with pytest.raises(RftError, match="no result"):
        eval_report.write([], tmp_path, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_the_page_is_written_where_the_programs_ask(tmp_path):
    path = eval_report.write([base(tmp_path), trained(tmp_path)], tmp_path, tmp_path / "out" / "report.html")
    assert path.read_text().startswith("<!doctype html>")
