"""Samples on disk: torn and damaged lines, locks, a full disk (rft/evals/records.py)."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from rft.errors import RftError
from rft.evals import records

SETTINGS = {"mode": "greedy_pass@1", "data_set": "s", "model": "m", "n": 1}


def sample(number: int, text: str = "a") -> dict:
    return {"problem": f"p{number}", "sample": 0, "response": text, "tokens": 3, "correct": number % 2}


def fill(path: Path, count: int = 5) -> bytes:
    with records.open_samples(path, SETTINGS) as samples:
        for number in range(count):
            samples.append(sample(number))
    return path.read_bytes()


def test_what_is_written_is_read_again(tmp_path):
    texts = ["plain", 'quote " \\ and \n line', "\r\x00\u2028", "half a pair \ud800", "日本語", ',"check":"']
    with records.open_samples(tmp_path / "deep" / "s.jsonl", SETTINGS) as samples:
        for number, text in enumerate(texts):
            samples.append(sample(number, text))
    with records.open_samples(tmp_path / "deep" / "s.jsonl", SETTINGS) as samples:
        assert [record["response"] for record in samples.have.values()] == texts
        assert samples.remarks == []
    assert [record["response"] for record in records.read_samples(tmp_path / "deep" / "s.jsonl")] == texts
    assert all(json.loads(line)["check"] for line in (tmp_path / "deep" / "s.jsonl").read_bytes().splitlines())


def test_cut_anywhere_only_the_torn_line_is_lost(tmp_path):
    whole = fill(tmp_path / "whole.jsonl")
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 10]
    for cut in range(0, len(whole) + 1, 7):
        path = tmp_path / "s.jsonl"
        path.write_bytes(whole[:cut])
        with records.open_samples(path, SETTINGS) as samples:
            kept = max(0, sum(end <= cut for end in ends) - 1)  # the first line holds the settings
            assert len(samples.have) == kept
            assert bool(samples.remarks) == (cut not in (0, *ends))
            for number in range(kept, 5):
                samples.append(sample(number))
        assert path.read_bytes() == whole


def test_a_damaged_line_is_set_aside_and_its_sample_missing(tmp_path):
    path = tmp_path / "s.jsonl"
    lines = fill(path).splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"correct":1', b'"correct":0')  # still JSON: only the check can tell
    lines[4] = b"\x00garbage\xff\n"
    path.write_bytes(b"".join(lines))
    assert len(records.read_samples(path)) == 3
    with records.open_samples(path, SETTINGS) as samples:
        assert sorted(key for key, _ in samples.have) == ["p0", "p2", "p4"]
        assert "2 damaged lines" in samples.remarks[0]
        samples.append(sample(1))
        samples.append(sample(3))
    assert (tmp_path / "s.jsonl.damaged").read_bytes() == lines[2] + lines[4]
    assert len(records.read_samples(path)) == 5
    with records.open_samples(path, SETTINGS) as samples:
        assert samples.remarks == []


def test_a_lost_first_line_is_written_again(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(fill(path)[5:])
    with records.open_samples(path, SETTINGS) as samples:
        assert len(samples.have) == 5
    assert json.loads(path.read_text().splitlines()[0])["settings"] == SETTINGS


def test_samples_of_other_settings_are_not_taken(tmp_path):
    fill(tmp_path / "s.jsonl")
    with records.open_samples(tmp_path / "s.jsonl", {**SETTINGS, "model": "another name"}) as samples:
        assert len(samples.have) == 5
    with (
        pytest.raises(RftError, match="other settings"),
        records.open_samples(tmp_path / "s.jsonl", {**SETTINGS, "n": 2}),
    ):
        pass


def test_two_cannot_write_at_once(tmp_path):
    fill(tmp_path / "s.jsonl")
    again = records.open_samples(tmp_path / "s.jsonl", SETTINGS)
    with records.open_samples(tmp_path / "s.jsonl", SETTINGS), pytest.raises(RftError, match="another evaluation"):
        again.__enter__()
    with records.open_samples(tmp_path / "s.jsonl", SETTINGS) as samples:
        assert len(samples.have) == 5


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """The file may not grow beyond a limit, which cuts a write in the middle as a full disk does."""
    path = tmp_path / "s.jsonl"
    limit = len(fill(path)) + 50

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code = (
        "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from pathlib import Path\nfrom rft.evals import records\nfrom rft.errors import RftError\n"
        f"with records.open_samples(Path({str(path)!r}), {SETTINGS!r}) as samples:\n"
        "    try:\n"
        "        for n in range(5, 9):\n"
        "            samples.append(dict(problem=f'p{n}', sample=0, response='x', tokens=1, correct=1))\n"
        "    except RftError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limited, capture_output=True, text=True)
    assert "free space, then give the same command again" in done.stdout, done.stderr
    assert done.stdout.count("\n") == 1 and str(path) in done.stdout
    assert os.path.getsize(path) == limit  # a part of a line
    with records.open_samples(path, SETTINGS) as samples:
        assert len(samples.have) == 5 and "torn last line" in samples.remarks[0]
