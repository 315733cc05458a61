"""Problems that a checkpoint answers better or worse than the first result, with what each of the two wrote."""

from collections.abc import Sequence

from rft.report import page
from rft.report.run_sections import shortened

SHOWN = 20  # problems each way
TEXT = 4000  # characters of a response

Texts = dict[int, dict[tuple[str, int], str]]


def section(group: Sequence[dict], texts: Texts) -> str:
    """Flips of the last result, and of the best one if that is another, against the first.

    texts  place in the group -> (problem, sample) -> response
    """
    if len(group) < 2:
        return ""
    best = max(range(1, len(group)), key=lambda place: group[place]["figures"]["accuracy"])
    parts = []
    for place in dict.fromkeys((len(group) - 1, best)):
        up, down = changes(group[0], group[place])
        parts.append(f"<h3>{page.text(group[place]['name'])} against {page.text(group[0]['name'])}</h3>")
        for title, found in (("better", up), ("worse", down)):
            shown = "".join(_one(group, texts, place, *pair) for pair in found[:SHOWN])
            more = f", the {SHOWN} largest changes" if len(found) > SHOWN else ""
            parts.append(f"<p>{page.text(f'{len(found)} problems {title}{more}')}</p>{shown}")
    return "".join(parts)


def changes(first: dict, second: dict) -> tuple[list[tuple[dict, dict]], list[tuple[dict, dict]]]:
    """(better, worse): pairs of the problem in both, the largest change first."""
    known = {problem["id"]: problem for problem in first["problems"]}
    pairs = [(known[problem["id"]], problem) for problem in second["problems"] if problem["id"] in known]
    up = [pair for pair in pairs if _gain(*pair) > 0]
    down = [pair for pair in pairs if _gain(*pair) < 0]
    return sorted(up, key=lambda p: -_gain(*p)), sorted(down, key=lambda p: _gain(*p))


def _rate(problem: dict) -> float:
    return sum(problem["correct"]) / len(problem["correct"])


def _gain(before: dict, after: dict) -> float:
    return _rate(after) - _rate(before)


def _one(group: Sequence[dict], texts: Texts, place: int, before: dict, after: dict) -> str:
    """The problem, its answer, and a response of each that shows the change."""
    better = _gain(before, after) > 0
    title = f"problem {after['index']}, answer {after['label']}: {_counts(before)} → {_counts(after)}"
    body = f"<pre>{page.text(shortened(after['prompt'], TEXT))}</pre>"
    for at, problem, right in ((0, before, not better), (place, after, better)):
        sample = next((i for i, value in enumerate(problem["correct"]) if (value > 0.5) == right), 0)
        text = texts.get(at, {}).get((problem["id"], sample))
        answer = problem["answers"][sample] if problem.get("answers") else None
        kind = "right" if problem["correct"][sample] > 0.5 else "wrong"
        name = group[at]["name"]
        body += f"<p>{page.text(f'{name}, sample {sample}, {kind}, read as {answer!r}')}</p>"
        body += f"<pre>{page.text(shortened(text, TEXT))}</pre>" if text is not None else "<p>(no text at hand)</p>"
    return page.fold(title, body)


def _counts(problem: dict) -> str:
    right, n = sum(1 for value in problem["correct"] if value > 0.5), len(problem["correct"])
    return ("right" if right else "wrong") if n == 1 else f"{right} of {n} right"
