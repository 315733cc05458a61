"""Real Ray heads: up, answering, down, and nothing left; joining; ports."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from rft import cluster
from rft.errors import RftError

REPO = Path(__file__).parent.parent
# A process of its own: it becomes a subreaper and stops all that descends from it.
TWO_HEADS = """
import os, subprocess, sys
from pathlib import Path
from rft import cluster
from rft.processes import Family
family = Family()
heads = [cluster.start_head(family, dict(os.environ), Path.cwd(), 4, 6, object_store_bytes=100 << 20) for _ in range(2)]
def ask(head):
    code = "import ray; ray.init(logging_level=50); print(int(ray.cluster_resources()['GPU']), len(ray.nodes()))"
    env = {**os.environ, "RAY_ADDRESS": head.address}
    print(subprocess.check_output([sys.executable, "-c", code], env=env, text=True))
for head in heads:
    ask(head)
print(cluster.join(heads[0].address).head)
pids = [process.pid for process in family.members()]
heads[0].stop()
ask(heads[1])
heads[1].stop()
print(family.stop(), len(pids))
heads[0].save_logs(Path(sys.argv[1]))
for head in heads:
    head.remove_temp()
print("PIDS", *pids)
"""


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"PYTHONPATH": str(REPO)}


@pytest.mark.engine
def test_two_heads_at_once_and_nothing_left(tmp_path):
    before = set(Path("/tmp").glob("rft-*"))
    command = [sys.executable, "-c", TWO_HEADS, str(tmp_path / "ray")]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=280, cwd=REPO, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line]
    assert done.returncode == 0, done.stderr
    assert lines[:4] == ["4 1", "4 1", "None", "4 1"]  # each its own cluster; the second outlives the first
    survivors, count = lines[4].rsplit(" ", 1)
    assert survivors == "[]" and int(count) >= 10
    assert [pid for pid in map(int, lines[5].split()[1:]) if psutil.pid_exists(pid)] == []
    assert set(Path("/tmp").glob("rft-*")) <= before
    assert (tmp_path / "ray" / "head.log").read_text().count(cluster.READY) == 1
    assert list((tmp_path / "ray").glob("gcs_server*"))


@pytest.mark.engine
def test_occupied_port_is_one_clear_line():
    code = "import os, sys; from pathlib import Path; from rft import cluster; from rft.processes import Family\n"
    code += "from rft.errors import RftError\ntry:\n cluster.start_head(Family(), dict(os.environ), Path.cwd(), 1, 1, "
    code += "port=int(sys.argv[1]), timeout_s=30)\nexcept RftError as err: print(err)"
    before = set(Path("/tmp").glob("rft-*"))
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", code, str(port)]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=120, cwd=REPO, check=True
        )
    assert done.stdout.startswith(f"Ray head on port {port} ") and done.stdout.count("\n") == 1
    assert set(Path("/tmp").glob("rft-*")) <= before


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("auto", "RAY_ADDRESS=auto: give host:port"),
        ("ray://x:10001", "RAY_ADDRESS=ray://x:10001: give host:port"),
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: nothing answers there"),
    ],
)
def test_join_says_what_is_wrong(address, message):
    with pytest.raises(RftError, match=message):
        cluster.join(address)


def test_join_tells_ray_from_another_server():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(RftError, match="a port answers, but no healthy Ray"):
            cluster.join(f"127.0.0.1:{other.getsockname()[1]}")


def test_join_env_carries_the_run_and_no_secret():
    env = cluster.join_env(
        {"METRICS_LOG_DIR": "/m", "RFT_RUN_ID": "x", "AWS_SECRET": "s", "HF_TOKEN": "t", "HOME": "/h"}
    )
    config = '{"runtime_env": {"env_vars": {"METRICS_LOG_DIR": "/m", "RFT_RUN_ID": "x"}}}'
    assert env == {"RAY_JOB_CONFIG_JSON_ENV_VAR": config, "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1"}


def test_ports_are_free_and_different():
    ports = cluster.free_ports(20)
    assert len(set(ports)) == 20 and all(map(cluster.port_is_free, ports))
    command = cluster.start_command(6379, None, None, Path("/tmp/x"), None)
    assert not any("num-gpus" in word or "num-cpus" in word for word in command) and "--block" in command
