"""The report of a run: what stands in it, that it is whole and self-contained, and what bad input does."""

import csv
import html.parser
import json
import os

import histories
import pytest
from report_kit import NASTY, full_run, make_run

from rft import metrics, runs
from rft.cli import main
from rft.report import headline, run_data
from rft.report.run_report import write


@pytest.fixture
def run(tmp_path):
    return full_run(tmp_path)


class Page(html.parser.HTMLParser):
    """Tags, attributes that could load something, and text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.loads, self.text, self.open = [], [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "action", "data", "onload", "style")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text.append(data)


def page_of(folder, out) -> tuple[Page, str]:
    source = write([str(folder)], out)[0].read_text()
    return Page(source), source


def test_one_page_that_loads_nothing_and_runs_nothing(run, tmp_path):
    page, source = page_of(run, tmp_path / "out")
    assert page.open == [] and "script" not in page.tags and "img" not in page.tags
    assert all(address.startswith("#") for address in page.loads)
    assert "default-src 'none'" in source and "url(" not in source and "@import" not in source
    assert NASTY in "".join(page.text)  # as text
    assert "\x00" not in source


def test_every_part_is_there(run, tmp_path):
    page, source = page_of(run, tmp_path / "out")
    text = " ".join(page.text)
    for title in (
        "Summary",
        "Diagnosis",
        "Evaluation",
        "Tier 1",
        "Tier 2",
        "Tier 3",
        "Time and memory",
        "Gradient spikes",
    ):
        assert title in text
    for section in ("samples", "certificates", "steps", "configuration", "other"):
        assert f'<section id="{section}">' in source
    assert "0.347 [0.284, 0.414]" in text  # Wilson, 70 of 202
    assert "step 60 is better than step 0" in text
    assert "512" in text and "therefore" in text and "not finite" in text
    assert "1 of 2, DISAGREEMENT" in text and "DISAGREE" in text
    assert "my_own_figure" in text and "actor_learning_rate" in text
    assert "100.0 % in phases" in text
    assert "truncated: step 60" in text and "best: step 60, reward 0.95" in text
    assert source.count('class="mark"') == 3  # the spike of step 40, in grad_norm, grad_norm_max, policy_loss


def test_every_logged_figure_is_drawn_or_said_to_be_constant(run, tmp_path):
    page, _ = page_of(run, tmp_path / "out")
    text = " ".join(page.text)
    columns = run_data.load(str(run)).history.columns
    unseen = [name for name in columns if name not in text and (m := metrics.get(name)) and 1 <= m.tier <= 4]
    assert unseen == []


def test_markdown_table_and_headline_for_the_research_log(run, tmp_path):
    out = tmp_path / "out"
    write([str(run)], out)
    text = (out / "report.md").read_text()
    assert "- wall time: 1h02m" in text and "- commit: abc123" in text and "- syncs certified: 1 of 2" in text
    assert "| greedy_pass@1 | probe_set_200_ood.jsonl | 202 x 1 | 60 | 0.545 [0.476, 0.612] |" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.split("|")[1].strip().isdigit()]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 61))
    with open(out / "steps.csv", newline="") as file:
        table = list(csv.DictReader(file))
    first = json.loads((run / "metrics" / runs.METRICS_FILE).read_text().splitlines()[1])
    assert (
        len(table) == 60
        and float(table[0]["kl"]) == first["kl"]
        and float(table[0]["entropy_mean"]) == first["entropy_mean"]
    )
    about = json.loads((out / "headline.json").read_text())
    assert about["run"] == "run-a" and about["diagnosis"]["findings"] == []


def test_an_older_sync_log_is_no_disagreement():
    """Its lines do not say what each rank's share comes to."""
    from rft.report import headline

    older = {"version": 1, "digest": "ab", "engines": [{"ranks": [{"rank": 0, "version": 1, "digest": "cd"}]}]}
    newer = {**older, "digests": ["cd"]}
    assert headline.certified([older, newer]) == "1 of 2, 1 without digests to compare (an older log)"
    assert headline.certified([{**newer, "digests": ["ef"]}]) == "0 of 1, DISAGREEMENT"


def test_what_is_sick_is_named_in_the_report(tmp_path):
    folder = make_run(tmp_path / "sick", *histories.mismatch_growth(0))
    page, _ = page_of(folder, tmp_path / "out")
    assert "trainer and engine drift apart" in " ".join(page.text)
    assert "`mismatch_growth`" in (tmp_path / "out" / "report.md").read_text()


def test_two_runs_are_overlaid_and_what_differs_is_said(run, tmp_path):
    other = make_run(tmp_path / "run-b", *histories.lines(histories.healthy(1), init_kl_coef="0.5"))
    out = tmp_path / "both"
    source = write([str(run), str(other)], out)[0].read_text()
    text = " ".join(Page(source).text)
    assert "What differs" in text and "init_kl_coef" in text.split("What differs")[1].split("all flags")[0]
    assert 'class="line s1"' in source and "run-b" in text
    assert {path.name for path in out.iterdir()} >= {"run-a-steps.csv", "run-b-steps.csv", "run-b-headline.json"}


def test_the_run_is_only_read(run, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    write([str(run)], tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_the_default_place_is_beside_the_runs(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RFT_RUNS_DIR", str(tmp_path))
    assert main(["report", "run-a"]) == 0
    assert (tmp_path / "reports" / "run-a" / "report.html").is_file()
    assert capsys.readouterr().out.count("\n") == 4


@pytest.mark.parametrize(
    "records", [[], [{"event": "train", "step": 1}], [{"event": "train", "step": 1, "reward_mean": None}]]
)
def test_a_run_with_next_to_nothing_gets_a_report(tmp_path, records):
    page, _ = page_of(make_run(tmp_path / "young", records), tmp_path / "out")
    assert "Diagnosis" in page.text


def test_torn_and_foreign_side_files_are_survived(run, tmp_path):
    for path in [*(run / "metrics").iterdir(), *(run / "samples").iterdir()]:
        path.write_bytes(path.read_bytes() + b'{"torn": [1, 2\n\xff\xfe\x00\n[]\n')
    (run / "metrics" / "sync_log.jsonl").write_text('{"version": 1, "digests": "x", "engines": [3], "canary": 5}\n')
    (run / "metrics" / "spike_log.jsonl").write_text('{"prompt_hashes": 4, "worst_tokens": {"a": 1}}\n')
    (run / "resources.json").write_text("{")
    page, _ = page_of(run, tmp_path / "out")
    text = " ".join(page.text)
    assert "torn or foreign lines were passed over" in text
    assert "eval_step30_greedy.jsonl is not whole" in text
    assert "0.347 [0.284, 0.414]" in text  # from the mean of a greedy evaluation alone


def test_a_copied_run_is_read_where_it_lies(run, tmp_path):
    record = json.loads((run / runs.RUN_FILE).read_text())
    record["paths"] = {"metrics": "/gone/metrics", "samples": "/gone/samples"}
    (run / runs.RUN_FILE).write_text(json.dumps(record))
    assert len(run_data.load(str(run)).history) == 60


def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(run), "--out", str(tmp_path / "file" / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and "--out" in err
    assert main(["report", str(tmp_path / "nowhere")]) == 2


def test_a_failed_write_leaves_the_old_page(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write([str(run)], out)
    old = (out / "report.html").read_text()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="No space left"):
        write([str(run)], out)
    assert (out / "report.html").read_text() == old
    assert not [path for path in out.iterdir() if path.suffix == ".tmp"]


def test_long_runs_have_a_short_table():
    data = run_data.RunData(None, {}, histories_history(1000), None)
    head, rows, every = headline.step_rows(data)
    assert every == 10 and len(rows) == 101 and rows[-1][0] == "1000" and head[0] == "step"


def histories_history(steps):
    from rft.diagnosis.history import from_records

    return from_records(histories.lines(histories.healthy(0, steps))[0])
