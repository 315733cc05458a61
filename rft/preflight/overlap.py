"""No training prompt is a problem of an evaluation set, exactly or nearly (rft/data/). In a process of its own.

Compared with: the files of --eval_dataset, and every evaluation set in the manifest of prepare_data.py beside a prompt
file. A set whose file is missing or changed is a failure: nothing could be said about it.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rft.data import eval_sets
from rft.data.eval_sets import EvalSet
from rft.data.near_duplicates import Problems
from rft.data.shingles import content_md5
from rft.errors import RftError
from rft.preflight.result import Result, Subject, ok, skipped
from rft.preflight.rows import files, rows
from rft.provenance import sha256

BATCH = 8192


def overlap(subject: Subject) -> Result:
    training, sets = list(files(subject, ("prompt_data",))), list(_sets(subject))
    if not training:
        return skipped("no local prompt file")
    if not sets:
        return skipped("no evaluation set: no --eval_dataset, no manifest of prepare_data.py beside the prompts")
    problems, names, texts = Problems(), [], []
    for one in sets:
        names += [f"{one.name} line {line}" for line in one.lines]
        texts += one.problems
    known = len(texts)
    for flag, path in training:
        for number, text in _texts(subject, flag, path):
            names.append(f"--prompt_data {path.name} line {number}")
            texts.append(text)
    for at in range(0, len(texts), BATCH):
        problems.add(texts[at : at + BATCH])
    pairs = problems.first_of_each(np.arange(len(texts)), always=known, each_other=False)
    found = [pair for _, pair in pairs if pair is not None]
    if found:
        pair = found[0]
        exact = content_md5(texts[pair.later]) == content_md5(texts[pair.earlier])
        what = "the problem" if exact else f"nearly the problem (similarity {pair.jaccard:.2f})"
        rest = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise RftError(
            f"{names[pair.later]} is {what} of {names[pair.earlier]}{rest}: evaluation would measure memory; drop them "
            "(prepare_sft_data.py does), or name another --eval_dataset"
        )
    return ok(f"{len(texts) - known} prompts against {known} problems of {', '.join(one.name for one in sets)}")


def _sets(subject: Subject) -> Iterator[EvalSet]:
    """Each file once."""
    seen: set[str] = set()
    for flag, path in files(subject, ("eval_dataset",)):
        seen.add(sha256(path))
        found = list(_texts(subject, flag, path))
        yield EvalSet(path.name, sha256(path), [text for _, text in found], [number for number, _ in found])
    for folder in sorted({path.parent for _, path in files(subject, ("prompt_data",))}):
        if (folder / eval_sets.MANIFEST).is_file():
            for one in eval_sets.of_manifest(folder):
                if one.sha256 not in seen:
                    seen.add(one.sha256)
                    yield one


def _texts(subject: Subject, flag: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, the problem's text) of a file; of a conversation, what the user says."""
    for number, _, row in rows(flag, path, subject.args):
        if isinstance(row.prompt, str):
            yield number, row.prompt
        else:
            yield number, "\n".join(one["content"] for one in row.prompt if one["role"] == "user")
