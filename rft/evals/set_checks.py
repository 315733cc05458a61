"""Is a set the one that was made, and did training see its problems?

The manifests of prepare_data.py and prepare_sft_data.py beside a set say which bytes it should have and which files
train. A problem overlaps if its text equals a training problem's, white space aside, or does so after normalisation
(rft/data/shingles.py: case, punctuation, LaTeX dressing). Read only, main thread.
"""

import hashlib
import json
from pathlib import Path

from rft.data import jsonl, shingles
from rft.data.outputs import read_manifest
from rft.errors import RftError
from rft.evals.sets import PROBLEM_KEYS, EvalSet

MANIFESTS = ("prepare_data.json", "prepare_sft_data.json")
TRAINING_ROLES = ("train", "dev")


def check_digest(one: EvalSet) -> str | None:
    """None if a manifest beside the set vouches for it, else the remark that none does.

    raises  RftError: the manifest names other bytes
    """
    path = one.path.resolve()
    for name in MANIFESTS:
        entry = (read_manifest(path.parent, name) or {"files": {}})["files"].get(path.name)
        if entry is not None:
            if entry["sha256"] != one.file_sha256:
                raise RftError(f"{one.path}: not the file that {name} describes (sha256 differs); make the data again")
            return None
    return f"{one.path}: in no manifest beside it, so its digest is recorded but not checked"


def training_files(folder: Path) -> list[Path]:
    """The files in `folder` that train or develop, by the manifests there."""
    found = []
    for name in MANIFESTS:
        for file, entry in (read_manifest(folder, name) or {"files": {}})["files"].items():
            if entry.get("role") in TRAINING_ROLES and (folder / file).is_file():
                found.append(folder / file)
    return found


def check_disjoint(sets: list[EvalSet], training: list[Path]) -> list[str]:
    """One line for each set that shares problems with a training file: how many, and the first; [] for none."""
    exact: dict[bytes, tuple[Path, int]] = {}
    normal: dict[bytes, tuple[Path, int]] = {}
    wanted = [[(_md5(p.text), _normalised(p.text)) for p in one.problems] for one in sets]
    known = {key for one in wanted for pair in one for key in pair}
    for path in training:
        for line, record in jsonl.records(path):
            text = _text(record)
            if text is None:
                continue
            for table, key in ((exact, _md5(text)), (normal, _normalised(text))):
                if key in known:
                    table.setdefault(key, (path, line))
    remarks = []
    for one, keys in zip(sets, wanted, strict=True):
        hits = [
            (problem, exact.get(a) or normal[b], a in exact)
            for problem, (a, b) in zip(one.problems, keys, strict=True)
            if a in exact or b in normal
        ]
        if hits:
            problem, (path, line), same = hits[0]
            how = "as it stands" if same else "after normalisation"
            remarks.append(
                f"{one.path}: {len(hits)} of {len(one.problems)} problems are training data, first line {problem.line}"
                f" = {path} line {line} ({how})"
            )
    return remarks


def _text(record: dict) -> str | None:
    value = next((record[key] for key in PROBLEM_KEYS if record.get(key)), None)
    if isinstance(value, list):
        try:
            return "\n".join(message["content"] for message in value)
        except (TypeError, KeyError):
            return json.dumps(value)
    return value if isinstance(value, str) else None


def _md5(text: str) -> bytes:
    return b"e" + shingles.content_md5(text)


def _normalised(text: str) -> bytes:
    return b"n" + hashlib.md5(" ".join(shingles.tokens(text)).encode(), usedforsecurity=False).digest()
