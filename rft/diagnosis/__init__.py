"""What is wrong with a run, by rules that name their evidence: `rft diagnose`, the monitor's line, the launcher's end.

Entry points: `history.read` (files of a run to a `History`), `engine.diagnose` (`History` to `Diagnosis`),
`line.diagnosis_line`, `smoke.SmokeGuard`. Nothing here writes to a run.
"""
