"""Tokenizer, chat template, stop tokens and prompt lengths: what the engine will be asked, to the token.

In a process of its own (transformers takes seconds to import).
"""

from functools import lru_cache

from rft import inputs
from rft.data import chat_rows
from rft.errors import RftError
from rft.preflight.result import Result, Subject, ok, skipped, warn
from rft.preflight.rows import files, rows
from rft.rewards import harmony

MARKERS = (harmony.START, harmony.MESSAGE, harmony.CHANNEL, harmony.END, harmony.RETURN, harmony.CALL)
SEEN_EXACTLY = 2000  # rows that are tokenised whatever their size
EFFORT_BYTES = 64  # by which the template's words may differ from row to row (reasoning effort)
STOPS = (harmony.RETURN, harmony.CALL)  # an answer ends with one, a tool call with the other


@lru_cache(maxsize=2)
def load(name: str, fast: bool = True):
    """As the trainer loads it."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=True, use_fast=fast)
    except (OSError, ValueError, TypeError) as err:
        why = " ".join(str(err).split())[:160]
        raise RftError(f"{name}: no tokenizer can be read there ({why}); give a whole checkpoint") from err


def local(subject: Subject, name: str) -> str:
    """A folder of the repository as a whole path; a hub id as it is."""
    return str(subject.repo / name) if (subject.repo / name).is_dir() else name


def _of(subject: Subject):
    return load(local(subject, subject.args.pretrain), not getattr(subject.args, "disable_fast_tokenizer", False))


def _prompt(subject: Subject, row: chat_rows.Row, record: dict, tokenizer) -> str:
    """The prompt as the engine gets it, by the function that the trainer uses."""
    args = subject.args
    template = tokenizer.apply_chat_template if args.apply_chat_template else None
    try:
        return chat_rows.preprocess(record, args.input_template, args.input_key, args.label_key, template)[0]
    except ValueError as err:  # no chat template
        raise RftError(f"--apply_chat_template: {' '.join(str(err).split())[:160]}; give a model with one") from err


def tokenizer(subject: Subject) -> Result:
    """gpt-oss: every Harmony marker is one token, and the first prompt of every file is a Harmony prompt."""
    made, name = _of(subject), subject.args.pretrain
    gpt_oss = inputs.is_gpt_oss(name, subject.repo)
    if gpt_oss:
        split = [marker for marker in MARKERS if len(made.encode(marker, add_special_tokens=False)) != 1]
        if split:
            raise RftError(f"--pretrain {name}: {split[0]} is no single token of its tokenizer; give gpt-oss's own")
    shown = "no local prompt file"
    for flag, path in files(subject):
        number, record, row = next(rows(flag, path, subject.args), (0, None, None))
        if row is None:
            continue
        prompt = _prompt(subject, row, record, made)
        if gpt_oss and not chat_rows.is_rendered(prompt):
            what = "no Harmony prompt" if subject.args.apply_chat_template else "no Harmony prompt without a template"
            remedy = (
                "give a model with gpt-oss's chat template"
                if subject.args.apply_chat_template
                else ("add --apply_chat_template")
            )
            raise RftError(f"{flag} {path.name} line {number}: {what} ({_short(prompt)}); {remedy}")
        back = made.decode(made(prompt, add_special_tokens=False)["input_ids"], skip_special_tokens=False)
        if back != prompt:
            return warn(
                f"{flag} {path.name} line {number} does not survive the tokenizer", "compare --pretrain's files"
            )
        shown = "Harmony prompts" if gpt_oss else "prompts survive the tokenizer"
    return ok(f"{len(made)} tokens; {shown}")


def stop_tokens(subject: Subject) -> Result:
    """The engine reads its stop tokens from the model's generation_config.json, beside the tokenizer's own end."""
    name = getattr(subject.args, "engine_pretrain", None) or subject.args.pretrain
    made = load(local(subject, name))
    stops, source = _generation_stops(local(subject, name)), "generation_config.json"
    known = {made.eos_token_id, *stops} - {None}
    if not known:
        raise RftError(f"{name}: neither its tokenizer nor {source} names an end token; mend the checkpoint")
    words = [made.convert_ids_to_tokens(one) for one in sorted(known)]
    if not inputs.is_gpt_oss(subject.args.pretrain, subject.repo):
        return ok(", ".join(map(str, words)))
    ids = {marker: made.convert_tokens_to_ids(marker) for marker in STOPS}
    if ids[harmony.RETURN] not in known:
        what = f"{harmony.RETURN} ({ids[harmony.RETURN]}) is no stop token of {name} (it stops at {', '.join(words)})"
        raise RftError(f"{what}: every answer would run to the length limit; add it to eos_token_id of {source}")
    if ids[harmony.CALL] not in known:
        return warn(f"stops at {', '.join(words)}, not at {harmony.CALL}", f"add it to eos_token_id of {source}")
    return ok(", ".join(words))


def _generation_stops(name: str) -> list[int]:
    from transformers import GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(name).eos_token_id
    except (OSError, ValueError):
        return []  # a checkpoint need not have one
    return [found] if isinstance(found, int) else list(found or [])


def prompt_lengths(subject: Subject) -> Result:
    """A longer prompt loses its beginning: the system message and the question's first words."""
    made, args = _of(subject), subject.args
    limit, longest, where, count, over, exact = args.prompt_max_len, 0, "", 0, 0, 0
    for flag, path in files(subject):
        around: int | None = None  # bytes that the template puts around a prompt; not known yet
        for number, record, row in rows(flag, path, args):
            count += 1
            text = row.prompt.encode() if isinstance(row.prompt, str) else None
            # A token is a byte at least. Most rows of a large pool are known to fit without being tokenised.
            known = exact >= SEEN_EXACTLY and text is not None and around is not None
            if known and len(text) + around + EFFORT_BYTES <= limit:
                continue
            prompt = _prompt(subject, row, record, made)
            if text is not None:
                around = max(around or 0, len(prompt.encode()) - len(text))
            length = len(made(prompt, add_special_tokens=False)["input_ids"])
            exact += 1
            over += length > limit
            if length > longest:
                longest, where = length, f"{flag} {path.name} line {number}"
    if not count:
        return skipped("no local prompt file")
    if over:
        raise RftError(
            f"{over} of {count} prompts are longer than --prompt_max_len {limit} and would lose their beginning, the "
            f"longest at {where}; set --prompt_max_len {longest}, or drop them"
        )
    context = _context(subject)
    total = limit + args.generate_max_len
    if context and total > context:
        parts = f"--prompt_max_len {limit} + --generate_max_len {args.generate_max_len} = {total}"
        raise RftError(f"{parts}, but {args.pretrain} takes {context} tokens; shorten one of them")
    return ok(f"{count} prompts within {limit} tokens, the longest of {exact} tokenised has {longest}")


def _context(subject: Subject) -> int | None:
    from rft.model_load import checkpoint_config

    return getattr(checkpoint_config(local(subject, subject.args.pretrain)), "max_position_embeddings", None)


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
