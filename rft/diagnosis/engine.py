"""All rules against one history: what is met, what is not, what cannot be judged."""

from dataclasses import asdict, dataclass

from rft.diagnosis.conditions import Evidence
from rft.diagnosis.history import History
from rft.diagnosis.rules import PLAYBOOK, Rule
from rft.diagnosis.smoke import SMOKE, first_steps
from rft.diagnosis.trends import CONFIDENCE

RULES: tuple[Rule, ...] = SMOKE + PLAYBOOK


@dataclass(frozen=True)
class Finding:
    """A rule that is met."""

    rule: Rule
    evidence: tuple[Evidence, ...]

    def as_dict(self) -> dict:
        return {
            "rule": self.rule.name,
            "stage": self.rule.stage,
            "title": self.rule.title,
            "action": self.rule.action,
            "evidence": [asdict(item) for item in self.evidence],
        }


@dataclass(frozen=True)
class Diagnosis:
    """findings in the rules' order; unjudged: rule name -> the figures or steps that it lacks."""

    name: str
    steps: int
    last_step: int
    findings: tuple[Finding, ...]
    unjudged: dict[str, tuple[str, ...]]
    torn: int

    def line(self) -> str:
        """One line, for a monitor."""
        if not self.steps:
            return "no step yet"
        if not self.findings:
            judged = len(RULES) - len(self.unjudged)
            return f"nothing found by {judged} of {len(RULES)} rules after {self.steps} steps"
        first, *others = self.findings
        more = f"; also {', '.join(f.rule.name for f in others)}" if others else ""
        return f"{first.rule.title} ({first.rule.name}){more}"

    def as_dict(self) -> dict:
        return {
            "run": self.name,
            "steps": self.steps,
            "last_step": self.last_step,
            "confidence": CONFIDENCE,
            "findings": [finding.as_dict() for finding in self.findings],
            "unjudged": {name: list(missing) for name, missing in self.unjudged.items()},
            "torn_lines": self.torn,
        }


def diagnose(history: History) -> Diagnosis:
    """Asks every rule. Series are thinned to a few hundred points before a test: 0.05 s, 2 s for 100,000 steps."""
    findings, unjudged = [], {}
    beginning = first_steps(history)
    for rule in RULES:
        answer = rule.when.check(beginning if rule.stage == "smoke" else history)
        if answer.met:
            findings.append(Finding(rule, answer.evidence))
        elif answer.met is None:
            unjudged[rule.name] = tuple(dict.fromkeys(answer.missing))
    last = int(history.steps[-1]) if len(history) else 0
    return Diagnosis(history.name, len(history), last, tuple(findings), unjudged, history.torn)
