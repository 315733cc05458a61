"""Problem sets: what is refused before an engine starts, digests, overlap with training (rft/evals/sets.py)."""

import json

import pytest
from evals_kit import make_set

from rft.errors import RftError
from rft.evals import set_checks, sets
from rft.provenance import sha256


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_set_by_name_and_by_path(tmp_path):
    make_set(tmp_path / "aime_eval.jsonl", 18)
    by_name, by_path = sets.load("aime", tmp_path), sets.load(str(tmp_path / "aime_eval.jsonl"), tmp_path)
    assert (by_name.name, by_path.name, len(by_name.problems)) == ("aime", "aime_eval", 18)
    assert by_name.sha256 == by_path.sha256 != sets.load("aime", tmp_path, limit=17).sha256
    assert [p.index for p in by_name.problems] == list(range(18)) and by_name.problems[3].label == "6"


def test_the_digest_is_over_problems_and_labels(tmp_path):
    one = sets.load(str(write(tmp_path / "a.jsonl", {"input": "Q", "label": "1", "datasource": "x"})), tmp_path)
    two = sets.load(str(write(tmp_path / "b.jsonl", {"problem": "Q", "answer": 1})), tmp_path)
    three = sets.load(str(write(tmp_path / "c.jsonl", {"input": "Q", "label": "2"})), tmp_path)
    assert one.sha256 == two.sha256 != three.sha256


def test_published_shapes_are_read(shared_data):
    gsm8k, aime = (sets.load(str(shared_data / name), shared_data) for name in ("gsm8k_test.jsonl", "aime24.jsonl"))
    assert len(gsm8k.problems) == 1319 and gsm8k.problems[0].label == "18"
    assert len(aime.problems) == 30


@pytest.mark.parametrize(
    "rows, says",
    [
        ([], "empty set"),
        ([{"input": "Q"}], "line 1: no label"),
        ([{"label": "1"}], "line 1: no problem"),
        ([{"input": "Q", "label": "1"}, {"input": " Q ", "label": "1"}], "line 2: the problem of line 1 again"),
        ([{"input": "Q", "label": " $ $ "}], "line 1: label"),
        ([{"input": "Q", "label": "1", "reasoning_effort": "most"}], "line 1: reasoning_effort"),
    ],
)
def test_a_bad_set_is_one_line_that_says_where(tmp_path, rows, says):
    path = write(tmp_path / "bad.jsonl", *rows)
    with pytest.raises(RftError) as error:
        sets.load(str(path), tmp_path)
    assert says in str(error.value) and "bad.jsonl" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_set_and_a_torn_line(tmp_path):
    with pytest.raises(RftError, match=r"prepare_data\.py"):
        sets.load("aime", tmp_path)
    (tmp_path / "torn.jsonl").write_text('{"input": "Q", "label": "1"}\n{"input": "R", "la')
    with pytest.raises(RftError, match="line 2"):
        sets.load(str(tmp_path / "torn.jsonl"), tmp_path)


def manifest(folder, **roles):
    files = {name: {"sha256": sha256(folder / f"{name}.jsonl"), "role": role} for name, role in roles.items()}
    files = {f"{name}.jsonl": entry for name, entry in files.items()}
    (folder / "prepare_data.json").write_text(json.dumps({"files": files}))


def test_the_manifest_vouches_for_a_file(tmp_path):
    path = make_set(tmp_path / "aime_eval.jsonl")
    assert "not checked" in set_checks.check_digest(sets.load("aime", tmp_path))
    manifest(tmp_path, aime_eval="evaluation")
    assert set_checks.check_digest(sets.load("aime", tmp_path)) is None
    path.write_text(path.read_text().replace("What is 3", "What was 3"))
    with pytest.raises(RftError, match=r"not the file that prepare_data\.json describes"):
        set_checks.check_digest(sets.load("aime", tmp_path))


def test_training_files_are_those_of_the_manifests(tmp_path):
    for name in ("aime_eval", "aime_train", "gone"):
        make_set(tmp_path / f"{name}.jsonl")
    manifest(tmp_path, aime_eval="evaluation", aime_train="train", gone="train")
    (tmp_path / "gone.jsonl").unlink()
    assert set_checks.training_files(tmp_path) == [tmp_path / "aime_train.jsonl"]


def test_overlap_is_found_as_it_stands_and_normalised(tmp_path):
    one = sets.load(
        str(
            write(
                tmp_path / "e.jsonl", {"input": r"Find $\frac{1}{2}$ of x.", "label": "1"}, {"input": "R", "label": "2"}
            )
        ),
        tmp_path,
    )
    clean = write(tmp_path / "clean.jsonl", {"input": "another", "label": "1"})
    same = write(tmp_path / "same.jsonl", {"prompt": [{"role": "user", "content": "  R "}], "label": "3"})
    dressed = write(tmp_path / "dressed.jsonl", {"input": "a"}, {"input": r"find \(\dfrac{1}{2}\) of X"})
    assert set_checks.check_disjoint([one], [clean]) == []
    (exact,) = set_checks.check_disjoint([one], [clean, same])
    assert "1 of 2 problems" in exact and "same.jsonl line 1 (as it stands)" in exact
    (near,) = set_checks.check_disjoint([one], [dressed])
    assert "dressed.jsonl line 2 (after normalisation)" in near
