"""Every illness of the playbook is named, nothing is named that is none; what a run folder may hold is survived."""

import json
import subprocess
import sys

import histories
import numpy as np
import pytest

from rft import runs
from rft.cli import main
from rft.diagnosis import history
from rft.diagnosis.engine import RULES, diagnose
from rft.diagnosis.line import at_end, diagnosis_line, of_records, of_run
from rft.diagnosis.rules import PLAYBOOK
from rft.errors import RftError

SEEDS = (0, 1, 2)


def names(records, flags=None) -> list[str]:
    return [finding.rule.name for finding in of_records(records, flags).findings]


def write(folder, records, flags=None, torn=()):
    """A run folder as the launcher leaves it."""
    metrics = folder / "metrics"
    metrics.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (metrics / runs.METRICS_FILE).write_text(text + "".join(torn))
    argv = [item for key, value in (flags or {}).items() for item in (f"--{key}", value)]
    (folder / runs.RUN_FILE).write_text(json.dumps({"id": folder.name, "status": "finished", "flags": argv}))
    return folder


def test_the_playbook_has_a_sick_and_a_healthy_history_for_each_rule():
    assert {rule.name for rule in PLAYBOOK} == histories.SICK.keys() == histories.HEALTHY.keys()
    assert len(histories.SICK) + len(histories.HEALTHY) == 24


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", histories.SICK)
def test_the_sick_history_is_named(rule, seed):
    assert rule in names(*histories.SICK[rule](seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rule", histories.HEALTHY)
def test_the_healthy_look_alike_is_not(rule, seed):
    assert names(*histories.HEALTHY[rule](seed)) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", histories.HACKED)
def test_a_reward_that_pays_for_something_else_is_named(way, seed):
    assert names(*histories.HACKED[way](seed)) == ["reward_hacking"]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", histories.EARNED)
def test_a_reward_that_is_earned_is_not(way, seed):
    assert names(*histories.EARNED[way](seed)) == []


@pytest.mark.parametrize("steps", [3, 12, 30, 60, 150])
def test_a_run_that_learns_is_healthy_at_any_length(steps):
    records, flags = histories.lines(histories.healthy(7, steps), histories.evals(7, 0.35, 0.55, 10, steps))
    assert names(records, flags) == []


def test_it_is_named_while_the_run_goes_on_and_not_before():
    """Entropy begins to fall at step 18 of 60, and is below 1 nat from about step 45 on."""
    records, flags = histories.entropy_collapse(0)
    named_at = [n for n in range(10, 61, 5) if "entropy_collapse" in names(records[:n], flags)]
    assert named_at == list(range(min(named_at), 61, 5))
    assert 30 < min(named_at) <= 55


def test_evidence_is_what_the_series_says():
    records, flags = histories.high_truncation(1)
    finding = next(f for f in of_records(records, flags).findings if f.rule.name == "high_truncation")
    item = finding.evidence[0]
    by_step = {record["step"]: record["truncated"] for record in records}
    assert (item.first_step, item.last_step) == (55, 60)
    assert item.values == pytest.approx({s: by_step[s] for s in range(55, 61)}, rel=1e-3)
    assert f"{np.median([by_step[s] for s in range(55, 61)]):.4g}" in item.text
    assert "--generate_max_len" in finding.rule.action


def test_trends_say_how_sure_they_are():
    text = next(f for f in of_records(*histories.mismatch_growth(0)).findings).evidence[0].text
    assert "Mann-Kendall p < 0.0001" in text and "99% interval" in text


def test_what_cannot_be_judged_is_said():
    records = [{"event": "train", "step": i + 1, "reward_mean": 0.3 + 0.001 * i} for i in range(30)]
    diagnosis = of_records(records)
    assert "truncated" in diagnosis.unjudged["high_truncation"]
    assert "zero_std_groups" in diagnosis.unjudged["dead_prompts"]
    assert not {f.rule.name for f in diagnosis.findings} & diagnosis.unjudged.keys()


def test_an_evaluation_that_falls_on_one_set_is_seen_beside_one_that_rises_on_another():
    records, flags = histories.reward_hacking(0)
    rising = [
        {**record, "dataset": "data/probe_set_200.jsonl", "accuracy": 0.3 + 0.005 * record["step"]}
        for record in records
        if record["event"] == "eval"
    ]
    assert "reward_hacking" in names(records + rising, flags)


def test_few_problems_prove_nothing():
    """The same accuracies on 18 problems: 5.6 points each, no claim."""
    records, flags = histories.reward_hacking(0)
    few = [{**record, "n_problems": 18} if record["event"] == "eval" else record for record in records]
    few = [
        {**record, "reward_mean": 0.35 + (record["reward_mean"] - 0.35) * 0.4} if "reward_mean" in record else record
        for record in few
    ]
    few = [{**record, "correctness": record["reward_mean"]} if "reward_mean" in record else record for record in few]
    assert names(few, flags) == []


def test_a_judge_that_pays_wrong_answers():
    records, flags = histories.slow_learning(3)
    for i, record in enumerate(r for r in records if r["event"] == "train"):
        record["high_reward_but_wrong"] = 0.01 + 0.004 * i
    assert names(records, flags) == ["reward_hacking"]


def test_digests_that_stand_still(tmp_path):
    run = write(tmp_path / "run", *histories.slow_learning(0))
    sync = tmp_path / "run" / "metrics" / "sync_log.jsonl"
    sync.write_text("".join(json.dumps({"version": v, "digests": [f"d{min(v, 20)}"]}) + "\n" for v in range(1, 40)))
    assert [f.rule.name for f in of_run(run).findings] == ["weights_fixed"]
    sync.write_text("".join(json.dumps({"version": v, "digests": [f"d{v}"]}) + "\n" for v in range(1, 40)))
    assert of_run(run).findings == ()


def test_a_loss_that_is_not_finite():
    records, flags = histories.slow_learning(0)
    for step in (20, 21):
        records[step]["policy_loss"] = None
    finding = of_records(records, flags).findings[0]
    assert finding.rule.name == "ratio_spikes" and "not finite at 2 steps, first at step 21" in finding.evidence[0].text
    json.dumps(finding.as_dict(), allow_nan=False)


def test_a_resumed_run_counts_each_step_once(tmp_path):
    records, flags = histories.slow_learning(0)
    wrong = [{**record, "truncated": 0.95} for record in records[30:50]]
    folder = write(tmp_path / "run", records[:30] + wrong + records[30:], flags)
    read = history.read(folder)
    assert read.steps.tolist() == list(range(1, 61))
    assert read.columns["truncated"].max() < 0.5


def test_a_step_that_was_run_again_and_stopped_earlier():
    """Steps 31 to 50 were lost; the run went on from 30 and has come to 35."""
    records = [{"event": "train", "step": s, "x": 1.0} for s in [*range(1, 51), *range(31, 36)]]
    assert history.from_records(records).steps.tolist() == list(range(1, 36))


def test_torn_foreign_and_mixed_lines_are_passed_over(tmp_path):
    records, flags = histories.slow_learning(0)
    old = [{k: v for k, v in r.items() if k not in ("kl", "grad_norm_max", "reward_mean")} for r in records[:20]]
    for record in old:
        record["reward"] = record["correctness"]  # an older run's name
    torn = ["null\n", "[1, 2]\n", "\x00\x00\n", '{"event": "train", "step": 61, "reward_me']
    folder = write(tmp_path / "run", old + records[20:], flags, torn)
    read = history.read(folder)
    assert (read.torn, len(read)) == (4, 60)
    assert np.isfinite(read.columns["reward_mean"]).all()
    assert np.isnan(read.columns["kl"][:20]).all() and np.isfinite(read.columns["kl"][20:]).all()
    assert diagnose(read).findings == ()


@pytest.mark.parametrize(
    "record",
    [
        {"event": "train", "step": 1e300},
        {"event": "train", "step": "3"},
        {"event": "train", "step": True},
        {"event": "train", "step": 1, "reward_mean": 10**400},
        {"event": "eval", "step": 0, "accuracy": "high", "n_problems": -3},
        {"event": "eval", "step": 0, "accuracy": 0.5, "n_problems": "many", "n": 0},
        {"step": 2, "reward_mean": {"a": 1}},
    ],
)
def test_strange_values_are_no_traceback(record):
    assert names([record] * 30) == []


def test_an_empty_run(tmp_path, capsys):
    folder = write(tmp_path / "run", [])
    assert main(["diagnose", str(folder)]) == 0
    assert "no step yet" in capsys.readouterr().out


def test_the_command_says_what_where_and_what_to_do(tmp_path, capsys):
    folder = write(tmp_path / "run", *histories.dead_prompts(0))
    assert main(["diagnose", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "dead prompts" in out and "steps 55-60" in out and "--dynamic_filtering" in out
    assert main(["diagnose", "--json", str(folder)]) == 1
    record = json.loads(capsys.readouterr().out)
    assert [finding["rule"] for finding in record["findings"]] == ["dead_prompts"] and record["confidence"] == 0.99
    assert main(["diagnose", "--line", str(folder / "metrics" / runs.METRICS_FILE)]) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_no_such_run_is_one_line(tmp_path, capsys):
    assert main(["diagnose", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and runs.METRICS_FILE in err
    with pytest.raises(RftError, match="no such run"):
        of_run("nowhere-0")


def test_the_rules_can_be_read(capsys):
    assert main(["diagnose", "--rules"]) == 0
    out = capsys.readouterr().out
    assert all(rule.name in out for rule in RULES)
    assert "reward_mean does not rise" in out


def test_help_needs_no_numpy():
    code = (
        "import sys; from rft.cli import main\n"
        "for verb in ('diagnose', 'report'):\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as e: assert e.code == 0\n"
        "sys.exit(bool({'numpy', 'scipy', 'torch'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_the_line_for_monitor_and_launcher(tmp_path):
    records, flags = histories.length_collapse(0)
    assert diagnosis_line(records, flags).startswith("length collapse")
    assert "\n" not in diagnosis_line(records, flags)
    assert diagnosis_line([]) == "no step yet"
    folder = write(tmp_path / "run", records, flags)
    assert "-> look at samples" in at_end(folder)
    assert at_end(tmp_path / "none").startswith("no diagnosis: ")


def test_a_long_run_is_thinned_and_still_named():
    columns = histories.healthy(0, 20_000)
    columns["dlogp_abs_mean"] = histories.noisy(np.random.default_rng(0), np.linspace(0.01, 0.06, 20_000), 0.002)
    assert names(*histories.lines(columns)) == ["mismatch_growth"]


def test_a_warm_up_that_the_run_ends_in_is_seen_without_the_target():
    records, _ = histories.lr_target_missed(0)
    for record in records:
        record.pop("lr_share")
    assert names(records) == ["lr_target_missed"]
    assert "lr_target_missed" in of_records(records[:40]).unjudged
    records, _ = histories.slow_learning(0)  # warm-up, then a cosine
    for record in records:
        record.pop("lr_share")
    assert names(records) == []
