"""Where a step's seconds went: laps that add up, and the wait for rewards (rft/phases.py, rft/step_log.py)."""

import json
import math
from types import SimpleNamespace

import pytest

from rft import phases, step_log


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A StepLog on a clock that the test moves, and a reader of its lines."""
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    clock = Clock()
    monkeypatch.setattr(step_log.time, "perf_counter", clock)
    args = SimpleNamespace(rollout_batch_size=16, num_episodes=2, actor_learning_rate=2e-6)
    made = step_log.StepLog(args, prompt_count=40)
    return made, clock, lambda: [json.loads(t) for t in (tmp_path / step_log.FILE).read_text().splitlines()]


def go(clock, seconds):
    clock.now += seconds


def step(log, clock, number, before=(), **laps):
    """A step as the patched trainer times it; `before` is booked before the loop's top is reached again."""
    for phase, seconds in before:
        go(clock, seconds)
        if phase:
            log.lap(phase)
    log.start()
    for phase, seconds in laps.items():
        go(clock, seconds)
        log.lap(phase)
        if phase == "generate":
            log.reward_waited(0.5)
    go(clock, 0.25)  # loggers
    log.write(number, 0, {"tokens_in_rollout": 900, "tokens_in_batch": 1800, "actor_lr": 1e-6})


def test_phases_add_up_to_the_wall_time_between_lines(log):
    made, clock, read = log
    go(clock, 1000.0)  # engines start: no step's
    began = clock.now
    step(made, clock, 1, generate=3.0, old_logprob=1.5, train=4.5, sync=0.25, save=0.75)
    first_line = clock.now
    step(made, clock, 2, [("eval", 20.0), ("", 0.125)], generate=2.0, old_logprob=1.0, train=4.0, sync=0.5, save=0.0)
    one, two = read()
    wanted = {"generate": 2.5, "reward": 0.5, "old_logprob": 1.5, "train": 4.5, "sync": 0.25, "save": 0.75, "eval": 0.0}
    assert {phase: one[f"{phase}_s"] for phase in wanted} == wanted and one["other_s"] == 0.25
    assert one["step_s"] == first_line - began == sum(one[f"{phase}_s"] for phase in step_log.PHASES)
    assert two["eval_s"] == 20.0 and two["other_s"] == 0.375 and two["generate_s"] == 1.5
    assert two["step_s"] == clock.now - first_line == sum(two[f"{phase}_s"] for phase in step_log.PHASES)
    assert one["generate_tok_s"] == 900 / 2.5 and one["train_tok_s"] == 1800 / 4.5 and one["lr_share"] == 0.5
    assert one["total_steps"] == 6


def test_a_phase_that_nobody_listed_is_written_and_counted(log):
    made, clock, read = log
    step(made, clock, 1, generate=1.0, weighing=2.0)
    (line,) = read()
    assert line["weighing_s"] == 2.0
    assert line["step_s"] == sum(line[f"{phase}_s"] for phase in (*step_log.PHASES, "weighing"))


def test_figures_that_cannot_be_had_are_left_out_or_null_and_counted(log):
    made, _, read = log
    made.start()
    figures = {"reward_mean": math.nan, "kl": math.inf, "text": "no number", "flag": True, "reward": 0.25}
    made.write(1, 0, {**figures, "response_length": 3.0, "parse_method": 1.5})
    (line,) = read()
    assert line["reward_mean"] is None and line["kl"] is None and line["null_count"] == 2
    assert line["response_length_mean"] == 3.0
    unwanted = {"text", "flag", "reward", "response_length", "parse_method", "generate_tok_s", "lr_share"}
    assert not unwanted & line.keys()


def test_nothing_is_booked_before_the_first_start():
    clock = Clock()
    made = phases.StepClock(clock)
    go(clock, 5.0)
    assert made.lap("save") == 0.0
    made.start()
    go(clock, 1.0)
    assert made.lap("train") == 1.0 and made.take() == {**dict.fromkeys(phases.PHASES, 0.0), "train": 1.0}


def test_seconds_are_moved_never_made():
    clock = Clock()
    made = phases.StepClock(clock)
    made.start()
    go(clock, 2.0)
    made.lap("generate")
    made.move(5.0, "generate", "reward")
    made.move(-1.0, "reward", "generate")
    taken = made.take()
    assert taken["generate"] == 0.0 and taken["reward"] == 2.0


def test_the_wait_for_rewards_is_measured_on_either_side_by_its_own_clock():
    """Two prompts on an engine whose clock is far off: sampled at 10 and 11, rewarded at 14 and 11.5."""
    engine, controller = Clock(), Clock()
    engine.now, one, two = 5010.0, [{}, {}], [{}]
    phases.mark_sampled(one[0], engine)
    phases.mark_sampled(one[1], engine)
    engine.now += 1.0
    phases.mark_sampled(two[0], engine)
    tail = phases.RewardTail(controller)
    engine.now, controller.now = 5011.5, 11.5
    tail.arrived(phases.waited(two, engine))
    engine.now, controller.now = 5014.0, 14.0
    tail.arrived(phases.waited(one, engine))
    assert two[0] == {"reward_tail_s": 0.5} and one == [{"reward_tail_s": 4.0}] * 2
    assert tail.seconds() == pytest.approx(3.0)  # the last token was sampled at 11, the last reward came at 14
    assert tail.seconds() == 0.0  # a rollout is counted once
    tail.arrived([{}])
    assert tail.seconds() == 0.0  # an engine that marks nothing


def test_the_draft_for_the_checkpoint_is_the_line_without_its_save(log):
    """It ends nothing: the line that follows has all of the step's time."""
    made, clock, read = log
    made.start()
    go(clock, 3.0)
    made.lap("generate")
    draft = made.draft(1, 0, {"kl": 0.5})
    assert (draft["event"], draft["step"], draft["kl"], draft["generate_s"], draft["step_s"]) == ("train", 1, 0.5, 3, 3)
    go(clock, 1.0)
    made.lap("save")
    line = made.write(1, 0, {"kl": 0.5})
    assert (line["generate_s"], line["save_s"], line["step_s"]) == (3, 1, 4) and read() == [line]
    assert draft.keys() == line.keys()
