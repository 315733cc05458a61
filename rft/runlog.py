"""The cause of a failed run, found in its log.

The log is the training process's output with the workers' lines relayed by Ray, prefixed ``(Actor pid=…)``. Pure
functions over a file, called by the launcher after the training process has ended.
"""

import re
import signal
from pathlib import Path

TAIL_BYTES = 4_000_000
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_REPEATED = re.compile(r"\s*\[repeated \d+x across cluster\].*$")
_WORKER = re.compile(r"^\([^()]*pid=[^()]*\)\s*")
_OURS = re.compile(r"\brft\.errors\.RftError: (.+)$")
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Timeout|Exit|Interrupt)(?:\([\w.]+\))?(?::|$)")
# Wrappers that say where something was noticed, not what: used only where nothing better stands in the log.
_WRAPPERS = ("RayTaskError", "RayActorError", "SystemExit", "KeyboardInterrupt", "RuntimeError: Engine core init")


def cause(log: Path, returncode: int) -> str:
    """One line: the last RftError of the log, else the last exception, else how the process ended.

    The main process's own traceback (lines without a worker prefix) is preferred to the workers' noise at shutdown.
    """
    lines = [_REPEATED.sub("", _ANSI.sub("", line)).rstrip() for line in _tail_lines(log)]
    ours = [match.group(1) for line in lines if (match := _OURS.search(line))]
    if ours:
        return ours[-1]
    main = [line.strip() for line in lines if not _WORKER.match(line)]
    workers = [_WORKER.sub("", line).strip() for line in lines if _WORKER.match(line)]
    for wrappers in (False, True):
        for group in (main, workers):
            hits = [line for line in group if _EXCEPTION.match(line)]
            hits = [line for line in hits if wrappers or not any(word in line for word in _WRAPPERS)]
            if hits:
                return hits[-1]
    return ending(returncode)


def ending(returncode: int) -> str:
    """``exit status 3``, or the signal's name, with what SIGKILL usually means."""
    if returncode >= 0:
        return f"the training process ended with exit status {returncode} and no exception in the log"
    name = signal.Signals(-returncode).name
    return f"the training process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _tail_lines(log: Path) -> list[str]:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, Path(log).stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
