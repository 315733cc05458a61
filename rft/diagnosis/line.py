"""The diagnosis for those who have other things to show: the monitor's line, the end of a run, the report."""

from collections.abc import Iterable
from pathlib import Path

from rft.diagnosis import history as histories
from rft.diagnosis.engine import Diagnosis, diagnose
from rft.errors import RftError


def of_run(reference: str | Path) -> Diagnosis:
    """Reads a run and asks every rule; raises RftError if there is no such run."""
    return diagnose(histories.read(reference))


def of_records(records: Iterable[dict], config: dict | None = None) -> Diagnosis:
    """Of lines that the caller holds already (thinned ones too): events `train` and `eval`, in the file's order.

    config  flags of the run without dashes, as `history.flags` makes them of run.json's argv
    """
    return diagnose(histories.from_records(records, config))


def diagnosis_line(records: Iterable[dict], config: dict | None = None) -> str:
    """One line for the monitor."""
    return of_records(records, config).line()


def at_end(run_dir: str | Path) -> str:
    """What the launcher prints when a run has ended; never raises, for a diagnosis must not fail a run."""
    try:
        diagnosis = of_run(run_dir)
    except (RftError, OSError, ValueError, ArithmeticError, MemoryError) as err:
        return f"no diagnosis: {err}"
    lines = [f"diagnosis: {diagnosis.line()}"]
    lines += [f"  {finding.evidence[0].text}\n  -> {finding.rule.action}" for finding in diagnosis.findings]
    return "\n".join(lines)
