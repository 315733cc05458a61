"""Checks of prompt and evaluation files: JSONL, the keys, integer labels for exact match, at least one rollout batch.

Part of :mod:`rft.inputs` (same rules: read only, one clear line, no torch). Hub data sets and formats other than
.jsonl are left to the data set library.
"""

import json
import os
import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from rft.errors import RftError

EXACT_MATCH_REWARD = "reward_func_em.py"  # its labels must be integers


def looks_local(name: str, repo: Path) -> bool:
    """A path rather than a hub id ``owner/name``: rooted, dotted, with two slashes, or below a folder of the repo."""
    first, _, rest = name.partition("/")
    return name.startswith(("/", ".", "~")) or "/" in rest or bool(rest and (repo / first).is_dir())


def check_prompts(args: Namespace, repo: Path) -> None:
    """Prompt and evaluation files: JSONL with the keys, integer labels for exact match, at least one rollout batch."""
    if not args.prompt_data:
        raise RftError("--prompt_data is missing: give a .jsonl file")
    integers = any(Path(name).name == EXACT_MATCH_REWARD for name in args.remote_rm_url or [])
    counts = [check_data("--prompt_data", name, args, repo, integers) for name in args.prompt_data.split(",")]
    if args.eval_dataset:
        for name in args.eval_dataset.split(","):
            check_data("--eval_dataset", name, args, repo, integers)
    if None in counts:
        return  # a hub data set: its size is not known here
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


def check_data(flag: str, name: str, args: Namespace, repo: Path, integers: bool) -> int | None:
    """Number of records of one file; None for what is left to the data set library."""
    path = repo / os.path.expanduser(name)
    if not path.exists():
        if looks_local(name, repo) or Path(name).suffix in (".jsonl", ".json"):
            raise RftError(f"{flag} {name}: no such file (relative to {repo}); prepare it or give another")
        return None
    if path.suffix != ".jsonl":
        return None
    count = 0
    for number, record in _records(flag, name, path):
        where = f"{flag} {name} line {number}"
        for key in filter(None, (args.input_key, args.label_key)):
            if key not in record:
                has = ", ".join(map(repr, record))
                raise RftError(f"{where}: no key {key!r} (has {has}); mend it or set --input_key and --label_key")
        prompt = record[args.input_key]
        if not prompt or not isinstance(prompt, str | list):
            raise RftError(f"{where}: {args.input_key} is {prompt!r}; it must be text or a list of messages")
        if integers and args.label_key and not _is_integer(record[args.label_key]):
            remedy = "exact match needs integer labels: mend the line or use another reward"
            raise RftError(f"{where}: {args.label_key} {record[args.label_key]!r} is no integer; {remedy}")
        count += 1
    if count == 0:
        raise RftError(f"{flag} {name}: no records; prepare it again")
    return count


def _records(flag: str, name: str, path: Path) -> Iterator[tuple[int, dict]]:
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


def _is_integer(value) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\s*[+-]?\d+\s*", value) is not None
    return isinstance(value, int) and not isinstance(value, bool)
