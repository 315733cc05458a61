"""Our part of vLLM's workers: the way to hand them an adapter, and an end when the program ends.

vLLM imports this in each tensor-parallel worker (``worker_extension_cls``) before it loads weights. It leaves its
engine running when the program that started it is killed, and an orphan keeps a GPU's memory for good: so a thread here
waits for the end of that program, then kills the engine's core process and its own. Standard library at import.
"""

import os
import select
import signal
import threading

from rft.evals.engine import PROGRAM


class EvalWorker:
    """What vLLM mixes into its worker class."""

    def apply_lora_update(self, note: dict) -> dict:
        """Take the adapter that lies in the engine's buffer; the certificate of what this rank then holds."""
        from rft import engine_lora

        return engine_lora.apply_update(self.model_runner.get_model(), note)


def _end_with(program: int, parent: int) -> None:
    """Waits for the end of `program`. parent: of this process when it started, the program itself or the core."""
    try:
        handle = os.pidfd_open(program)
    except ProcessLookupError:
        handle = None
    if handle is not None:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        waiting.poll()
    if os.getppid() == parent != program:  # one of several ranks; a single one lives in the core process itself
        os.kill(parent, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


_program = int(os.environ.get(PROGRAM) or 0)
if _program not in (0, os.getpid()):
    threading.Thread(target=_end_with, args=(_program, os.getppid()), name="end-with-program", daemon=True).start()
