"""Two results: verdicts in words, refusals, pairing by problem, correction over checkpoints."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from rft.errors import RftError
from rft.stats import paired
from rft.stats.compare import compare, compare_many
from rft.stats.fragile import fragility
from rft.stats.multiple import holm
from rft.stats.results import EvalResult, figure, figures, metric_names, rate
from rft.stats.verdict import p_value

SETTINGS = {
    "mode": "greedy_pass@1",
    "data_set": "aime.jsonl",
    "data_sha256": "d1",
    "max_tokens": 8192,
    "engine": "0.15.1",
}


def greedy(name: str, right: int, of: int, **settings) -> EvalResult:
    ids = [f"p{i:03}" for i in range(of)]
    return EvalResult(name, "greedy_pass@1", ids, [[int(i < right)] for i in range(of)], SETTINGS | settings)


def sampled(name: str, chance, problems: int = 60, seed: int = 0, answers: bool = False) -> EvalResult:
    flags = (np.random.default_rng(seed).random((problems, 8)) < chance).astype(int)
    words = [["r" if flag else f"w{k}" for k, flag in enumerate(row)] for row in flags.tolist()] if answers else None
    ids = [f"p{i:03}" for i in range(problems)]
    return EvalResult(name, "sampling_pass@8", ids, flags.tolist(), SETTINGS | {"mode": "sampling_pass@8"}, words)


def test_eighteen_problems_cannot_tell_one_answer_from_noise():
    found = compare(greedy("base", 9, 18), greedy("step10", 10, 18))
    assert found.verdict == (
        "no difference can be claimed: 50.0 % to 55.6 %, 18 problems, p = 1.0; 18 problems can detect 40 points"
    )
    assert found.claim == "none" and found.up == ("p009",) and found.down == ()


@pytest.mark.parametrize(("right", "claim", "points"), [(140, "better", "+20.0 points"), (60, "worse", "-20.0 points")])
def test_a_difference_is_named_with_its_interval(right, claim, points):
    found = compare(greedy("base", 100, 200), greedy("step10", right, 200))
    assert found.claim == claim
    assert found.verdict.startswith(
        f"step10 is {claim} than base: 50.0 % to {right / 2:.1f} %, {points}, 95 % interval ["
    )
    assert found.verdict.endswith("], 200 problems, p < 0.0001")
    assert found.row.interval.low < found.row.difference < found.row.interval.high and 0 not in found.row.interval
    assert found.test.method == "exact McNemar" and found.row.interval.method == "Tango's score interval"


@pytest.mark.parametrize("one", [greedy("step10", 50, 96), sampled("step10", 0.4)])
def test_a_checkpoint_does_not_differ_from_itself(one):
    found = compare(one, replace(one, name="again"))
    assert (found.claim, found.p, found.up, found.down) == ("none", 1.0, (), ())
    assert "no problem changed" in found.verdict and 0 in found.row.interval
    assert found.row.interval.low < 0 < found.row.interval.high, "no change in few problems is not certainty"
    assert 0 < found.detectable.difference < 0.2


def test_sampled_answers_take_the_permutation_test_over_problems():
    base, other = sampled("base", 0.4), sampled("step10", 0.55, seed=1)
    found = compare(base, other)
    d, grid = paired.changes(base.correct, other.correct)
    assert found.test == paired.sign_flip(d, grid) and found.p == found.test.p < 0.05
    assert found.row.metric == "avg@8" and found.claim == "better" and "60 problems x 8 answers" in found.verdict
    assert found.row.difference == pytest.approx(d.mean()) and "bootstrap over problems" in found.row.interval.method
    assert found.test.up == len(found.up) and found.test.down == len(found.down)


def test_every_metric_stands_in_the_rows_and_one_is_tested():
    base, other = sampled("base", 0.4, answers=True), sampled("step10", 0.5, seed=1, answers=True)
    names = ["avg@8", *(f"pass@{k}" for k in range(1, 9)), "maj@8"]
    assert metric_names(base) == names and [row.metric for row in compare(base, other).rows] == names
    chosen = compare(base, other, metric="pass@4")
    assert chosen.row.metric == "pass@4" and ": pass@4 " in chosen.verdict and len(chosen.rows) == len(names)
    assert "exact" in chosen.test.method and "exact" in compare(base, other, metric="maj@8").test.method
    with pytest.raises(RftError, match="do not both have pass@9"):
        compare(base, other, metric="pass@9")
    without = replace(other, answers=None)
    assert [row.metric for row in compare(base, without).rows] == names[:-1]


def test_majority_of_every_metric_is_the_figure_of_the_result():
    base = sampled("base", 0.4, answers=True)
    for row in compare(base, sampled("step10", 0.5, seed=1, answers=True)).rows:
        assert row.first == figure(base, row.metric)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 4096}, "max_tokens: 8192 and 4096"),
        ({"data_sha256": "d2"}, "data_sha256: d1 and d2"),
        ({"engine": "0.16.0"}, "engine: 0.15.1 and 0.16.0"),
        ({"reasoning_effort": "high"}, "reasoning_effort: None and high"),
    ],
)
def test_other_settings_are_refused_and_force_labels_them(change, words):
    base, other = greedy("base", 9, 18), greedy("step10", 10, 18, **change)
    with pytest.raises(RftError, match=f"{words}.*--force") as error:
        compare(base, other)
    assert "\n" not in str(error.value)
    forced = compare(base, other, force=True)
    assert forced.labels == (words,) and forced.verdict.startswith(f"forced, not alike ({words}): no difference can be")


def test_model_and_adapter_are_what_is_compared():
    one = greedy("base", 9, 18, model="a", adapter_digest=None)
    assert compare(one, greedy("step10", 10, 18, model="b", adapter_digest="e")).labels == ()


def test_modes_are_never_conflated():
    with pytest.raises(RftError, match="mode: greedy_pass@1 and sampling_pass@8"):
        compare(greedy("base", 9, 60), sampled("step10", 0.4))
    forced = compare(greedy("base", 9, 60), sampled("step10", 0.4), force=True)
    assert forced.row.metric == "pass@1" and "mode: greedy_pass@1 and sampling_pass@8" in forced.verdict
    assert forced.test.method == "exact sign flips over problems"


def test_another_number_of_answers_is_refused_and_every_metric_of_both_is_still_exact_under_force():
    base, other = sampled("base", 0.4, answers=True), sampled("step10", 0.5, seed=1, answers=True)
    fewer = replace(other, correct=[row[:5] for row in other.correct], answers=[row[:5] for row in other.answers])
    with pytest.raises(RftError, match="answers a problem: 8 and 5"):
        compare(base, fewer)
    for metric in ("pass@1", "pass@3"):
        for pair in ((base, fewer), (fewer, base)):
            assert "exact" in compare(*pair, metric=metric, force=True).test.method


def test_problems_are_paired_by_id_not_by_place():
    base, other = greedy("base", 9, 18), greedy("step10", 10, 18)
    mixed = replace(other, problem_ids=other.problem_ids[::-1], correct=other.correct[::-1])
    assert compare(base, mixed) == compare(base, other)


def test_other_problems_are_refused_and_force_takes_the_common_ones():
    base, other = greedy("base", 9, 18), greedy("step10", 10, 20)
    with pytest.raises(RftError, match="problems: 18 in common of 18 and 20"):
        compare(base, other)
    forced = compare(base, other, force=True)
    assert len(forced.problem_ids) == 18 and "18 in common of 18 and 20" in forced.verdict
    apart = replace(other, problem_ids=[f"q{i}" for i in range(20)])
    with pytest.raises(RftError, match="no problem in common"):
        compare(base, apart, force=True)


def test_a_damaged_result_is_refused():
    base = greedy("base", 9, 18)
    with pytest.raises(RftError, match="twice: problem p000 stands in it twice"):
        compare(base, replace(base, name="twice", problem_ids=["p000"] * 18))
    with pytest.raises(RftError, match="short: 17 problem ids for 18 problems"):
        compare(base, replace(base, name="short", problem_ids=base.problem_ids[:17]))
    with pytest.raises(RftError, match="ungraded: problem 3, sample 0 has correctness nan"):
        rows = [list(row) for row in base.correct]
        rows[3] = [float("nan")]
        compare(base, replace(base, name="ungraded", correct=rows))
    with pytest.raises(RftError, match="nothing to compare it with"):
        compare_many(base, [])


def test_many_checkpoints_are_corrected_together():
    """Six flips up are significant alone (p = 0.031) and not as one of four checkpoints."""
    base = greedy("base", 40, 96)
    others = [greedy(f"step{i}", right, 96) for i, right in enumerate((46, 41, 43, 40))]
    assert compare(base, others[0]).claim == "better"
    found = compare_many(base, others)
    assert [one.p for one in found] == pytest.approx(holm([one.test.p for one in found]))
    assert found[0].test.p == pytest.approx(2 / 64) and found[0].p == pytest.approx(4 * 2 / 64)
    assert found[0].claim == "none"
    assert "p = 0.12 after Holm's correction for 4 comparisons (p = 0.031 alone)" in found[0].verdict
    assert found[0].detectable.alpha == 0.0125
    assert found[0].detectable.difference > compare(base, others[0]).detectable.difference


def test_nondeterminism_is_no_measure_of_quality():
    one = replace(sampled("base", 0.2), mode="nondet_proxy_pass@8", settings={})
    other = replace(sampled("step10", 0.8), mode="nondet_proxy_pass@8", settings={})
    found = compare(one, other)
    assert found.claim == "diagnostic" and found.verdict.startswith("diagnostics only, no claim about quality: ")


def test_fragile_problems_and_the_gap_to_greedy():
    found = fragility(
        [[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]], ["a", "b", "c", "d"], greedy=[1, 1, 0, 0]
    )
    assert found.fragile == ("b", "d") and found.avg == 7 / 16 and found.gap == pytest.approx(7 / 16 - 1 / 2)
    assert found.words == ("gap to greedy_pass@1 -6.2 points, 2 of 4 problems are fragile (b, d); diagnostics only")
    assert fragility([[1, 1], [0, 0]], ["a", "b"]).words == "0 of 2 problems are fragile"
    with pytest.raises(RftError, match="needs 2 answers a problem"):
        fragility([[1], [0]], ["a", "b"])
    with pytest.raises(RftError, match="give one a problem"):
        fragility([[1, 1], [0, 0]], ["a", "b"], greedy=[1])


def test_a_rate_over_responses_has_its_interval_over_problems():
    flags = np.repeat([[1], [1], [0], [1]] * 12, 8, axis=1)
    found = rate(flags, "boxed")
    assert (found.metric, found.value, found.problems, found.samples) == ("boxed", 0.75, 48, 8)
    single = figure(EvalResult("one", "greedy_pass@1", list(map(str, range(48))), flags[:, :1]), "pass@1")
    assert found.interval.high - found.interval.low == pytest.approx(
        single.interval.high - single.interval.low, abs=0.01
    )


def test_figures_of_greedy_answers_have_wilsons_interval():
    (only,) = figures(greedy("base", 0, 18))
    assert (only.metric, only.value, only.interval.low, only.interval.method) == ("pass@1", 0.0, 0.0, "Wilson")
    assert only.interval.high == pytest.approx(0.1759, abs=5e-5)


def test_partial_credit_is_averaged_and_tested_without_pass_at_k():
    rng = np.random.default_rng(0)
    one, other = (
        replace(sampled(name, 0.5), correct=(rng.random((60, 8)) * top).tolist())
        for name, top in (("a", 0.6), ("b", 1))
    )
    found = compare(one, other)
    assert [row.metric for row in found.rows] == ["avg@8"] and found.claim == "better"
    assert found.test.method == "19999 random sign flips over problems, seed 20261120"


def test_a_comparison_is_plain_data():
    found = compare(sampled("base", 0.4), sampled("step10", 0.5, seed=1))
    assert json.loads(json.dumps(asdict(found)))["values_first"] == list(found.values_first)


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.0, "p = 1.0"),
        (0.9996, "p = 1.0"),
        (0.5, "p = 0.50"),
        (0.0496, "p = 0.050"),
        (0.0501, "p = 0.0501"),
        (0.01004, "p = 0.01004"),
        (0.0312, "p = 0.031"),
    ]
    + [(0.00314, "p = 0.0031"), (0.0001, "p = 0.0001"), (2e-9, "p < 0.0001")],
)
def test_p_values_in_words(p, words):
    assert p_value(p) == words
