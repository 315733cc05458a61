"""The Ray cluster of a run: an own head, or one that exists and is joined.

An own head is started for one run, with free ports everywhere so that two runs can share a machine, and with a private
temp folder directly under /tmp, because Ray's unix sockets live in it and their paths end at 107 bytes. (Ray has no
passwords and listens on the node's own address: run it behind a firewall.) It is taken down by the launcher through
:class:`rft.processes.Family`; ``ray stop`` is never called, since that would end everybody's Ray. With ``RAY_ADDRESS``
set that cluster is joined and left up.

Raylets hand *their* environment to the workers, so the head is started with the whole environment of the run; workers
of a joined cluster get it as a job-level runtime environment (:func:`join_env`).

Errors: :class:`rft.errors.RftError` when the head does not come up or the address does not answer.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError
from rft.processes import Family, end

HOST = "127.0.0.1"
TEMP_PARENT = "/tmp"
PORTS = 6  # of a head's services, beside its own
START_S = 90.0  # a cold start of Ray takes 5 s on two idle cores
READY = "Ray runtime started."
CPU_OBJECT_STORE_MB = 512  # adapters and experiences of a CPU run are a few MB; Ray's default is 30 % of the memory
LOG_TAIL_BYTES = 2_000_000
# Variables that a joined cluster's workers need; the own head passes the whole environment on.
JOIN_PREFIXES = (
    "RFT_",
    "VLLM_",
    "NCCL_",
    "PYTORCH_",
    "DS_",
    "HF_HUB_OFFLINE",
    "HF_HOME",
    "OMP_",
    "TORCH",
)
# No API key: Ray shows a job's variables on its dashboard. A joined cluster has to be started with it.
JOIN_NAMES = (
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_LOCATION",
    "METRICS_LOG_DIR",
    "SAMPLES_LOG_DIR",
    "SPIKE_LOG_PATH",
    "PYTHONPATH",
    "TOKENIZERS_PARALLELISM",
)


@dataclass
class Cluster:
    """A cluster to run on; ``head`` is None for a joined one."""

    address: str
    head: subprocess.Popen | None = None
    temp_dir: Path | None = None

    def head_alive(self) -> bool:
        """False once an own head has ended; a joined one is not ours to watch."""
        return self.head is None or self.head.poll() is None

    def stop(self, wait_s: float = 8.0) -> None:
        """Asks the own head to take its processes down; what lingers is the Family's."""
        if self.head is not None:
            end(self.head, wait_s)

    def save_logs(self, folder: Path) -> None:
        """Copies the ends of Ray's own logs (raylet, gcs, workers) beside a failed run's log."""
        if self.temp_dir is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        sources = [self.temp_dir / "head.log", *(self.temp_dir / "session_latest" / "logs").glob("*")]
        for source in sources:
            with contextlib.suppress(OSError):
                if source.is_file() and source.stat().st_size:
                    (folder / source.name).write_bytes(_tail(source, LOG_TAIL_BYTES))

    def remove_temp(self) -> None:
        """After the processes are gone."""
        if self.temp_dir is not None:
            shutil.rmtree(self.temp_dir, ignore_errors=True)


def _tail(path: Path, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is not occupied
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def start_command(
    port: int, gpus: int | None, cpus: int | None, temp_dir: Path, object_store_bytes: int | None
) -> list[str]:
    """``ray start`` in the foreground; None = let Ray find out."""
    client, agent_http, agent_grpc, metrics, runtime_env, dashboard = free_ports(PORTS)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", f"--temp-dir={temp_dir}"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    # Fixed defaults that collide between two heads on one machine:
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent_http}"]
    command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"]
    command += [f"--runtime-env-agent-port={runtime_env}", f"--dashboard-port={dashboard}"]
    if cpus is not None:
        command.append(f"--num-cpus={cpus}")
    if gpus is not None:
        command.append(f"--num-gpus={gpus}")
    if object_store_bytes is not None:
        command.append(f"--object-store-memory={object_store_bytes}")
    return command


def start_head(
    family: Family,
    env: dict[str, str],
    cwd: Path,
    gpus: int | None,
    cpus: int | None,
    port: int | None = None,
    object_store_bytes: int | None = None,
    timeout_s: float = START_S,
) -> Cluster:
    """Starts an own head and waits until it answers.

    gpus   logical GPUs to hand out (a machine without GPUs can hand out as many as the recipe has ranks); None = real
    cpus   likewise
    port   a port asked for; None = any free one, and another where somebody takes it first
    """
    attempts = 1 if port else 3
    for attempt in range(attempts):
        chosen = port or free_ports(1)[0]
        temp_dir = Path(tempfile.mkdtemp(prefix="rft-", dir=TEMP_PARENT))
        cluster = Cluster(f"{HOST}:{chosen}", None, temp_dir)
        try:
            with open(temp_dir / "head.log", "wb") as log:
                command = start_command(chosen, gpus, cpus, temp_dir, object_store_bytes)
                cluster.head = family.start(command, _head_env(env), cwd, log)
            _wait_ready(cluster, timeout_s)
            return cluster
        except RftError:
            cluster.stop()
            family.stop()
            cluster.remove_temp()
            if attempt == attempts - 1:
                raise
        except BaseException:  # interrupted while waiting: the caller stops the family, the folder is known only here
            cluster.stop()
            family.stop()
            cluster.remove_temp()
            raise
    raise AssertionError("unreachable")


def _head_env(env: dict[str, str]) -> dict[str, str]:
    ours = {key: value for key, value in env.items() if key != "RAY_ADDRESS"}
    ours["RAY_prestart_worker_first_driver"] = "0"  # else one idle Python process per logical CPU
    ours["RAY_USAGE_STATS_ENABLED"] = "0"
    return ours


def _wait_ready(cluster: Cluster, timeout_s: float) -> None:
    log, deadline = cluster.temp_dir / "head.log", time.monotonic() + timeout_s
    host, port = cluster.address.split(":")
    while time.monotonic() < deadline:
        if cluster.head.poll() is not None:
            raise RftError(f"Ray head on port {port} ended at once ({_why(log)}): free the port or set RFT_RAY_PORT")
        if READY in log.read_text(errors="replace") and _answers(host, int(port)):
            return
        time.sleep(0.1)
    late = f"did not answer within {timeout_s:.0f} s ({_why(log)})"
    raise RftError(f"Ray head on port {port} {late}: is the machine busy?")


def _why(log: Path) -> str:
    """The most telling line of the head's log."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line or "error" in line]
    return (errors or lines or ["it said nothing"])[-1][:200]


def _answers(host: str, port: int, timeout_s: float = 2.0) -> bool:
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


def join(address: str) -> Cluster:
    """Checks that a Ray GCS answers at RAY_ADDRESS; starts nothing.

    raises RftError for a form that is not host:port, and where no Ray of this version answers
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise RftError(f"RAY_ADDRESS={address}: give host:port of the head node (as `ray start --head` prints it)")
    remedy = "start that cluster or unset RAY_ADDRESS to get an own one"
    if not _answers(host, int(port), 5.0):
        raise RftError(f"RAY_ADDRESS={address}: nothing answers there; {remedy}")
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        healthy = subprocess.run(check, capture_output=True, timeout=60, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise RftError(f"RAY_ADDRESS={address}: a port answers, but no healthy Ray of this version; {remedy}")
    return Cluster(address)


def join_env(env: dict[str, str]) -> dict[str, str]:
    """The variables that make ray.init give a joined cluster's workers the run's environment.

    What OpenRLHF itself passes to ray.init wins where both name a variable; without the second entry Ray would refuse.
    """
    chosen = {k: v for k, v in env.items() if k.startswith(JOIN_PREFIXES) or k in JOIN_NAMES}
    config = json.dumps({"runtime_env": {"env_vars": chosen}})
    return {"RAY_JOB_CONFIG_JSON_ENV_VAR": config, "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}
