"""``--resume auto``: the run to continue, found without being named, with a word about everything passed over.

Called by the launcher before anything starts, so that the same command line starts a run and, after any end, goes on
with it. No torch.
"""

from pathlib import Path

from rft import runs
from rft.disk.whole import checkpoints, verify
from rft.errors import RftError

AUTO = "auto"


def resolve(resume: str | None, name: str, say=print) -> str | None:
    """What --resume means: `resume` itself unless it is ``auto``; for that the id of a run, or None to start anew.

    name    --name: only runs of that name are looked at, the newest start first
    raises  RftError while one of them is still running
    """
    if resume != AUTO:
        return resume
    found = [(runs.read_json(file), file.parent) for file in runs.runs_dir().glob(f"*/{runs.RUN_FILE}")]
    ours = sorted(
        (pair for pair in found if pair[0].get("name") == name), key=lambda pair: -(pair[0].get("start") or 0)
    )
    for _, folder in ours:
        if runs.describe(folder)["status"] == "running":
            raise RftError(f"--resume auto: {folder.name} is still running; end it first (SIGTERM saves and ends it)")
    for record, folder in ours:
        newest, skipped = whole(Path(record["paths"]["ckpt"]))
        for line in skipped:
            say(f"--resume auto: skipped {line}")
        if newest is not None:
            say(f"--resume auto: continuing {folder.name} from {newest.name}")
            return folder.name
        if not skipped:
            say(f"--resume auto: skipped {folder.name}: it saved no checkpoint")
    say(f"--resume auto: nothing to continue of --name {name} in {runs.runs_dir()}; starting anew")
    return None


def whole(ckpt_path: Path) -> tuple[Path | None, list[str]]:
    """(the newest checkpoint that can be continued or None, what is wrong with each newer one)."""
    wrong = []
    for folder in reversed(checkpoints(ckpt_path)):
        problem = problem_of(folder)
        if problem is None:
            return folder, wrong
        wrong.append(f"{folder.name}: {problem}")
    return None, wrong


def problem_of(folder: Path) -> str | None:
    """None if a run can be continued from `folder`."""
    problem = verify(folder)
    if problem is None and not (folder / "resume" / "state.json").is_file():
        problem = "it holds no resume state"
    return problem
