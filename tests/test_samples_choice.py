"""Which answers of a rollout are kept, and what stands in their lines (rft/samples_choice.py, rft/samples_log.py)."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from rft import samples_log
from rft.samples_choice import choose, group_ranks

NAN = math.nan


def rollout(groups: int = 16, size: int = 8) -> list[dict]:
    """Rewards that rise with the group; the first group is all wrong, the last all right; one answer of each kind."""
    records = []
    for group in range(groups):
        for number in range(size):
            right = number < size * group // (groups - 1)
            figures = {"reward": float(right), "correctness": float(right), "truncated": 0.0, "truncated_response": 0.0}
            records.append({"group": group, "place": len(records), "response_length": 10.0 + number, **figures})
    records[37] |= {"reward": 0.9, "correctness": 0.0}  # paid, and wrong
    records[90] |= {"truncated": 1.0, "response_length": 500.0}
    records[91] |= {"truncated_response": 1.0}
    records[64] |= {"reward": NAN}
    return records


def of(chosen, kind):
    return [record for record in chosen if kind in record["kinds"]]


def test_every_kind_is_there_from_many_prompts_and_not_the_first_ones():
    chosen = choose(rollout(), 40)
    assert len(chosen) == 40 and [r["place"] for r in chosen] == sorted({r["place"] for r in chosen})
    assert {r["place"] for r in of(chosen, "truncated")} == {90, 91}
    assert 37 in {r["place"] for r in of(chosen, "disagreeing")} and {64} == {r["place"] for r in of(chosen, "masked")}
    assert all(r["reward"] == 1.0 for r in of(chosen, "best")) and all(r["reward"] == 0 for r in of(chosen, "worst"))
    for kind in ("best", "worst", "median"):
        assert len(of(chosen, kind)) == 40 // 6 == len({r["group"] for r in of(chosen, kind)})
    assert len({r["group"] for r in chosen}) >= 12
    assert choose(rollout(), 40) == chosen


def test_the_most_surprising_come_first():
    """Of equal rewards, the best is right where its group is mostly wrong, the worst wrong where it is mostly right."""
    records = rollout()
    records[37] |= {"reward": 0.0}
    best, worst = of(choose(records, 6), "best")[0], of(choose(records, 6), "worst")[0]
    rate = lambda group: sum(r["reward"] for r in records if r["group"] == group) / 8  # noqa: E731
    assert rate(best["group"]) == 1 / 8 and rate(worst["group"]) == 7 / 8
    lonely = of(choose(records, 60), "disagreeing")
    assert lonely and all((rate(r["group"]) < 0.5) == (r["correctness"] > 0) for r in lonely)


def test_median_is_about_the_middle():
    records = [{"group": i, "reward": float(i), "response_length": 1.0} for i in range(101)]
    assert {r["reward"] for r in of(choose(records, 9), "median")} == {49.0, 50.0, 51.0}


@pytest.mark.parametrize("limit", [1, 3, 5, 127, 128, 500])
def test_the_limit_holds_and_is_used(limit):
    assert len(choose(rollout(), limit)) == min(limit, 128)


def test_little_to_choose_from():
    assert choose([], 40) == [] and choose(rollout(), 0) == []
    masked = [{"group": 0, "reward": NAN, "response_length": 1.0}] * 2
    assert [r["kinds"] for r in choose(masked, 40)] == [["masked"]] * 2


def test_places_in_a_group():
    records = [{"group": g, "reward": r} for g, r in ((0, 0.5), (0, 1.0), (0, 0.5), (0, NAN), (1, NAN), (1, -1.0))]
    assert group_ranks(records) == [2, 1, 2, 4, 2, 1]


class Tokenizer:
    decoded = 0

    def decode(self, ids, skip_special_tokens):
        assert not skip_special_tokens
        self.decoded += 1
        return f"<|channel|>final<|message|>so \\boxed{{{ids.tolist()[-1]}}}<|return|>"


def sample(group: int, answer: int, reward: float) -> SimpleNamespace:
    info = {"correctness": reward, "response_length": 2, "truncated": False, "adapter_version": 3, "reward/len": -0.5}
    return SimpleNamespace(
        sequences=torch.tensor([[1, 2, 9, answer]]),
        action_mask=torch.tensor([[0, 1, 1]]),
        prompts=[f"prompt {group}"],
        labels=["7"],
        rewards=torch.tensor([reward]),
        info={"reward": torch.tensor([reward]), **{key: torch.tensor([value]) for key, value in info.items()}},
    )


def written(tmp_path, monkeypatch, samples, **options):
    monkeypatch.setenv("SAMPLES_LOG_DIR", str(tmp_path))
    tokenizer = Tokenizer()
    samples_log.write_samples(10, samples, tokenizer, **options)
    lines = [json.loads(text) for text in (tmp_path / "samples_step10.jsonl").read_text().splitlines()]
    return lines, tokenizer


def test_a_line_has_all_that_is_known_of_its_answer(tmp_path, monkeypatch):
    samples = [sample(0, 5, 0.0), sample(0, 7, 1.0), sample(1, 6, NAN), sample(1, 7, 1.0)]
    lines, _ = written(tmp_path, monkeypatch, samples)
    assert lines[1] == {
        "step": 10,
        "prompt": "prompt 0",
        "label": "7",
        "response": "<|channel|>final<|message|>so \\boxed{7}<|return|>",
        "answer": "7",
        "reward": 1.0,
        "correctness": 1.0,
        "response_length": 2.0,
        "truncated": 0.0,
        "adapter_version": 3.0,
        "reward/len": -0.5,
        "place": 1,
        "group": 0,
        "group_rank": 1,
        "kinds": lines[1]["kinds"],
    }
    assert [(r["group"], r["group_rank"]) for r in lines] == [(0, 2), (0, 1), (1, 2), (1, 1)]
    assert lines[2]["reward"] is None and lines[2]["kinds"] == ["masked"]


def test_the_same_prompt_twice_is_two_groups_where_their_size_is_known(tmp_path, monkeypatch):
    samples = [sample(0, 7, float(i)) for i in range(4)]
    lines, _ = written(tmp_path, monkeypatch, samples, group_size=2)
    assert [r["group"] for r in lines] == [0, 0, 1, 1] and [r["group_rank"] for r in lines] == [2, 1, 2, 1]
    lines, _ = written(tmp_path, monkeypatch, samples)
    assert [r["group"] for r in lines] == [0] * 4


def test_only_what_is_kept_is_decoded(tmp_path, monkeypatch):
    samples = [sample(i // 8, 7, float(i % 2)) for i in range(128)]
    lines, tokenizer = written(tmp_path, monkeypatch, samples)
    assert len(lines) == tokenizer.decoded == samples_log.KEPT
    assert {r["place"] for r in lines} != set(range(samples_log.KEPT))
