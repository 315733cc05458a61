"""Peaks of real processes against the plan's (rft/plan/measure.py): OpenRLHF's actor, alone and as ZeRO-3 ranks."""

import pytest

from rft.plan.cases import CASES
from rft.plan.measure import compare, measure, measure_zero3, predict, predict_zero3

pytestmark = pytest.mark.engine
LIMIT = 0.10


@pytest.fixture(scope="module")
def found():
    """Of three cases that different terms dominate, all forked from one process."""
    names = ("weights", "attention", "experts, 3 rows")
    return dict(zip(names, measure([CASES[name] for name in names]), strict=True))


@pytest.mark.parametrize("name", ["weights", "attention", "experts, 3 rows"])
def test_one_process(found, name):
    """The training peak within 10 %, also of what the model and its work add to the process."""
    case, measured = CASES[name], found[name]
    assert measured["parameters"] == case.geometry.parameters + case.geometry.lora_parameters(case.lora_rank)
    score, train = compare(predict(case, measured["base_bytes"]), measured)
    assert abs(score["error"]) < LIMIT and abs(train["error"]) < LIMIT, (score, train)
    assert abs(train["error_above_base"]) < LIMIT, train


def test_a_wrong_model_would_be_noticed(found):
    """The measured peak of one case is not within 10 % of another's prediction."""
    measured = found["weights"]
    train = compare(predict(CASES["attention"], measured["base_bytes"]), measured)[1]
    assert abs(train["error"]) > LIMIT


def test_zero3_ranks():
    """Two ranks: a whole copy in each before it is cut up, then a slice, and all of it gathered while it trains."""
    case = CASES["weights"]
    measured = measure_zero3(case, offload=True)
    rows = compare(predict_zero3(case, True, measured["base_bytes"]), measured)
    assert all(abs(row["error"]) < LIMIT for row in rows), rows
