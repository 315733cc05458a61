"""Results of one set and mode against the first of them: rft/stats/ on rft/evals/results.py's dictionaries.

Called by the programs' tables, ``rft compare`` and reports.
"""

from collections.abc import Sequence

from rft.errors import RftError
from rft.evals import settings
from rft.stats.compare import Comparison, compare_many
from rft.stats.results import EvalResult


def eval_result(result: dict) -> EvalResult:
    """A result as the statistics take it."""
    problems = result["problems"]
    binding = {k: v for k, v in result["settings"].items() if k not in (*settings.COMPARED, *settings.NAMES)}
    return EvalResult(
        name=result["name"],
        mode=result["settings"]["mode"],
        problem_ids=[problem["id"] for problem in problems],
        correct=[problem["correct"] for problem in problems],
        settings=binding,
        answers=[[answer or None for answer in problem["answers"]] for problem in problems],
    )


def groups(results: Sequence[dict]) -> list[list[dict]]:
    """Results of the same set and mode together, in the order of the first of each."""
    found: dict[tuple, list[dict]] = {}
    for result in results:
        found.setdefault((result["settings"]["data_set"], result["settings"]["mode"]), []).append(result)
    return list(found.values())


def against_first(group: Sequence[dict], force: bool) -> tuple[list[Comparison], str | None]:
    """The comparisons of all others with the first (Holm's correction over them), or why there is none."""
    if len(group) < 2:
        return [], None
    try:
        return compare_many(eval_result(group[0]), [eval_result(result) for result in group[1:]], force=force), None
    except RftError as refused:
        return [], str(refused)


def detectable(problems: int, n: int):
    """The smallest difference that a paired comparison of this size finds, before the run (rft/stats/power.py)."""
    from rft.stats import power

    return power.detectable_greedy(problems) if n == 1 else power.detectable_sampling(problems, n)


def agreement(own: dict, here: dict) -> str:
    """The run's own evaluation of a step against that of the program, in a line.

    The run's problems carry its rendered prompts: those must be equal, in order.
    """
    where = f"{own['name']}, {own['settings']['mode']}"
    if [p["prompt"] for p in own["problems"]] != [p["prompt"] for p in here["problems"]]:
        return f"{where}: asked other prompts; not comparable"
    same = ("n", "temperature", "max_tokens", "top_p")
    unlike = [
        f"{key}: {own['settings'][key]} and {here['settings'][key]}"
        for key in same
        if own["settings"][key] != here["settings"][key]
    ]
    if unlike:
        return f"{where}: not comparable ({'; '.join(unlike)})"
    (low, high), value = here["figures"]["accuracy_ci95"], own["figures"]["accuracy"]
    verdict = "agrees: within" if low <= value <= high else "DISAGREES: outside"
    return (
        f"{where}: {value:.3f} in training, {here['figures']['accuracy']:.3f} here, n = {len(here['problems'])}; "
        f"{verdict} the 95 % interval [{low:.3f}, {high:.3f}]"
    )
