"""A run, or several overlaid, as report.html and report.md, with steps.csv and headline.json for the research log.

`write` is what `rft report` calls. Reads runs only; the files go to a folder of their own and are written whole.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rft import metrics, runs
from rft.diagnosis.history import flags
from rft.report import headline, page, run_sections
from rft.report.run_data import RunData, load
from rft.report.svg import number

CERTIFICATES = 30
AGREEMENT = {True: "agree", False: "DISAGREE", None: "not logged"}


def write(references: Sequence[str], out: Path | None = None) -> list[Path]:
    """Writes the report of these runs; the files, the page first.

    out     a folder; None: ``reports/<id>`` among the runs (``<id>+<id>`` for several)
    raises  RftError: no such run, or the folder cannot be written
    """
    found = [load(reference) for reference in references]
    names = [run.name for run in found]
    folder = out or runs.runs_dir() / "reports" / "+".join(names)[:200].replace("/", "_")
    written = [page.write(folder / "report.html", html(found)), page.write(folder / "report.md", markdown(found))]
    for run in found:
        prefix = "" if len(found) == 1 else f"{run.name}-"
        written.append(page.write(folder / f"{prefix}steps.csv", headline.steps_csv(run)))
        about = {"run": run.name, **dict(headline.headline(run)), "diagnosis": run.diagnosis.as_dict()}
        text = json.dumps(about, ensure_ascii=False, indent=1)
        written.append(page.write(folder / f"{prefix}headline.json", text + "\n"))
    return written


def html(found: Sequence[RunData]) -> str:
    names = ", ".join(run.name for run in found)
    section = page.Section
    sections = [
        section("summary", "Summary", run_sections.summary(found)),
        section("diagnosis", "Diagnosis", run_sections.diagnosis(found)),
        section("evaluation", "Evaluation", legend(found) + run_sections.evaluation(found)),
    ]
    for number_of in (1, 2, 3):
        title = f"Tier {number_of}: {metrics.TIERS[number_of]}"
        body = legend(found) + run_sections.tier(found, number_of)
        sections.append(section(f"tier{number_of}", title, body))
    sections.append(section("cost", "Time and memory", run_sections.time(found)))
    if extra := run_sections.other_figures(found):
        sections.append(section("other", "Other figures", legend(found) + run_sections.charts(found, extra)))
    sections += [
        section("spikes", "Gradient spikes", run_sections.spikes(found)),
        section("samples", "Samples", run_sections.samples(found)),
        section("certificates", "Certificates", certificates(found)),
        section("steps", "Steps", steps(found)),
        section("configuration", "Configuration", configuration(found)),
    ]
    shaded = "shaded: the healthy range; a dashed line: a step with a gradient spike"
    return page.page(f"Run {names}" if len(found) == 1 else f"Runs {names}", shaded, sections)


def legend(found: Sequence[RunData]) -> str:
    return page.keys([run.name for run in found]) if len(found) > 1 else ""


def certificates(found: Sequence[RunData]) -> str:
    """How the engines answered each sync: the newest, and every one that disagreed."""
    bodies = []
    for run in found:
        syncs = run.history.syncs
        bad = [s for s in syncs if headline.sync_agrees(s) is False]
        shown = {id(s): s for s in [*bad[:CERTIFICATES], *syncs[-CERTIFICATES:]]}.values()
        rows = []
        for sync in shown:
            canary = sync.get("canary") if isinstance(sync.get("canary"), dict) else {}
            digests = sync.get("digests") if isinstance(sync.get("digests"), list) else []
            rows.append(
                (
                    sync.get("version"),
                    AGREEMENT[headline.sync_agrees(sync)],
                    " ".join(str(d)[:12] for d in digests),
                    number(canary.get("dlogp_mean")),
                    number(canary.get("served")),
                    number(sync.get("sync_s")),
                )
            )
        head = ("version", "ranks", "digests sent", "canary mismatch", "share served", "s")
        told = f'<p class="{"bad" if bad else "dim"}">{page.text("Certified: " + headline.certified(syncs))}</p>'
        bodies.append(told + (page.table(head, rows, (0, 3, 4, 5)) if rows else ""))
    return run_sections.named(found, bodies)


def steps(found: Sequence[RunData]) -> str:
    bodies = []
    for run in found:
        head, rows, every = headline.step_rows(run)
        told = f'<p class="dim">Every {every}th step; all are in steps.csv.</p>' if every > 1 else ""
        bodies.append(told + page.table(head, rows, range(len(head))))
    return run_sections.named(found, bodies)


def configuration(found: Sequence[RunData]) -> str:
    """What the runs were given; of several, first what differs."""
    given = [flags(run.record.get("flags") or run.record.get("argv") or []) for run in found]
    names = sorted({name for one in given for name in one})
    rows = [(name, *(str(one.get(name, "-")) for one in given)) for name in names]
    head = ("flag", *(run.name for run in found))
    parts = []
    if len(found) > 1:
        differing = [row for row in rows if len(set(row[1:])) > 1]
        parts.append("<h3>What differs</h3>" + page.table(head, differing))
    parts.append(page.fold("all flags", page.table(head, rows)))
    for run in found:
        about = [(key, value) for key, value in run.record.items() if key not in ("argv", "flags", "paths")]
        told = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in about]
        parts.append(page.fold(f"run.json of {run.name}", page.facts(told)))
    return "".join(parts)


def markdown(found: Sequence[RunData]) -> str:
    """The summary for a research-log entry: headline figures, diagnosis, evaluations, table by step."""
    parts = []
    for run in found:
        parts += [f"# {run.name}", ""]
        parts += [f"- {name}: {value}" for name, value in headline.headline(run)]
        parts += [f"- note: {remark}" for remark in run.remarks]
        parts += ["", "## Diagnosis", "", run.diagnosis.line(), ""]
        for finding in run.diagnosis.findings:
            parts += [f"- **{finding.rule.title}** (`{finding.rule.name}`)"]
            parts += [f"  - {item.text}" for item in finding.evidence]
            parts += [f"  - do: {finding.rule.action}"]
        if run.curves:
            parts += ["", "## Evaluation", "", "| mode | set | problems x answers | step | accuracy, 95 % |"]
            parts += ["|---|---|---|---|---|"]
            parts += [
                f"| {c.mode} | {cell(c.dataset)} | {c.problems} x {c.n} | {p.step} | {headline.interval(p)} |"
                for c in run.curves
                for p in c.points
            ]
        head, rows, every = headline.step_rows(run)
        parts += ["", f"## Steps{f' (every {every}th; all in steps.csv)' if every > 1 else ''}", ""]
        parts += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        parts += ["| " + " | ".join(row) + " |" for row in rows] + [""]
    return "\n".join(parts).rstrip() + "\n"


def cell(value) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
