"""Problem sets for evaluation: by name out of data/, or any JSONL file; checked before an engine starts.

    aime   aime_eval.jsonl            18 of AIME 2024, held out
    id     probe_set_200.jsonl        200 from the training pool's draw
    ood    probe_set_200_ood.jsonl    170 MATH, 32 Apex, disjoint from training
    math   math_45.jsonl              45 MATH problems of level 4 and 5
    apex   apex_shortlist.jsonl       48
    gsm8k  gsm8k_test.jsonl           1,319

A row holds its problem under input, problem, question or prompt (text or messages) and its label under label, answer or
expected_answer; GSM8K's ``… #### 18`` is the label 18. Main thread; imports numpy (by rft/data/shingles.py).
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from rft.data import chat_rows, jsonl
from rft.data.shingles import content_md5
from rft.errors import RftError
from rft.provenance import sha256
from rft.rewards.grading import read_label

FILES = {
    "aime": "aime_eval.jsonl",
    "id": "probe_set_200.jsonl",
    "ood": "probe_set_200_ood.jsonl",
    "math": "math_45.jsonl",
    "apex": "apex_shortlist.jsonl",
    "gsm8k": "gsm8k_test.jsonl",
}
PROBLEM_KEYS = ("input", "problem", "question", "prompt")
LABEL_KEYS = ("label", "answer", "expected_answer")


@dataclass(frozen=True)
class Problem:
    """id: hash of the problem's text; index: place in the file, from 0; prompt: text or chat messages."""

    id: str
    index: int
    line: int
    prompt: str | list[dict[str, str]]
    label: str
    effort: str | None

    @property
    def text(self) -> str:
        return self.prompt if isinstance(self.prompt, str) else "\n".join(m["content"] for m in self.prompt)


@dataclass(frozen=True)
class EvalSet:
    """sha256: over problems and labels in order; file_sha256: of the file's bytes."""

    name: str
    path: Path
    problems: list[Problem]
    sha256: str
    file_sha256: str
    by_id: dict[str, Problem] = field(repr=False)


def load(name: str, folder: Path, limit: int | None = None) -> EvalSet:
    """The set of this name in `folder`, or of this path; its first `limit` problems.

    raises  RftError: no such file, damaged or empty, a problem that stands twice, a label missing or not gradable
    """
    path = folder / FILES[name] if name in FILES else Path(name)
    if not path.is_file():
        remedy = "make it with prepare_data.py and prepare_sft_data.py, or link it with --auto-symlink DIR"
        known = "" if name in FILES else f" (by name: {', '.join(FILES)})"
        raise RftError(f"--set {name}: {path} does not exist{known}; {remedy}")
    problems: list[Problem] = []
    by_id: dict[str, Problem] = {}
    for line, record in jsonl.records(path):
        problem = _problem(record, len(problems), line, path)
        if problem.id in by_id:
            raise RftError(
                f"{path} line {line}: the problem of line {by_id[problem.id].line} again; remove one of them"
            )
        by_id[problem.id] = problem
        problems.append(problem)
        if len(problems) == limit:
            break
    if not problems:
        raise RftError(f"{path}: an empty set, nothing to evaluate; make it again")
    short = name if name in FILES else path.name.removesuffix(".gz").removesuffix(".jsonl")
    content = content_digest([(p.id, p.label, p.effort) for p in problems])
    return EvalSet(short, path, problems, content, sha256(path), by_id)


def content_digest(rows: list[tuple]) -> str:
    """sha256 over what a set asks and expects, in order, hex."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _problem(record: dict, index: int, line: int, path: Path) -> Problem:
    where = f"{path} line {line}"
    key = next((key for key in PROBLEM_KEYS if record.get(key)), None)
    if key is None:
        raise RftError(f"{where}: no problem under {', '.join(PROBLEM_KEYS)}; mend the line")
    label_key = next((key for key in LABEL_KEYS if record.get(key) is not None), None)
    if label_key is None:
        raise RftError(f"{where}: no label under {', '.join(LABEL_KEYS)}; mend the line")
    try:
        row = chat_rows.parse(record, key, label_key)
        label = row.label.rpartition("####")[2].strip()
        read_label(label)
    except RftError as error:
        raise RftError(f"{where}: {error}") from error
    text = row.prompt if isinstance(row.prompt, str) else json.dumps(row.prompt, ensure_ascii=False)
    return Problem(content_md5(text).hex(), index, line, row.prompt, label, row.effort)
