"""When a gradient is a spike, and what then: the rule and the policy of ``--spike_grad_norm``, ``--spike_zscore`` and
``--on_spike``.

Used by `rft.spike` on every ZeRO rank. The norm is the same on all of them, and so is what is decided: a rank that
skipped alone would leave the others waiting in a collective. Nothing here needs torch.
"""

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

from rft.errors import RftError

POLICIES = ("log", "skip", "stop")
WINDOW = 64  # optimizer steps that the z-score looks back on
MIN_HISTORY = 16  # of them, before it says anything
MAD_TO_SIGMA = 1.4826  # of a normal distribution
LEAST_SPREAD = 0.05  # of the median: norms that hardly differ must not make every next one a spike
PATIENCE = 3  # optimizer steps in a row that are not finite


@dataclass(frozen=True)
class Verdict:
    """reason: threshold, zscore or nonfinite; None: no spike. zscore: None without history or where it is off."""

    norm: float
    reason: str | None = None
    zscore: float | None = None
    skip: bool = False
    stop: str | None = None  # the message to stop with

    @property
    def action(self) -> str:
        return "stopped" if self.stop else "skipped" if self.skip else "logged"


class SpikeRule:
    """threshold  2-norm of the whole gradient before clipping; 0: no fixed limit
    zscore     robust z-score over the median of the last `WINDOW` norms; 0: none
    on_spike   "log": the step is taken; "skip": it is not; "stop": the run ends. One that is not finite is never taken,
               and the third in a row stops the run whatever the policy
    raises     RftError if a limit is negative or no number, or the policy is unknown
    """

    def __init__(self, threshold: float = 50.0, zscore: float = 0.0, on_spike: str = "log"):
        for flag, value in (("--spike_grad_norm", threshold), ("--spike_zscore", zscore)):
            if not value >= 0:
                raise RftError(f"{flag} is {value}: give a positive limit, or 0 for none")
        if on_spike not in POLICIES:
            raise RftError(f"--on_spike is {on_spike!r}: give one of {', '.join(POLICIES)}")
        self.threshold, self.zscore, self.on_spike = threshold, zscore, on_spike
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.nonfinite_in_a_row = 0

    def judge(self, norm: float) -> Verdict:
        """To be called once an optimizer step, before it is taken, with its norm."""
        if not math.isfinite(norm):
            self.nonfinite_in_a_row += 1
            stop = None
            if self.nonfinite_in_a_row >= PATIENCE:
                stop = (
                    f"the gradient was not finite in {self.nonfinite_in_a_row} optimizer steps in a row; none was "
                    "taken: look at spike_log.jsonl for the prompts and at the dumps beside it (rft replay-spike)"
                )
            elif self.on_spike == "stop":
                stop = self._stopped("not finite")
            return Verdict(norm, "nonfinite", None, skip=True, stop=stop)
        self.nonfinite_in_a_row = 0
        z = self._zscore(norm)
        self.recent.append(norm)
        over = self.threshold > 0 and norm > self.threshold
        if not over and not (z is not None and z > self.zscore):
            return Verdict(norm, None, z)
        limit = f"{norm:.4g}, above {self.threshold:g}" if over else f"{norm:.4g}, {z:.1f} deviations above the median"
        stop = self._stopped(limit) if self.on_spike == "stop" else None
        return Verdict(norm, "threshold" if over else "zscore", z, skip=self.on_spike != "log", stop=stop)

    def _zscore(self, norm: float) -> float | None:
        if self.zscore == 0 or len(self.recent) < MIN_HISTORY:
            return None
        middle = median(self.recent)
        spread = max(MAD_TO_SIGMA * median(abs(x - middle) for x in self.recent), LEAST_SPREAD * middle)
        return (norm - middle) / spread if spread > 0 else (math.inf if norm > middle else 0.0)

    def _stopped(self, found: str) -> str:
        return (
            f"grad_norm is {found}, and --on_spike is stop: see spike_log.jsonl, replay its dump with rft "
            "replay-spike; --on_spike skip goes on without the step"
        )
