"""A result: everything that one model, set and mode came to, out of its samples; a file that is whole or not there.

    {"format": 1, "name", "step", "settings", "settings_digest", "grader", "samples": name of the sample file,
     "figures": rft/evals/figures.py's, "problems": [{"id", "index", "prompt", "label", "correct": [n], "tokens": [n],
     "truncated": [n], "boxed": [n], "answers": [n]}, …]}

Deterministic: the same samples give the same bytes, however often the program was killed on the way. `name` and `step`
are the caller's words; the settings say what it is. Main thread.
"""

import json
import os
from pathlib import Path

from rft import runs
from rft.errors import RftError
from rft.evals import grade, records, settings
from rft.evals.sets import EvalSet

FORMAT = 1
PER_SAMPLE = ("correct", "tokens", "truncated", "boxed", "final_channel", "unparseable")


def folder() -> Path:
    """$RFT_EVALS_DIR, else evals/ among the runs."""
    return Path(os.environ.get("RFT_EVALS_DIR") or runs.runs_dir() / "evals")


def stem(of: dict, where: Path) -> Path:
    """Path without suffix of the result with these settings; one that lies there under another set's name is taken."""
    key = settings.digest(of)[:16]
    for known in sorted(where.glob(f"*-{key}.jsonl")):
        return known.with_suffix("")
    name = "".join(c if c.isalnum() or c in "._" else "_" for c in of["data_set"])
    return where / f"{of['mode'].replace('@', '')}-{name}-{key}"


def make(name: str, step: int | None, samples: records.Samples, one: EvalSet, texts: dict[str, str]) -> dict:
    """The result of samples that are all there.

    texts   the prompts as the engine got them, by problem id
    raises  RftError: a sample is missing
    """
    found, n = samples.have, samples.settings["n"]
    problems = []
    for problem in one.problems:
        group = [found.get((problem.id, number)) for number in range(n)]
        if None in group:
            raise RftError(f"{samples.path}: not complete; give the same command again to go on")
        group = [_graded(record, problem.label, texts[problem.id]) for record in group]
        entry = {"id": problem.id, "index": problem.index, "prompt": texts[problem.id], "label": problem.label}
        entry |= {key: [record[key] for record in group] for key in PER_SAMPLE}
        problems.append({**entry, "answers": [record["answer"] for record in group]})
    return of(name, step, samples.settings, problems, grade.version(), samples.path.name)


def of(
    name: str, step: int | None, described: dict, problems: list[dict], grader: str | None, samples: str | None
) -> dict:
    """The result of problems that are graded. described: the settings; samples: name of the file with the answers."""
    from rft.evals import figures

    return {
        "format": FORMAT,
        "name": name,
        "step": step,
        "settings": described,
        "settings_digest": settings.digest(described),
        "grader": grader,
        "samples": samples,
        "figures": figures.of(problems),
        "problems": problems,
    }


def _graded(record: dict, label: str, prompt: str) -> dict:
    """The record by the grader of today: samples of an older one are graded again, not generated again."""
    if record.get("grader") == grade.version():
        return record
    return {**record, **grade.grade(record["response"], label, prompt, record["finish"])}


def save(result: dict, path: Path) -> None:
    """raises  RftError: the disk is full; then there is no file, or the old one"""
    try:
        runs.write_json(path, result)
    except OSError as err:
        raise RftError(
            f"{path}: {err.strerror}; free space, then give the same command again (nothing is lost)"
        ) from err


def load(path: Path) -> dict:
    """raises  RftError: not readable, or no result"""
    try:
        result = json.loads(Path(path).read_text(encoding="utf-8"))
        if result["format"] != FORMAT or not result["problems"]:
            raise ValueError(f"format {result['format']}")
        if settings.digest(result["settings"]) != result["settings_digest"]:
            raise ValueError("its settings were changed by hand")
        return result
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise RftError(f"{path}: not readable as a result ({err}); name a .json that an evaluation wrote") from err


def correct(result: dict):
    """(P, n) float64, 1.0 for a right answer, problems in the set's order."""
    import numpy as np

    return np.asarray([problem["correct"] for problem in result["problems"]], dtype=np.float64)
