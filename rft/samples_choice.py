"""Which answers of a rollout are worth keeping: some of every kind, from as many prompts as there are.

Called by `rft.samples_log` in the controller at every save. Pure functions over records, one a sample, with `group`
(its prompt's number in the rollout), `reward` (NaN where masked), `response_length`, and where the reward logs them
`correctness`, `truncated`, `truncated_response`. Kinds:

    best, worst, median  by reward; among equal rewards by the distance from their group's mean, then by length
    truncated            hit the token limit, or no end marker
    disagreeing          reward and correctness contradict each other (reward > 0.5 and wrong, or ≤ 0.5 and right);
                         then answers that are right in a group that is mostly wrong, or the other way round
    masked               without a reward
"""

import itertools
import math
import statistics
from collections import Counter, defaultdict

HIGH_REWARD = 0.5
KINDS = ("best", "worst", "median", "truncated", "disagreeing", "masked")


def group_ranks(records: list[dict]) -> list[int]:
    """Place of each sample's reward in its group, 1 the highest; equal rewards share a place, masked ones come last."""
    groups = defaultdict(list)
    for record in records:
        groups[record["group"]].append(_reward(record))
    return [1 + sum(other > _reward(record) for other in groups[record["group"]]) for record in records]


def choose(records: list[dict], limit: int) -> list[dict]:
    """At most `limit` records in the rollout's order, each with `kinds`: what it was taken for, maybe several.

    Every kind gets an equal share, a prompt's second sample only after every prompt's first; what kinds leave free is
    filled evenly from the rest, whose `kinds` are empty. Deterministic.
    """
    if limit < 1:
        return []
    candidates = {kind: _spread(records, places) for kind, places in _candidates(records).items() if places}
    share = max(1, limit // max(1, len(candidates)))
    taken: dict[int, list[str]] = {}
    for turn in range(share):
        for kind, places in candidates.items():
            if turn < len(places) and (places[turn] in taken or len(taken) < limit):
                taken.setdefault(places[turn], []).append(kind)
    rest = [place for place in range(len(records)) if place not in taken]
    missing = min(limit - len(taken), len(rest))
    for i in range(missing):
        taken[rest[i * len(rest) // missing]] = []
    return [{**records[place], "kinds": kinds} for place, kinds in sorted(taken.items())]


def _candidates(records: list[dict]) -> dict[str, list[int]]:
    """Places of the records of each kind, the most telling first."""
    rewarded = [i for i, record in enumerate(records) if not math.isnan(record["reward"])]
    lead, lengths = _leads(records), [record.get("response_length", 0) for record in records]
    reward = [record["reward"] for record in records]
    middle = statistics.median(reward[i] for i in rewarded) if rewarded else 0.0
    middle_length = statistics.median(lengths) if lengths else 0.0
    cut = [i for i, r in enumerate(records) if _flag(r, "truncated") or _flag(r, "truncated_response")]
    return {
        "best": sorted(rewarded, key=lambda i: (-reward[i], -lead[i], -lengths[i])),
        "worst": sorted(rewarded, key=lambda i: (reward[i], lead[i], -lengths[i])),
        "median": sorted(rewarded, key=lambda i: (abs(reward[i] - middle), abs(lengths[i] - middle_length))),
        "truncated": sorted(cut, key=lambda i: -lengths[i]),
        "disagreeing": _disagreeing(records),
        "masked": [i for i, record in enumerate(records) if math.isnan(record["reward"])],
    }


def _disagreeing(records: list[dict]) -> list[int]:
    known = [i for i, record in enumerate(records) if not math.isnan(record.get("correctness", math.nan))]
    against = [i for i in known if (records[i]["reward"] > HIGH_REWARD) != (records[i]["correctness"] > 0)]
    against = [i for i in against if not math.isnan(records[i]["reward"])]
    groups = defaultdict(list)
    for i in known:
        groups[records[i]["group"]].append(i)
    lonely: list[tuple[float, int]] = []
    for places in groups.values():
        share = sum(records[i]["correctness"] > 0 for i in places) / len(places)
        for i in places:
            alike = share if records[i]["correctness"] > 0 else 1 - share  # of its group, itself included
            if alike < 0.5:
                lonely.append((alike, i))
    return against + [i for _, i in sorted(lonely) if i not in set(against)]


def _leads(records: list[dict]) -> list[float]:
    """Reward less the mean of the group's rewards."""
    groups = defaultdict(list)
    for record in records:
        if not math.isnan(record["reward"]):
            groups[record["group"]].append(record["reward"])
    means = {group: statistics.fmean(rewards) for group, rewards in groups.items()}
    return [record["reward"] - means.get(record["group"], 0.0) for record in records]


def _spread(records: list[dict], places: list[int]) -> list[int]:
    """The same places, every group's first before any group's second."""
    seen: Counter = Counter()
    rounds: dict[int, list[int]] = defaultdict(list)
    for place in places:
        group = records[place]["group"]
        rounds[seen[group]].append(place)
        seen[group] += 1
    return list(itertools.chain.from_iterable(rounds[turn] for turn in sorted(rounds)))


def _reward(record: dict) -> float:
    return -math.inf if math.isnan(record["reward"]) else record["reward"]


def _flag(record: dict, name: str) -> bool:
    return record.get(name, 0.0) > 0
