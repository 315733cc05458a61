"""An engine's processes end with the program that started them, however it ends (rft/evals/worker.py)."""

import subprocess
import sys

import psutil
import pytest

RANK = "import rft.evals.worker, time; print('up', flush=True); time.sleep(600)"
CORE = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {RANK!r}])"


@pytest.mark.parametrize("engine, processes", [(RANK, 1), (CORE, 2)], ids=["one rank", "a core and its rank"])
def test_no_orphans(engine, processes):
    program = (
        "import os, subprocess, sys, time\n"
        "from rft.evals.engine import PROGRAM\n"
        "os.environ[PROGRAM] = str(os.getpid())\n"
        f"subprocess.Popen([sys.executable, '-c', {engine!r}])\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "up\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == processes and all(child.is_running() for child in children)
    finally:
        process.kill()
        process.wait()
    gone, alive = psutil.wait_procs(children, timeout=60)
    for child in alive:
        child.kill()
    assert not alive and len(gone) == processes


def test_without_a_program_nothing_is_watched():
    code = "import threading, rft.evals.worker; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
