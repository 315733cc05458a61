"""One answer graded: by the grader of the rewards (rft/rewards/grading.py), whatever the program or mode.

Called in the thread that writes samples. A label that nothing could equal was refused when the set was loaded; an
answer never raises.
"""

import functools
import hashlib
from pathlib import Path

from rft.rewards import answers, exact_match, harmony
from rft.rewards.exact_numbers import parse_number
from rft.rewards.latex_text import spelled, squeezed

FIELDS = ("correct", "boxed", "final_channel", "truncated", "unparseable", "answer")


def grade(response: str, label: str, prompt: str, finish: str) -> dict:
    """Figures of one response.

    response  as sampled, special tokens kept; prompt: as the engine got it; finish: vLLM's finish reason
    returns   correct, boxed, final_channel, truncated, unparseable in {0, 1}; answer: what majority votes count, "" for
              none. truncated is vLLM's word: the token limit ended the response
    """
    found = exact_match.score(prompt + response, label, prompt)
    final = harmony.final_text(prompt + response, prompt)
    answer = answers.extract_answer(final.text) if final else answers.Answer("", answers.NONE)
    return {
        "correct": int(found["correctness"]),
        "boxed": int(found["has_boxed"]),
        "final_channel": int(final is not None and final.harmony),
        "truncated": int(finish == "length"),
        "unparseable": int(found["unparseable"] or found["grader_timeout"]),
        "answer": vote(answer.text) if answer.found else "",
    }


def vote(text: str) -> str:
    """One spelling for answers that are the same number or the same text but for spaces."""
    number = parse_number(text)
    return str(number) if number is not None else squeezed(spelled(text))[:200]


@functools.cache
def version() -> str:
    """Digest of the grader's sources, 16 hex digits: samples graded by another are graded again."""
    folder = Path(answers.__file__).parent
    names = (
        "answers",
        "boxes",
        "exact_match",
        "exact_numbers",
        "grading",
        "harmony",
        "latex_text",
        "structure",
        "symbolic",
    )
    total = hashlib.sha256(Path(__file__).read_bytes())
    for name in names:
        total.update((folder / f"{name}.py").read_bytes())
    return total.hexdigest()[:16]
