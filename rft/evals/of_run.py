"""What a training run says about its evaluations: the settings that reproduce them, and their results.

`defaults` fills flags that were not given, so that ``eval_rl.py --checkpoint_path RUN/ckpt`` asks what the run asked:
same set, modes, temperature, token limit and seeds. `own` reads the run's eval_stepN files as results like any other:
the .json that the run wrote itself (rft/evals/in_training.py) or, of an older run, what its answers give. Reads only.
"""

import argparse
import re
from pathlib import Path

from rft import runs
from rft.errors import RftError
from rft.evals import figures, grade, modes, results, sets
from rft.rewards import harmony
from rft.rewards.grading import read_label

FILE = re.compile(r"eval_step(\d+)_(greedy|sampled)\.jsonl")


def find(folder: Path) -> Path | None:
    """The run folder that a checkpoint folder lies in, up to three levels up; None if it is in none."""
    for place in [folder, *folder.resolve().parents][:4]:
        if (place / runs.RUN_FILE).is_file():
            return place
    return None


def flags(run: Path) -> dict[str, str | None]:
    """The training flags of a run, the last of equal ones; None as the value of a switch."""
    given = runs.read_json(run / runs.RUN_FILE).get("flags") or []
    found: dict[str, str | None] = {}
    for at, item in enumerate(given):
        if item.startswith("--"):
            value = given[at + 1] if at + 1 < len(given) and not given[at + 1].startswith("--") else None
            found[item[2:]] = value
    return found


def defaults(args: argparse.Namespace, run: Path) -> None:
    """Fills what is None in `args` from the run's flags, and its training data into args.train."""
    of = flags(run)
    record = runs.read_json(run / runs.RUN_FILE)
    n, temperature = int(of.get("eval_n_samples_per_prompt") or 4), float(of.get("eval_temperature") or 0.6)
    if args.set is None and of.get("eval_dataset"):
        args.set = [path_of(name) for name in of["eval_dataset"].split(",")]
    if args.mode is None:
        args.mode = list(dict.fromkeys([modes.name(temperature, n), *(["greedy"] if "eval_greedy" in of else [])]))
    if args.temperature is None and temperature > 0:
        args.temperature = temperature
    args.top_p = float(of.get("top_p") or 1.0) if args.top_p is None else args.top_p
    args.max_tokens = args.max_tokens or int(of.get("generate_max_len") or 0) or None
    args.seed = int(of.get("seed") or 42) if args.seed is None else args.seed
    args.lora_apply = args.lora_apply or of.get("lora_apply")
    args.model = args.model or of.get("pretrain")
    if args.engine_model is None and args.model == of.get("pretrain") and of.get("engine_pretrain"):
        args.engine_model = of["engine_pretrain"]
    args.input_template = args.input_template or of.get("input_template")
    args.prompt_date = args.prompt_date or record.get("environment", {}).get("RFT_PROMPT_DATE")
    pool = [Path(path_of(name)) for name in (of.get("prompt_data") or "").split(",") if name]
    args.train = args.train + [path for path in pool if path.is_file() and path.suffix == ".jsonl"]


def path_of(name: str) -> str:
    """Run folders name their files relative to the repository."""
    path = Path(name)
    return str(path if path.is_absolute() or path.is_file() else runs.REPO / name)


def folders(run: Path) -> dict[str, Path]:
    """metrics, samples, ckpt of a run: beside run.json where they stand there (a copied run), else as it names them."""
    paths = runs.read_json(run / runs.RUN_FILE).get("paths") or {}
    names = {"metrics": "metrics", "samples": "samples", "ckpt": "ckpt", "save": "final"}
    return {
        key: run / name if (run / name).is_dir() else Path(paths.get(key) or run / name) for key, name in names.items()
    }


def own(run: Path) -> list[dict]:
    """The run's own evaluations as results, by step; without what a run does not record (settings, token counts).

    raises  RftError: a damaged file
    """
    where = folders(run)
    lines = runs.metrics_lines(where["metrics"] / runs.METRICS_FILE)
    evaluations = {(line.get("step"), line.get("mode")): line for line in lines if line.get("event") == "eval"}
    found = []
    for path in where["samples"].glob("eval_step*.jsonl") if where["samples"].is_dir() else ():
        match = FILE.fullmatch(path.name)
        if match and path.with_suffix(".json").is_file():
            found.append(results.load(path.with_suffix(".json")))
        elif match:
            found.append(_result(run, path, int(match[1]), match[2], evaluations))
    return sorted(found, key=lambda result: (result["settings"]["mode"], result["step"]))


def _result(run: Path, path: Path, step: int, kind: str, evaluations: dict) -> dict:
    from rft.data.jsonl import records

    of, name = flags(run), runs.read_json(run / runs.RUN_FILE).get("id", run.name)
    problems = [problem(record, path, line) for line, record in records(path)]
    if not problems:
        raise RftError(f"{path}: empty; the evaluation did not finish")
    n = len(problems[0]["correct"])
    temperature = float(of.get("eval_temperature") or 0.6) if kind == "sampled" else 0.0
    mode = modes.name(temperature, n)
    line = evaluations.get((step, mode), {})
    data = line.get("dataset") or of.get("eval_dataset") or "?"
    described = {
        "mode": mode,
        "temperature": temperature,
        "top_p": float(of.get("top_p") or 1.0),
        "n": n,
        "max_tokens": int(of.get("generate_max_len") or 0),
        "seed": int(of.get("seed") or 42) if temperature > 0 else None,
        "data_set": Path(data).name.removesuffix(".jsonl"),
        "data_sha256": sets.content_digest([(p["id"], p["label"]) for p in problems]),
        "n_problems": len(problems),
        "input_template": of.get("input_template"),
        "engine": f"vllm {runs.read_json(run / runs.RUN_FILE).get('versions', {}).get('vllm')}",
        "model": of.get("pretrain"),
        "adapter": f"{name} step {step}",
        "lora_apply": of.get("lora_apply") or "sidepath",
    }
    return results.of(f"{name} step {step}", step, described, problems, grader=None, samples=None)


def problem(record: dict, path: Path, line: int) -> dict:
    """A line of eval_stepN_kind.jsonl; graded here where the reward logged no correctness.

    A label that is no answer (a task of the code reward) leaves the format unsaid.
    """
    from rft.data.shingles import content_md5

    try:
        prompt, label, responses = record["prompt"], record["label"], record["responses"]
        right = record.get("correct")
        entry = {"id": content_md5(prompt).hex(), "index": record["index"], "prompt": prompt, "label": label}
        entry |= {"tokens": record.get("tokens"), "answers": [""] * len(responses)}
        if right is None or _gradable(label):
            cut = record.get("truncated") or [harmony.is_truncated(prompt + text) for text in responses]
            ends = ["length" if one else "stop" for one in cut]
            graded = [grade.grade(text, label, prompt, end) for text, end in zip(responses, ends, strict=True)]
            entry |= {key: [one[key] for one in graded] for key in figures.FORMAT}
            entry["answers"] = [one["answer"] for one in graded]
            right = [one["correct"] for one in graded] if right is None else right
        return {**entry, "correct": [int(value >= 1) for value in right]}
    except (KeyError, TypeError) as err:
        raise RftError(f"{path} line {line}: no evaluated problem ({err!r}); the file is damaged") from err


def _gradable(label: str) -> bool:
    try:
        read_label(label)
    except RftError:
        return False
    return True
