"""Small sums for the tiny model: the problems, their split, and the texts of the warm start.

A problem is a two-digit number plus one of 1 to 5 with a sum below 100: 435 in all. As the first operand always has
two digits and the second one, no two problems are the same sum in another order. Held-out problems are in neither the
training file nor the warm start; training problems may be in the warm start, as in any RL on top of a supervised model.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

HELDOUT = 96
TRAIN = 320


@dataclass(frozen=True)
class Problem:
    left: int  # 10..99
    right: int  # 1..5

    @property
    def question(self) -> str:
        return f"What is {self.left} + {self.right}?"

    @property
    def answer(self) -> int:
        return self.left + self.right


@dataclass(frozen=True)
class Split:
    warm: tuple[Problem, ...]  # every problem that is not held out
    train: tuple[Problem, ...]
    heldout: tuple[Problem, ...]


def split_problems(seed: int) -> Split:
    """The split of all problems that belongs to `seed`."""
    problems = [Problem(a, b) for a in range(10, 100) for b in range(1, 6) if a + b < 100]
    random.Random(f"split {seed}").shuffle(problems)
    heldout, rest = problems[:HELDOUT], problems[HELDOUT:]
    return Split(warm=tuple(rest), train=tuple(rest[:TRAIN]), heldout=tuple(heldout))


def write_prompts(problems: tuple[Problem, ...], path: Path) -> None:
    """One JSON line a problem, as the launchers read it: input, label (a decimal integer as text), datasource."""
    rows = ({"input": p.question, "label": str(p.answer), "datasource": "tiny"} for p in problems)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def completion(problem: Problem, answer: int, analysis: bool) -> str:
    """What the model shall write after ``<|start|>assistant``: a short analysis or none, then the boxed answer."""
    thought = (
        f"<|channel|>analysis<|message|>{problem.left} + {problem.right}<|end|><|start|>assistant" if analysis else ""
    )
    return f"{thought}<|channel|>final<|message|>\\boxed{{{answer}}}<|return|>"


# Share of completions that open with an analysis channel, by reasoning effort.
ANALYSIS_SHARE = {"low": 0.0, "medium": 0.25, "high": 1.0}
EFFORT_WEIGHTS = {"low": 1, "medium": 8, "high": 1}


def draw_example(problems: tuple[Problem, ...], noise: float, rng: random.Random) -> tuple[str, str, str]:
    """(effort, question, completion) of one warm-start example; with probability `noise` the answer's last digit is
    random.

    Only the last digit: a model this small does not learn that a random answer has two random digits while a true one
    has two right ones, and loses the sums over it.
    """
    problem = rng.choice(problems)
    answer = problem.answer
    if rng.random() < noise:
        answer += rng.randrange(10) - answer % 10
    effort = rng.choices(list(EFFORT_WEIGHTS), weights=list(EFFORT_WEIGHTS.values()))[0]
    analysis = rng.random() < ANALYSIS_SHARE[effort]
    return effort, problem.question, completion(problem, answer, analysis)
