"""Checks of prompt and evaluation files: JSONL, rows and labels that can be used, at least one rollout batch.

Part of :mod:`rft.inputs` (same rules: read only, one clear line, no torch). Hub data sets and formats other than
.jsonl are left to the data set library.
"""

import importlib
import json
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from rft.data import chat_rows
from rft.errors import RftError

# What reads the labels of each reward that comes with the project: module and function, which raises RftError.
LABELS = {
    "reward_func_em.py": ("rft.rewards.grading", "read_label"),
    "reward_func.py": ("rft.rewards.grading", "read_label"),
    "reward_func_code.py": ("rft.rewards.code_task", "load"),
    "reward_func_action.py": ("rft.rewards.action", "parse_label"),
}


def looks_local(name: str, repo: Path) -> bool:
    """A path rather than a hub id ``owner/name``: rooted, dotted, with two slashes, or below a folder of the repo."""
    first, _, rest = name.partition("/")
    return name.startswith(("/", ".", "~")) or "/" in rest or bool(rest and (repo / first).is_dir())


def check_prompts(args: Namespace, repo: Path) -> int | None:
    """Prompt and evaluation files: rows, labels that the reward can use, at least one rollout batch.

    returns  prompts of an episode; None where they are not known here
    """
    if not args.prompt_data:
        raise RftError("--prompt_data is missing: give a .jsonl file")
    read_label = label_reader(args.remote_rm_url)
    counts = [check_data("--prompt_data", name, args, repo, read_label) for name in args.prompt_data.split(",")]
    if args.eval_dataset:
        for name in args.eval_dataset.split(","):
            check_data("--eval_dataset", name, args, repo, read_label)
    if None in counts:
        return None  # a hub data set: its size is not known here
    total = min(sum(counts), int(args.max_samples))
    if total < args.rollout_batch_size:
        remedy = "give more prompts or a smaller --rollout_batch_size"
        raise RftError(
            f"--prompt_data {args.prompt_data}: {total} prompts, fewer than one rollout batch of "
            f"{args.rollout_batch_size}: no step would be trained; {remedy}"
        )
    ranks, rest = args.actor_num_nodes * args.actor_num_gpus_per_node, total % args.rollout_batch_size
    if 0 < rest * args.n_samples_per_prompt < ranks:
        raise RftError(
            f"--prompt_data {args.prompt_data}: the last batch of an episode has {rest} of {total} prompts, so "
            f"{rest * args.n_samples_per_prompt} answers for {ranks} actor ranks; drop {rest} prompts or add some"
        )
    return total


def prompt_count(args: Namespace, repo: Path) -> int | None:
    """Prompts of an episode, labels not looked at; None where only the data set library knows."""
    counts = [check_data("--prompt_data", name, args, repo, None) for name in (args.prompt_data or "").split(",")]
    unknown = None in counts or getattr(args, "prompt_data_probs", None)
    return None if unknown else min(sum(counts), int(args.max_samples))


def label_reader(spec: list[str] | None) -> Callable[[str], object] | None:
    """What checks a label of the reward `spec`; None for rewards that came from elsewhere."""
    found = LABELS.get(Path(spec[0]).name) if spec and len(spec) == 1 else None
    return None if found is None else getattr(importlib.import_module(found[0]), found[1])


def check_data(
    flag: str, name: str, args: Namespace, repo: Path, read_label: Callable[[str], object] | None
) -> int | None:
    """Number of records of one file; None for what is left to the data set library."""
    path = repo / os.path.expanduser(name)
    if not path.exists():
        if looks_local(name, repo) or Path(name).suffix in (".jsonl", ".json"):
            raise RftError(f"{flag} {name}: no such file (relative to {repo}); prepare it or give another")
        return None
    if path.suffix != ".jsonl":
        return None
    count = 0
    for number, record in records(flag, name, path):
        where = f"{flag} {name} line {number}"
        try:
            row = chat_rows.parse(record, args.input_key, args.label_key)
            if read_label is not None and args.label_key:
                read_label(row.label)
        except RftError as error:
            raise RftError(f"{where}: {error}") from error
        count += 1
    if count == 0:
        raise RftError(f"{flag} {name}: no records; prepare it again")
    return count


def records(flag: str, name: str, path: Path) -> Iterator[tuple[int, dict]]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError(f"a {type(record).__name__}, not an object")
                    yield number, record
    except OSError as err:
        raise RftError(f"{flag} {name}: {err.strerror}; make it readable") from err
    except ValueError as err:
        raise RftError(f"{flag} {name} line {number}: no JSON object ({err}); mend or remove the line") from err
