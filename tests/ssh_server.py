"""A real sshd on loopback, with keys, host key and configuration of its own, in a mount namespace with a small disk."""

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SSHD = "/usr/sbin/sshd"
PROGRAMS = (SSHD, "rsync", "tmux", "ssh", "unshare")
CONFIG = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
MaxStartups 100
SetEnv TMUX_TMPDIR={folder}
"""
FULL_MB = 2


def missing() -> str | None:
    """What is not installed here; None where nothing is missing."""
    return next((program for program in PROGRAMS if shutil.which(program) is None), None)


@dataclass
class Server:
    """full: a file system of FULL_MB that only the server sees."""

    folder: Path
    port: int
    process: subprocess.Popen

    @property
    def key(self) -> Path:
        return self.folder / "user"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def full(self) -> Path:
        return self.folder / "full"

    def seen(self) -> Path:
        """`full`, as this process can reach it."""
        return Path(f"/proc/{self.process.pid}/root{self.full}")

    def tmux(self, *args: str) -> subprocess.CompletedProcess:
        command = ["tmux", "-S", self.socket(), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def socket(self) -> str:
        return str(next(self.folder.glob("tmux-*/rft"), self.folder / "none"))

    def stop(self) -> None:
        self.tmux("kill-server")
        self.process.terminate()
        self.process.wait(10)


def make_key(path: Path) -> str:
    """A key pair; its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(folder: Path) -> Server:
    """raises  AssertionError with sshd's own words: it does not come up"""
    port = free_port()
    host, user = make_key(folder / "host"), make_key(folder / "user")
    (folder / "authorized").write_text(user)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host.split()[:2])}\n")
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    (folder / "full").mkdir()
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants its empty folder
    inner = 'mount -t tmpfs -o size="$1" none "$2"; exec "$3" -D -e -f "$4"'
    words = ["unshare", "-m", "sh", "-c", inner, "sh", f"{FULL_MB}m", folder / "full", SSHD, folder / "config"]
    with open(folder / "sshd.log", "w") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while "Server listening" not in (folder / "sshd.log").read_text():
        assert process.poll() is None, (folder / "sshd.log").read_text()
        time.sleep(0.05)
    return Server(folder, port, process)
