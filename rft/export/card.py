"""The model card of an export: what it is, what it was trained from and how, how it was evaluated.

`of_run` collects the facts from the run that an adapter lies in, or from one that is named; `render` writes Markdown
with the hub's front matter. No path of the machine goes into a card: it may be published. Reads only. Main thread.
"""

import json
from pathlib import Path

from rft import runs
from rft.errors import RftError
from rft.evals import of_run as evaluations
from rft.evals.adapters import STEP

# The flags that say what was trained; folders, logging and hardware are not a reader's business.
RECIPE = (
    *("advantage_estimator", "actor_learning_rate", "lr_warmup_ratio", "init_kl_coef", "eps_clip", "entropy_loss_coef"),
    *("lora_rank", "lora_alpha", "target_modules", "num_episodes", "rollout_batch_size", "n_samples_per_prompt"),
    *("train_batch_size", "prompt_max_len", "generate_max_len", "temperature", "top_p", "rollout_seed", "seed"),
)
FILES = ("prompt_data", "eval_dataset", "remote_rm_url")  # their last part only
PACKAGES = ("openrlhf", "vllm", "torch", "transformers", "peft")


def of_run(adapter: Path, named: str | None = None, results: list[Path] = ()) -> dict:
    """Facts for `render`: run, step, recipe, versions, evaluation. {} where the adapter lies in no run.

    named    a run's id or folder (--run); results: result files of the evaluation programs (--evaluation)
    raises   RftError: no such run, or a file that is no result
    """
    run = runs.find(named) if named else evaluations.find(adapter) or _by_id(adapter)
    facts: dict = {"evaluation": [_result(path) for path in results]}
    if run is None:
        return facts
    record = runs.read_json(run / runs.RUN_FILE)
    flags = evaluations.flags(run)
    lines = runs.metrics_lines(evaluations.folders(run)["metrics"] / runs.METRICS_FILE)
    match = STEP.fullmatch(adapter.resolve().name)
    trained = [line["step"] for line in lines if line.get("event") == "train" and isinstance(line.get("step"), int)]
    step = int(match[1]) if match else max(trained, default=None)
    recipe = {name: _value(record, name) for name in RECIPE if name in flags}
    recipe |= {name: Path(str(flags[name])).name for name in FILES if flags.get(name)}
    own = [line for line in lines if line.get("event") == "eval" and line.get("step") in (0, step)]
    facts |= {
        "run": record.get("id", run.name),
        "step": step,
        "commit": record.get("commit"),
        "series_id": record.get("series_id"),
        "versions": {key: value for key, value in record.get("versions", {}).items() if key in PACKAGES},
        "recipe": recipe,
    }
    facts["evaluation"] = [_line(line) for line in own] + facts["evaluation"]
    return facts


def _by_id(adapter: Path) -> Path | None:
    """Checkpoints on a data disk lie under the run's id, away from its run.json."""
    places = [runs.runs_dir() / parent.name for parent in adapter.resolve().parents[:3] if parent.name]
    return next((place for place in places if (place / runs.RUN_FILE).is_file()), None)


def _value(record: dict, name: str) -> str:
    """All words of a flag, of its last mention."""
    given, found = record.get("flags") or [], []
    for at, item in enumerate(given):
        if item == f"--{name}":
            found = []
            for word in given[at + 1 :]:
                if word.startswith("--"):
                    break
                found.append(word)
    return " ".join(found) or "yes"


def _line(line: dict) -> dict:
    return {
        "when": "base" if line.get("step") == 0 else f"step {line.get('step')}",
        "mode": line.get("mode"),
        "set": Path(str(line.get("dataset") or "?")).name.removesuffix(".jsonl"),
        "problems": line.get("n_problems"),
        "accuracy": line.get("accuracy"),
    }


def _result(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        about, figures = found["settings"], found["figures"]
        return {
            "when": found["name"],
            "mode": about["mode"],
            "set": about["data_set"],
            "problems": about["n_problems"],
            "accuracy": figures["accuracy"],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise RftError(f"--evaluation {path}: not a result of eval_baseline.py or eval_rl.py ({err!r})") from err


def render(report: dict, facts: dict, name: str) -> str:
    base, adapter = report["base"], report["adapter"]
    shown = base["name"]
    head = ["---", *([f"base_model: {shown}"] if "/" in shown else []), "library_name: transformers"]
    head += ["pipeline_tag: text-generation", "tags:", "- gpt_oss", "- grpo", "- lora", "---"]
    text = [*head, "", f"# {name}", ""]
    kept = "MXFP4 experts" if report["format"] == "mxfp4" else "bf16 throughout"
    text += [f"{shown} with a LoRA adapter merged in ({kept}), trained by GRPO.", ""]
    rows = [
        ("base", shown),
        ("base fingerprint", f"`{base['fingerprint']}`" + ("" if base["is_the_adapters"] else " (not verified)")),
        ("adapter digest", f"`{adapter['digest']}`"),
        ("adapter", f"r {adapter['rank']}, alpha {adapter['alpha']:g}, on {', '.join(adapter['targets'])}"),
    ]
    if facts.get("run"):
        rows += [("run", f"{facts['run']}, step {facts['step']}")]
        rows += [("commit, patch series", f"{facts['commit']}, {facts['series_id']}")]
        rows += [("packages", ", ".join(f"{key} {value}" for key, value in facts["versions"].items()))]
    text += _table(("", ""), rows)
    if facts.get("recipe"):
        text += ["", "## Recipe", "", *_table(("", ""), [(key, f"`{v}`") for key, v in facts["recipe"].items()])]
    text += ["", "## Evaluation", ""]
    if facts.get("evaluation"):
        keys = ("when", "set", "mode", "problems", "accuracy")
        text += _table(keys, [tuple(_shown(line[key]) for key in keys) for line in facts["evaluation"]])
    else:
        text += ["None recorded."]
    if report["requantised"]:
        text += [
            "",
            "## Requantised experts",
            "",
            "Relative root-mean-square error that MXFP4 adds to the merged weight:",
            "",
        ]
        rows = [(f"`{stem}`", f"{e['relative_error']:.4f}") for stem, e in report["requantised"].items()]
        text += _table(("weight", "error"), rows)
    return "\n".join([*text, ""])


def _shown(value) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _table(head: tuple, rows: list[tuple]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]
