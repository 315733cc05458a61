"""Evaluation results as an HTML page: accuracy over checkpoints, problem by checkpoint, lengths, flips with the texts.

Called by the evaluation programs under ``--report``. A result is a dictionary as rft/evals/results.py makes and loads
it; results of one set and mode make a section, in which the first is the one that the others are compared with.
"""

from collections.abc import Sequence
from pathlib import Path

from rft.errors import RftError
from rft.evals import compared, records
from rft.report import flips, page, shapes
from rft.report.svg import Series, line_chart, number


def write(results: Sequence[dict], samples: Path, path: Path) -> Path:
    """Writes the page, whole or not at all.

    samples  the folder of the sample files that the results name; a missing one leaves out the texts
    raises   RftError: no result, or the page cannot be written
    """
    return page.write(path, html(results, samples))


def html(results: Sequence[dict], samples: Path, force: bool = False) -> str:
    if not results:
        raise RftError("an evaluation report of no result: evaluate first, or name results")
    sections = []
    for number_of, group in enumerate(compared.groups(results)):
        of = group[0]["settings"]
        title = f"{of['data_set']}, {of['mode']}"
        body = overview(group, force) + problems(group) + lengths(group)
        sections.append(page.Section(f"g{number_of}", title, body + flips.section(group, texts(group, samples))))
    names = ", ".join(dict.fromkeys(str(result["name"]) for result in results))
    return page.page("Evaluation", names, [*sections, page.Section("settings", "Settings", settings(results))])


def overview(group: Sequence[dict], force: bool = False) -> str:
    """Accuracy with intervals over steps (or results in order, where not all have a step), verdicts, every figure."""
    of, size = group[0]["settings"], len(group[0]["problems"])
    steps = [result["step"] for result in group]
    by_step = all(isinstance(s, int) for s in steps[1:]) and (steps[0] is None or isinstance(steps[0], int))
    where = [step or 0 for step in steps] if by_step else range(len(group))
    pairs = sorted(zip(where, group, strict=True), key=lambda pair: pair[0])
    bounds = [result["figures"]["accuracy_ci95"] for _, result in pairs]
    series = Series(
        "accuracy",
        [x for x, _ in pairs],
        [result["figures"]["accuracy"] for _, result in pairs],
        [low for low, _ in bounds],
        [high for _, high in bounds],
    )
    over = "step; the model without adapter at 0" if by_step else "result, in order from 0"
    note = f"over {over}; n = {size} problems x {of['n']}, 95 % intervals"
    chart = page.figure("accuracy", line_chart(f"accuracy over {over}", [series], zero_one=True), note)
    comparisons, refused = compared.against_first(group, force)
    said = [f"{one.second} against {one.first}: {one.verdict}" for one in comparisons]
    if refused:
        said = [f"not compared: {refused}"]
    verdicts = "".join(f"<li>{page.text(line)}</li>" for line in said)
    return page.grid([chart, f"<ul>{verdicts}</ul>" if verdicts else ""]) + _figures(group)


def _figures(group: Sequence[dict]) -> str:
    sampled = group[0]["settings"]["n"] > 1
    head = ["model", "step", "n", "served", "accuracy", "95 % interval"]
    head += ["pass@n", "majority"] if sampled else []
    head += ["boxed", "final channel", "truncated", "tokens mean", "p90"]
    rows = []
    for result in group:
        figures, of = result["figures"], result["settings"]
        low, high = figures["accuracy_ci95"]
        row = [result["name"], "-" if result["step"] is None else result["step"], len(result["problems"])]
        row += [of.get("lora_apply") or "no adapter", f"{figures['accuracy']:.3f}", f"[{low:.3f}, {high:.3f}]"]
        row += [number(figures["pass_at"][str(of["n"])]), number(figures["maj"])] if sampled else []
        row += [number(figures[key]) for key in ("boxed", "final_channel", "truncated")]
        rows.append([*row, number(figures.get("tokens_mean")), number(figures.get("tokens_p90"))])
    return page.table(head, rows, range(1, len(head)))


def problems(group: Sequence[dict]) -> str:
    """Heat map: a row a problem, the hardest on top, a column a result; how often it was right."""
    rates: dict[str, list[float | None]] = {}
    names: dict[str, str] = {}
    for place, result in enumerate(group):
        for problem in result["problems"]:
            row = rates.setdefault(problem["id"], [None] * len(group))
            row[place] = sum(problem["correct"]) / len(problem["correct"])
            names[problem["id"]] = f"problem {problem['index']}, answer {problem['label']}"
    order = sorted(rates, key=lambda one: (_mean(rates[one]), names[one]))
    columns = [_short(result) for result in group]
    cells, rows = [rates[one] for one in order], [names[one] for one in order]
    chart = shapes.heat_map("right answers by problem and checkpoint", rows, columns, cells)
    note = "a row a problem, the hardest on top; pale: never right, full: always"
    return f"<h3>Problem by checkpoint</h3>{page.grid([page.figure('share of right answers', chart, note)])}"


def _mean(row: Sequence[float | None]) -> float:
    known = [value for value in row if value is not None]
    return sum(known) / len(known)


def _short(result: dict) -> str:
    return str(result["name"])[:12] if result["step"] is None else str(result["step"])


def lengths(group: Sequence[dict]) -> str:
    """Distribution of the responses' tokens of the first and the last result, and the mean over all of them."""
    counted = [r for r in group if all(problem.get("tokens") for problem in r["problems"])]
    if not counted:
        return '<h3>Response lengths</h3><p class="dim">Tokens were not counted.</p>'
    ends = counted if len(counted) < 2 else [counted[0], counted[-1]]
    series = [(str(r["name"]), [t for problem in r["problems"] for t in problem["tokens"]]) for r in ends]
    spread = page.figure("response length, tokens", shapes.histogram("response lengths", series), "share of responses")
    xs = list(range(len(counted)))
    lines = [
        Series(name, xs, [r["figures"].get(key) for r in counted])
        for name, key in (("mean", "tokens_mean"), ("90 % quantile", "tokens_p90"))
    ]
    over = page.figure("length over results, tokens", line_chart("length over results", lines), "mean, and 90 % dashed")
    return f"<h3>Response lengths</h3>{page.keys([name for name, _ in series])}{page.grid([spread, over])}"


def texts(group: Sequence[dict], samples: Path) -> dict[int, dict[tuple[str, int], str]]:
    """Place of a result -> (problem, number of the sample) -> response."""
    found = {}
    for place, result in enumerate(group):
        if result.get("samples"):
            lines = records.read_samples(Path(samples) / result["samples"])
            found[place] = {(line["problem"], line["sample"]): str(line.get("response", "")) for line in lines}
    return found


def settings(results: Sequence[dict]) -> str:
    rows = []
    for result in results:
        told = ", ".join(f"{key} {value}" for key, value in result["settings"].items())
        rows.append((result["name"], result["settings_digest"][:16], told))
    return page.table(("result", "digest", "settings"), rows)
