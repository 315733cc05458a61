"""The best checkpoint by the recipe's own evaluation, kept beside the latest ones under the name ``best``.

Best: the highest accuracy among evaluated steps whose checkpoint stands, of equals the earliest; greedy evaluations
decide where there are any, else the first other mode. ``<ckpt_path>/best`` is a relative link, replaced in one move;
what it leads to is not counted by --max_ckpt_num and not deleted. `mark` is called by the patched ``PPOTrainer`` in the
controller process after each evaluation; `kept` by whoever deletes checkpoints. No torch.
"""

import os
from pathlib import Path

from rft import metrics_file, runs
from rft.disk.whole import TAG, verify

LINK = "best"


def scores(lines: list[dict]) -> dict[int, float]:
    """step -> accuracy, of the lines of ``training_metrics.jsonl``; greedy ones where there are any.

    A step that was evaluated twice (a continued run) has its later accuracy.
    """
    found = [line for line in lines if line.get("event") == "eval" and isinstance(line.get("accuracy"), int | float)]
    greedy = [line for line in found if str(line.get("mode", "")).startswith("greedy")]
    chosen = greedy or [line for line in found if line.get("mode") == found[0].get("mode")]
    return {line["step"]: line["accuracy"] for line in chosen if isinstance(line.get("step"), int)}


def mark(ckpt_path: str | Path) -> Path | None:
    """Let ``best`` lead to the best checkpoint that stands and is whole; the folder, None where there is none yet."""
    ckpt = Path(ckpt_path)
    accuracy = scores(runs.metrics_lines(Path(metrics_file.folder()) / runs.METRICS_FILE))
    for step in sorted(accuracy, key=lambda step: (-accuracy[step], step)):
        folder = ckpt / f"global_step{step}_hf"
        if folder.is_dir() and verify(folder) is None:
            if (ckpt / LINK).is_dir() and not (ckpt / LINK).is_symlink():
                print(f"warning: {ckpt / LINK} is a folder, where a link belongs (a copy?); left as it is", flush=True)
            elif kept(ckpt) != folder:
                _link(ckpt, folder.name)
                print(f"best checkpoint so far: {folder.name}, accuracy {accuracy[step]:.3f}", flush=True)
            return folder
    return None


def kept(ckpt_path: str | Path) -> Path | None:
    """The checkpoint that ``best`` leads to; None where it leads nowhere."""
    link = Path(ckpt_path) / LINK
    try:
        name = os.readlink(link)
    except OSError:
        return None
    return link.with_name(name) if TAG.fullmatch(name) and link.with_name(name).is_dir() else None


def _link(ckpt: Path, name: str) -> None:
    part = ckpt / f".{LINK}.{os.getpid()}"
    part.unlink(missing_ok=True)
    part.symlink_to(name, target_is_directory=True)
    os.replace(part, ckpt / LINK)
