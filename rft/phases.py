"""Where the seconds of a step went: laps of one clock, and how much of the rollout was waiting for rewards.

`StepClock` runs in the controller (rft/step_log.py). Each lap books the time since the previous one to a phase and the
clock never stops, so that the phases of a line add up to the wall time since the previous line, whatever happens in
between. Rewards are computed in the engines' processes while other answers are still sampled; what they cost the run
is the time from the last sampled token of the rollout to its last reward. `mark_sampled` and `waited` measure each
prompt's share of that in the engine's process, by its own clock; `RewardTail` puts them together in the controller, by
the controller's: clocks of two processes are never compared. Seconds throughout.
"""

import time
from collections.abc import Callable

from rft.metrics import PHASES

SAMPLED_AT, REWARD_TAIL = "sampled_at_s", "reward_tail_s"


class StepClock:
    """Not thread-safe: one clock, one thread.

    now  a monotonic clock
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._lapped: float | None = None  # None: nothing has begun
        self.booked = dict.fromkeys(PHASES, 0.0)

    def start(self) -> None:
        """A step begins: the first call starts the clock, later ones book what is not booked yet to ``other``."""
        if self._lapped is None:
            self._lapped = self._now()
        else:
            self.lap("other")

    def lap(self, phase: str) -> float:
        """Book the time since the last lap to `phase`; the seconds booked, 0.0 before the first `start`."""
        if self._lapped is None:
            return 0.0
        now = self._now()
        seconds, self._lapped = now - self._lapped, now
        self.booked[phase] = self.booked.get(phase, 0.0) + seconds
        return seconds

    def move(self, seconds: float, source: str, target: str) -> None:
        """Book up to `seconds` of `source` to `target` instead; never more than `source` has."""
        moved = max(0.0, min(seconds, self.booked[source]))
        self.booked[source] -= moved
        self.booked[target] += moved

    def take(self) -> dict[str, float]:
        """Seconds of each phase since the last call, those up to now included, and begin anew."""
        self.lap("other")
        taken, self.booked = self.booked, dict.fromkeys(PHASES, 0.0)
        return taken


def mark_sampled(output: dict, now: Callable[[], float] = time.monotonic) -> None:
    """Engine's process: the answer `output` has all its tokens; its reward is about to be asked for."""
    output[SAMPLED_AT] = now()


def waited(outputs: list[dict], now: Callable[[], float] = time.monotonic) -> list[dict]:
    """Engine's process, once all answers to a prompt have their rewards: how long they waited for that.

    Replaces each output's own time stamp by ``reward_tail_s``, the seconds since the last of them was sampled; 0.0
    where none is marked. Returns `outputs`.
    """
    stamps = [output.pop(SAMPLED_AT) for output in outputs if SAMPLED_AT in output]
    tail = max(0.0, now() - max(stamps)) if stamps else 0.0
    for output in outputs:
        output[REWARD_TAIL] = tail
    return outputs


class RewardTail:
    """Controller: collects the prompts of one rollout as they arrive.

    now  the clock of the step's laps
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now = now
        self._sampled: float | None = None

    def arrived(self, outputs: list[dict]) -> None:
        """One prompt's answers are there, as `waited` left them."""
        tail = max((output.get(REWARD_TAIL) or 0.0 for output in outputs), default=0.0)
        sampled = self._now() - tail
        self._sampled = sampled if self._sampled is None else max(self._sampled, sampled)

    def seconds(self) -> float:
        """From the rollout's last sampled token until now; forgets the rollout."""
        sampled, self._sampled = self._sampled, None
        return 0.0 if sampled is None else max(0.0, self._now() - sampled)
