"""The smoke test on the first six steps: each check fires on its fault alone, and can stop the run."""

import histories
import numpy as np
import pytest

from rft.diagnosis import smoke
from rft.diagnosis.history import from_records
from rft.diagnosis.line import of_records
from rft.errors import RftError

FAULTS = {
    "smoke_reward": {"reward_mean": [0.0] * 6},
    "smoke_has_boxed": {"has_boxed": [0.4, 0.3, 0.45, 0.6, 0.4, 0.42]},
    "smoke_grad_norm": {"grad_norm": [0.0] * 6},
    "smoke_advantage": {"advantage_std": [0.3] + [0.0] * 5},
    "smoke_truncation": {"truncated": [0.6, 0.55, 0.7, 0.49, 0.8, 0.6]},
    "smoke_clip_ratio": {"ppo_clip_ratio": [0.5, 0.45, 0.3, 0.6, 0.5, 0.5]},
}
ALSO = {
    "reward at 1": ("smoke_reward", {"reward_mean": [1.0] * 6}),
    "box dropping": ("smoke_has_boxed", {"has_boxed": [0.97, 0.93, 0.9, 0.86, 0.8, 0.72]}),
    "gradient too large": ("smoke_grad_norm", {"grad_norm": [150, 400, 90, 220, 310, 180]}),
}
HARMLESS = {
    "sparse reward": {"reward_mean": [0, 0, 0.008, 0, 0, 0]},
    "box noisy": {"has_boxed": [0.97, 0.9, 0.95, 0.91, 0.96, 0.89]},
    "box a little lower": {"has_boxed": [0.98, 0.975, 0.97, 0.965, 0.96, 0.955]},
    "no gradient at first": {"grad_norm": [0, 0.2, 0.4, 0.5, 0.6, 0.5]},
    "one large gradient": {"grad_norm": [150, 30, 8, 2, 1, 1]},
    "advantage late": {"advantage_std": [0, 0, 0.1, 0.2, 0.3, 0.4]},
    "truncated twice": {"truncated": [0.6, 0.6, 0.4, 0.3, 0.2, 0.2]},
    "clipped twice": {"ppo_clip_ratio": [0.5, 0.5, 0.2, 0.1, 0.1, 0.1]},
}


def run(columns: dict, steps: int = 6):
    base = histories.healthy(11, steps)
    for name, values in columns.items():
        base[name] = np.concatenate([np.asarray(values, float), base[name][6:]])
    return histories.lines(base, total=60)[0]


def named(records) -> list[str]:
    return [rule.name for rule, _ in smoke.failures(from_records(records))]


@pytest.mark.parametrize(("rule", "columns"), [*FAULTS.items(), *ALSO.values()])
def test_a_fault_is_named_alone(rule, columns):
    assert named(run(columns)) == [rule]


@pytest.mark.parametrize("columns", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_passes_is_not_named(columns):
    assert named(run(columns)) == []


@pytest.mark.parametrize("seed", range(20))
def test_healthy_beginnings_pass(seed):
    assert named(histories.lines(histories.healthy(seed, 6), total=60)[0]) == []


def test_only_the_first_six_steps_count():
    records = run({}, steps=20)
    for record in records[6:]:
        record["truncated"] = 0.6
    assert named(records) == []
    later = [{**record, "step": record["step"] + 100} for record in run(FAULTS["smoke_truncation"])]
    assert named(later) == []  # the copied end of a run has no beginning


def test_it_is_part_of_the_diagnosis():
    found = [finding.rule.name for finding in of_records(run(FAULTS["smoke_advantage"], 20)).findings]
    assert found == ["smoke_advantage"]


def test_nothing_is_said_before_there_is_enough():
    assert named(run(FAULTS["smoke_reward"])[:3]) == []


def test_the_guard_stops_at_step_six_with_one_line():
    guard = smoke.SmokeGuard(enabled=True)
    records = run(FAULTS["smoke_truncation"])
    for record in records[:5]:
        guard.check(record["step"], record)
    with pytest.raises(
        RftError, match=r"smoke test of steps 1-6 fails: truncated is 0\.6.*--generate_max_len"
    ) as error:
        guard.check(6, records[5])
    assert "\n" not in str(error.value) and "--stop_on_smoke_failure" in str(error.value)


def test_the_guard_is_silent_where_it_is_off_healthy_or_late():
    for enabled, columns in ((False, FAULTS["smoke_truncation"]), (True, {})):
        guard = smoke.SmokeGuard(enabled)
        for record in run(columns, steps=8):
            guard.check(record["step"], record)
    guard = smoke.SmokeGuard(enabled=True)
    for record in run(FAULTS["smoke_truncation"])[4:]:  # resumed at step 5: too little was seen
        guard.check(record["step"], record)
