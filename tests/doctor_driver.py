"""A launcher's main loop alone: ``python doctor_driver.py RUN_FOLDER CODE`` supervises ``python -c CODE``.

Prints the outcome as one line: ``returned N``, ``interrupted SIGTERM`` or ``error: …``.
"""

import os
import sys
from pathlib import Path

from rft import runs
from rft.doctor import deaths
from rft.errors import RftError
from rft.processes import Family
from rft.progress import Progress
from rft.supervise import Interrupted, Signals, supervise

deaths.LOOK_S = 0.2
deaths.LINGER_S = float(os.environ.get("LINGER_S", deaths.LINGER_S))
folder = Path(sys.argv[1])
env = {**os.environ, "METRICS_LOG_DIR": str(folder / "metrics"), "RFT_RUN_DIR": str(folder), "RFT_RUN_ID": folder.name}
runs.write_json(
    folder / "run.json",
    {
        **runs.read_json(folder / "run.json"),
        "pid": os.getpid(),
        "pid_started": int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]),
    },
)
family = Family()
progress = Progress(folder / "metrics" / runs.METRICS_FILE, from_end=True)
command = [sys.executable, "-u", "-c", sys.argv[2]]
with Signals() as signals:
    try:
        print("returned", supervise(family, command, env, Path.cwd(), folder / "log.txt", progress), flush=True)
    except Interrupted as stop:
        print("interrupted", stop.name, flush=True)
    except RftError as error:
        print(f"error: {error}", flush=True)
    finally:
        signals.hush()
        family.stop()
