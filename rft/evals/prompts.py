"""Prompts as training asks them: the model's own chat template, row by row with a reasoning effort, a pinned date.

The rendering itself is rft/data/chat_rows.py's. gpt-oss's template writes the day's date into each prompt, so that
tomorrow's evaluation would be another one: the date is always pinned here.
"""

import datetime
import hashlib
import json
from dataclasses import dataclass

from rft.data import chat_rows
from rft.errors import RftError
from rft.evals.sets import EvalSet

DATE = "2025-08-05"  # the day of gpt-oss's release; $RFT_PROMPT_DATE or --prompt_date name another


@dataclass(frozen=True)
class Rendered:
    """texts and token_ids by problem id; digest: over all ids in the set's order."""

    texts: dict[str, str]
    token_ids: dict[str, tuple[int, ...]]
    digest: str
    longest: int


def date(text: str | None) -> datetime.date:
    return chat_rows.pinned_date(text) or datetime.date.fromisoformat(DATE)


def render(one: EvalSet, tokenizer, effort: str | None, template: str | None, day: datetime.date) -> Rendered:
    """effort: for rows without one of their own; template: text around the problem, with ``{}``.

    raises  RftError: the chat template refuses a row
    """
    texts, ids = {}, {}
    for problem in one.problems:
        prompt = problem.prompt
        if template is not None and isinstance(prompt, str):
            prompt = template.replace("{}", prompt)
        try:
            text = chat_rows.render(prompt, tokenizer.apply_chat_template, problem.effort or effort, day)
        except RftError:
            raise
        except Exception as err:  # jinja's
            raise RftError(
                f"{one.path} line {problem.line}: the chat template refuses it ({err}); mend the line"
            ) from err
        texts[problem.id] = text
        ids[problem.id] = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    return Rendered(texts, ids, ids_digest(list(ids.values())), max(len(one) for one in ids.values()))


def ids_digest(prompts: list) -> str:
    """Of the prompts' token ids, in order."""
    return hashlib.sha256(json.dumps([list(ids) for ids in prompts]).encode()).hexdigest()


def template_digest(tokenizer) -> str:
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()
