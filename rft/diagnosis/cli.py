"""``rft diagnose``: what is wrong with a run, with the evidence and what to do."""

import argparse
import json
import sys
import textwrap

WIDTH = 110


def main(argv: list[str]) -> int:
    """0: nothing found; 1: a rule is met; 2 (RftError): no such run."""
    parser = argparse.ArgumentParser(
        prog="rft diagnose",
        description="Asks a run's metrics every rule of the playbook and of the smoke test on its first six steps. "
        "Trends are found by Mann-Kendall's test at 99 % confidence, corrected for autocorrelation, with the Theil-Sen "
        "slope. Reads only; also while the run goes on, or over a copied folder.",
        epilog="exit status: 0 nothing found, 1 a rule is met, 2 no such run",
    )
    parser.add_argument("run", nargs="*", help="folder, id, beginning of an id, `last`, or a training_metrics.jsonl")
    parser.add_argument("--json", action="store_true", help="machine-readable, a line a run")
    parser.add_argument("--line", action="store_true", help="one line a run, as in the monitor")
    parser.add_argument("--rules", action="store_true", help="print the rules and leave")
    args = parser.parse_args(argv)
    if args.rules:
        print(rules_text())
        return 0
    if not args.run:
        parser.error("which run? give an id, or `last`; --rules prints the rules")
    from rft.diagnosis.line import of_run

    met = False
    for reference in args.run:
        diagnosis = of_run(reference)
        met |= bool(diagnosis.findings)
        if args.json:
            print(json.dumps(diagnosis.as_dict()))
        elif args.line:
            print(f"{diagnosis.name}: {diagnosis.line()}")
        else:
            print(text(diagnosis))
    sys.stdout.flush()
    return 1 if met else 0


def text(diagnosis) -> str:
    """The whole answer for a terminal."""
    lines = [f"{diagnosis.name}: {diagnosis.steps} steps; {diagnosis.line()}"]
    for finding in diagnosis.findings:
        lines += ["", f"{finding.rule.title}  [{finding.rule.name}]"]
        for item in finding.evidence:
            lines += _wrap(item.text, "  ")
            values = ", ".join(f"{step}: {value:g}" for step, value in item.values.items())
            lines += _wrap(f"step: value  {values}", "    ") if values else []
        lines += _wrap(f"do: {finding.rule.action}", "  ")
    if diagnosis.unjudged:
        lines.append("")
        missing = "; ".join(f"{name} ({', '.join(why)})" for name, why in diagnosis.unjudged.items())
        lines += _wrap(f"not judged for want of data: {missing}", "")
    if diagnosis.torn:
        lines.append(f"{diagnosis.torn} torn or foreign lines were passed over")
    return "\n".join(lines)


def rules_text() -> str:
    from rft.diagnosis.engine import RULES

    lines = []
    for rule in RULES:
        lines += [rule.name, *_wrap(rule.title, "  "), *_wrap(f"if {rule.when.words()}", "  ")]
        lines += [*_wrap(f"do: {rule.action}", "  "), ""]
    return "\n".join(lines).rstrip()


def _wrap(line: str, indent: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False)
