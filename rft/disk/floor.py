"""The floor under a training run: a warning while there is room to act, an end with a checkpoint while there is room
for one.

Called by the patched ``PPOTrainer`` in the controller process, once a step. Looks at every file system that the run
writes to (statvfs: microseconds). F = $RFT_MIN_FREE_GB (2), C = bytes of a checkpoint (of the newest, else computed):

    warns  below F, where checkpoints go below F + 2 C
    stops  below F / 4, where checkpoints go below F / 4 + 2 C: the last save needs C
"""

import shutil
import tempfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from rft import inputs, runs
from rft.disk.usage import Counter, existing, size
from rft.disk.whole import checkpoints
from rft.errors import RftError

STOP_SHARE = 0.25
TOKENIZER_BYTES = 32 << 20  # gpt-oss's tokenizer files lie in every checkpoint
AGAIN = 0.9  # warned again once a tenth of what was left is gone


@dataclass(frozen=True)
class Low:
    """One file system under its floor."""

    path: Path
    free: int
    stop_below: int
    warn_below: int

    @property
    def stops(self) -> bool:
        return self.free < self.stop_below


class DiskFloor:
    """One a run.

    args  the training flags: ckpt_path, and what the size of a checkpoint follows from
    env   os.environ: METRICS_LOG_DIR, SAMPLES_LOG_DIR, RFT_RUN_DIR, RFT_RUN_ID, RFT_MIN_FREE_GB
    """

    def __init__(self, args: Namespace, env: dict[str, str]):
        self.args, self.run_id = args, env.get("RFT_RUN_ID")
        self.ckpt = Path(args.ckpt_path)
        names = ("METRICS_LOG_DIR", "SAMPLES_LOG_DIR", "RFT_RUN_DIR")
        self.places = [self.ckpt, *(Path(env[name]) for name in names if env.get(name)), Path(tempfile.gettempdir())]
        self.floor = int(float(env.get("RFT_MIN_FREE_GB") or inputs.MIN_FREE_GB) * 1e9)
        self.warned: dict[Path, int] = {}
        self.stopping: Low | None = None

    def checkpoint_bytes(self) -> int:
        """What the next checkpoint takes."""
        there = checkpoints(self.ckpt)
        if there:
            return Counter().tree(there[-1])
        return inputs.checkpoint_bytes(self.args, runs.REPO) + TOKENIZER_BYTES

    def look(self) -> list[Low]:
        """Every file system under its floor, the emptiest first."""
        found: dict[int, Low] = {}
        for place in self.places:
            there = existing(place)
            device = there.stat().st_dev
            if device in found:
                continue
            extra = 2 * self.checkpoint_bytes() if device == existing(self.ckpt).stat().st_dev else 0
            free = shutil.disk_usage(there).free
            found[device] = Low(place, free, int(STOP_SHARE * self.floor) + extra, self.floor + extra)
        return sorted((low for low in found.values() if low.free < low.warn_below), key=lambda low: low.free)

    def reached(self) -> bool:
        """Must this step be the last? Warns where it need not yet be; True from the first True on."""
        for low in self.look():
            if low.stops:
                self.stopping = self.stopping or low
            elif low.free < AGAIN * self.warned.get(low.path, 1 << 62):
                self.warned[low.path] = low.free
                stop = f"the run saves and stops below {size(low.stop_below)}"
                print(f"warning: {low.path}: {size(low.free)} free; {stop}; see rft disk --prune", flush=True)
        return self.stopping is not None

    def stop(self, step: int) -> None:
        """Ends the run if :meth:`reached` said so; called when the checkpoint of `step` is in place.

        raises  RftError: the disk's path, what is free, and how to go on
        """
        if self.stopping is not None:
            low, again = self.stopping, f"--resume {self.run_id}" if self.run_id else "--load_checkpoint"
            raise RftError(
                f"{low.path}: {size(low.free)} free, under the floor of {size(low.stop_below)}: stopped with a "
                f"checkpoint of step {step}; free space (rft disk --prune), then continue with {again}"
            )
