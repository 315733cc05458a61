"""The sections of a run's page: each takes the runs, one or several to be overlaid, and gives HTML."""

from collections.abc import Sequence

from rft import metrics
from rft.report import headline, page, shapes
from rft.report.run_data import RunData, choose_samples
from rft.report.svg import Series, line_chart, number

TEXT = 6000  # characters of a sample that are shown, two thirds of its start and a third of its end
SPIKE_ROWS = 60


def named(runs: Sequence[RunData], bodies: Sequence[str]) -> str:
    """One body a run, under its name where there are several."""
    if len(runs) == 1:
        return bodies[0]
    return "".join(f"<h3>{page.text(run.name)}</h3>{body}" for run, body in zip(runs, bodies, strict=True))


def summary(runs: Sequence[RunData]) -> str:
    bodies = []
    for run in runs:
        remarks = "".join(f'<p class="bad">{page.text(remark)}</p>' for remark in run.remarks)
        bodies.append(remarks + page.facts(headline.headline(run)))
    return named(runs, bodies)


def diagnosis(runs: Sequence[RunData]) -> str:
    bodies = []
    for run in runs:
        found = run.diagnosis
        parts = [f'<p class="{"bad" if found.findings else "good"}">{page.text(found.line())}</p>']
        for finding in found.findings:
            told = "".join(f"<li>{page.text(item.text)}</li>" for item in finding.evidence)
            title = f"{finding.rule.title} [{finding.rule.name}]"
            parts.append(f"<h3>{page.text(title)}</h3><ul>{told}</ul><p>{page.text('Do: ' + finding.rule.action)}</p>")
        if found.unjudged:
            missing = "; ".join(f"{name} ({', '.join(why)})" for name, why in found.unjudged.items())
            parts.append(f'<p class="dim">{page.text("Not judged for want of data: " + missing)}</p>')
        bodies.append("".join(parts))
    return named(runs, bodies)


def evaluation(runs: Sequence[RunData]) -> str:
    """Accuracy over steps with intervals, one chart a mode and set, and the table behind it."""
    kinds = list(dict.fromkeys((c.mode, c.dataset, c.problems, c.n) for run in runs for c in run.curves))
    charts, rows, verdicts = [], [], []
    for kind in kinds:
        mode, dataset, problems, n = kind
        series = []
        for run in runs:
            for curve in run.curves:
                if (curve.mode, curve.dataset, curve.problems, curve.n) != kind:
                    continue
                points = curve.points
                steps, values = [p.step for p in points], [p.accuracy for p in points]
                whiskers = [p.low for p in points], [p.high for p in points]
                series.append(Series(run.name, steps, values, *whiskers))
                rows += [(run.name, mode, dataset, problems, n, p.step, headline.interval(p), p.method) for p in points]
                verdicts.append((run.name, f"{mode}, {dataset}", curve.verdict))
        note = f"{dataset}, n = {problems} problems x {n}, 95 % intervals"
        charts.append(page.figure(mode, line_chart(f"{mode} over steps", series, zero_one=True), note))
    if not charts:
        return '<p class="dim">No evaluation yet.</p>'
    head = ("run", "mode", "set", "problems", "answers each", "step", "accuracy", "interval")
    told = page.table(("run", "evaluation", "last against first"), verdicts)
    return page.grid(charts) + told + page.fold("all evaluations", page.table(head, rows, (3, 4, 5)))


def tier(runs: Sequence[RunData], number_of: int) -> str:
    """A chart of each figure of the tier that changes, with its healthy band; the constant ones in a line."""
    names = [m.name for m in metrics.tier(number_of)]
    return charts(runs, names)


def other_figures(runs: Sequence[RunData]) -> list[str]:
    """What a reward logs of its own accord and no definition knows."""
    every = dict.fromkeys(name for run in runs for name in run.history.columns)
    return [name for name in every if metrics.get(name) is None or metrics.get(name).family]


def charts(runs: Sequence[RunData], names: Sequence[str]) -> str:
    figures, constant = [], []
    for name in names:
        series = []
        for run in runs:
            values = run.history.columns.get(name)
            if values is not None:
                series.append(Series(run.name, run.history.steps.tolist(), values.tolist()))
        levels = {v for one in series for v in one.ys if v == v}
        if len(levels) == 1 and len(runs) == 1:
            constant.append(f"{name} = {number(levels.pop())}")
        elif levels:
            metric = metrics.get(name)
            marks = spike_steps(runs[0]) if len(runs) == 1 and name.startswith(("grad_norm", "policy_loss")) else ()
            drawn = line_chart(name, series, metric.healthy if metric else None, marks)
            figures.append(page.figure(_caption(name, metric), drawn, _note(metric)))
    told = f'<p class="dim">{page.text("Constant: " + "; ".join(constant))}</p>' if constant else ""
    return page.grid(figures) + told or '<p class="dim">Nothing logged.</p>'


def _caption(name: str, metric) -> str:
    return f"{name}, {metric.unit}" if metric and metric.unit else name


def _note(metric) -> str:
    if metric is None:
        return ""
    return metric.formula + (f"; healthy {metric.range_text()}" if metric.range_text() else "")


def spike_steps(run: RunData) -> list[int]:
    """Steps with spikes, where the line counts them."""
    steps, values = run.history.series("spikes")
    return steps[values > 0].tolist()


def time(runs: Sequence[RunData]) -> str:
    """Seconds a phase, stacked over steps, and their shares; then throughput and memory."""
    parts = []
    for run in runs:
        known = [f"{phase}_s" for phase in metrics.PHASES if f"{phase}_s" in run.history.columns]
        if not known:
            parts.append('<p class="dim">No phase was timed.</p>')
            continue
        series = [Series(n, run.history.steps.tolist(), run.history.columns[n].tolist()) for n in known]
        rows = []
        totals = {one.label: sum(v for v in one.ys if v == v) for one in series}
        whole = sum(v for v in run.history.columns.get("step_s", []) if v == v) or sum(totals.values()) or 1.0
        for name, seconds in totals.items():
            rows.append((name, f"{seconds:.1f}", f"{100 * seconds / whole:.1f} %"))
        rows.append(("steps", f"{whole:.1f}", f"{100 * sum(totals.values()) / whole:.1f} % in phases"))
        chart = page.figure("seconds a step, by phase", shapes.stacked("seconds a step by phase", series))
        parts.append(page.keys(known) + page.grid([chart, page.table(("phase", "s", "share"), rows, (1, 2))]))
    names = [m.name for m in metrics.tier(4) if m.name.removesuffix("_s") not in metrics.PHASES]
    return named(runs, parts) + charts(runs, names)


def spikes(runs: Sequence[RunData]) -> str:
    """Each line of spike_log.jsonl, the newest first, with the tokens that drive it where they are logged."""
    bodies = []
    for run in runs:
        rows = []
        for line in reversed(run.history.spikes[-SPIKE_ROWS:]):
            tokens = line.get("worst_tokens") if isinstance(line.get("worst_tokens"), list) else []
            worst = ", ".join(str(t.get("text", "")) for t in tokens[:5] if isinstance(t, dict))
            cells = [line.get(key) for key in ("optimizer_step", "rank", "grad_norm", "log_ratio_raw_max")]
            shown = [number(v) if isinstance(v, int | float) else "not finite" if v is None else str(v) for v in cells]
            hashes = line.get("prompt_hashes") if isinstance(line.get("prompt_hashes"), list) else []
            rows.append([*shown, line.get("action") or "log", worst, " ".join(map(str, hashes[:4]))])
        head = ("optimizer step", "rank", "gradient norm", "largest log-ratio", "action", "worst tokens", "prompts")
        more = f'<p class="dim">The last {SPIKE_ROWS} of {len(run.history.spikes)}.</p>'
        bodies.append(
            page.table(head, rows, (0, 1, 2, 3)) + (more if len(run.history.spikes) > SPIKE_ROWS else "")
            if rows
            else '<p class="good">None logged.</p>'
        )
    return named(runs, bodies)


def samples(runs: Sequence[RunData]) -> str:
    """A choice of the newest samples: what they are, with the text on a click."""
    bodies = []
    for run in runs:
        parts = []
        for why, sample in choose_samples(run.samples):
            figures = ", ".join(
                f"{key} {number(sample[key])}"
                for key in ("reward", "correctness", "response_length", "truncated", "adapter_version")
                if isinstance(sample.get(key), int | float)
            )
            title = f"{why}: step {sample.get('step', '?')}, {figures}, label {sample.get('label')}"
            body = f"<pre>{page.text(shortened(sample.get('prompt')))}</pre>"
            body += f"<pre>{page.text(shortened(sample.get('response')))}</pre>"
            parts.append(page.fold(title, body))
        bodies.append("".join(parts) or '<p class="dim">No samples file yet.</p>')
    return named(runs, bodies)


def shortened(value, most: int = TEXT) -> str:
    text = str(value if value is not None else "")
    if len(text) <= most:
        return text
    return f"{text[: most * 2 // 3]}\n[… {len(text) - most} characters left out …]\n{text[-most // 3 :]}"
