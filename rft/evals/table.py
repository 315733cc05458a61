"""Results as Markdown: one table for each set and mode, n beside every figure, a verdict for every comparison."""

from collections.abc import Sequence

from rft.evals import compared


def markdown(results: Sequence[dict], force: bool = False, own: Sequence[dict] = ()) -> str:
    """All of it; own: the run's own evaluations of the same checkpoints."""
    parts = []
    for one in compared.groups(results):
        parts += [group(one, force), ""]
    parts += _nondet(results)
    agreements = _agreements(results, own)
    if agreements:
        parts += ["The run's own evaluations:", "", *(f"- {line}" for line in agreements), ""]
    return "\n".join(parts).rstrip() + "\n"


def group(of_one: Sequence[dict], force: bool) -> str:
    """Results of one set and mode, the others against the first."""
    first = of_one[0]
    of, size = first["settings"], len(first["problems"])
    sampled = of["n"] > 1
    mode = f"{of['mode']}, T {of['temperature']:g}" if sampled else of["mode"]
    lines = [
        f"### {of['data_set']}, {mode}: {size} problems x {of['n']}, up to {of['max_tokens']} tokens",
        "",
    ]
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k < of["n"]] + [of["n"]]
    head = ["model", "n", "served as", f"avg@{of['n']}" if sampled else "accuracy", "95 % interval"]
    head += [*(f"pass@{k}" for k in ks[1:]), f"maj@{of['n']}"] if sampled else []
    head += ["boxed", "final channel", "truncated", "tokens mean, p90"]
    rows = [_row(result, ks[1:] if sampled else None) for result in of_one]
    lines += [" | ".join(["", *cells, ""]).strip() for cells in (head, ["---"] * len(head), *rows)]
    comparisons, refused = compared.against_first(of_one, force)
    if comparisons and comparisons[0].labels:
        lines.insert(1, f"\nForced, settings differ: {'; '.join(comparisons[0].labels)}.")
    verdicts = [_said(one) for one in comparisons]
    if refused:
        verdicts = [f"- not compared: {refused}"]
    if not verdicts and not of_one[0]["settings"]["mode"].startswith("nondet"):
        verdicts = [f"- {compared.detectable(size, of['n']).words} ({compared.detectable(size, of['n']).basis})"]
    return "\n".join([*lines, "", *verdicts])


def _said(one) -> str:
    """The verdict of a comparison, which names both where it claims something."""
    return (
        f"- {one.verdict if one.claim in ('better', 'worse') else f'{one.second} against {one.first}: {one.verdict}'}"
    )


def _row(result: dict, ks: list[int] | None) -> list[str]:
    figures, of = result["figures"], result["settings"]
    low, high = figures["accuracy_ci95"]
    cells = [result["name"], str(len(result["problems"])), _served(of), f"{figures['accuracy']:.3f}"]
    cells.append(f"[{low:.3f}, {high:.3f}]")
    if ks is not None:
        cells += [*(f"{figures['pass_at'][str(k)]:.3f}" for k in ks), f"{figures['maj']:.3f}"]
    cells += [f"{figures[key]:.3f}" for key in ("boxed", "final_channel", "truncated")]
    mean = figures.get("tokens_mean")
    return [*cells, "-" if mean is None else f"{mean:.0f}, {figures['tokens_p90']:.0f}"]


def _served(of: dict) -> str:
    return {"sidepath": "side path", "merge": "merged", None: "as it is"}[of.get("lora_apply")]


def _nondet(results: Sequence[dict]) -> list[str]:
    """Gap to greedy and fragile problems of each nondet_proxy result."""
    from rft.stats.fragile import fragility

    lines = []
    for result in results:
        of = result["settings"]
        if of["mode"].startswith("nondet"):
            greedy = next(
                (
                    r
                    for r in results
                    if r["name"] == result["name"]
                    and r["settings"]["mode"] == "greedy_pass@1"
                    and r["settings"]["data_sha256"] == of["data_sha256"]
                ),
                None,
            )
            single = None if greedy is None else [problem["correct"][0] for problem in greedy["problems"]]
            numbers = [f"#{problem['index']}" for problem in result["problems"]]
            words = fragility([p["correct"] for p in result["problems"]], numbers, single).words
            lines.append(f"- {result['name']}, {of['data_set']}, {of['mode']}: {words}")
    return [*lines, ""] if lines else []


def _agreements(results: Sequence[dict], own: Sequence[dict]) -> list[str]:
    found = []
    for one in own:
        here = [r for r in results if r["step"] == one["step"] and r["settings"]["mode"] == one["settings"]["mode"]]
        found += [compared.agreement(one, result) for result in here]
    return found
