"""ssh and rsync to one machine, over one connection; every refusal is one line that says what to do.

Scripts run in bash there with their values as arguments, so that no path is ever part of a script. Main thread.
"""

import contextlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rft.errors import RftError
from rft.spare.config import Host

CONNECT_S, ALIVE_S, ALIVE_COUNT = 10, 15, 4
FULL = re.compile(r"No space left on device|Disk quota exceeded")
PERCENT = re.compile(r"(\d+)%")
RSYNC_CUT = (12, 20, 30, 35, 255)  # protocol stream, signal, time-outs, connection


class Remote:
    """A machine; use as a context: the connection is closed at its end."""

    def __init__(self, host: Host):
        self.host = host
        for program in ("ssh", "rsync"):
            if shutil.which(program) is None:
                raise RftError(f"{program} is not installed here: install {program}")

    def __enter__(self) -> "Remote":
        self._folder = tempfile.mkdtemp(prefix="rft-ssh-", dir="/tmp")  # a unix socket's path ends at 107 bytes
        return self

    def __exit__(self, *exc_info) -> None:
        with contextlib.suppress(OSError):
            subprocess.run([*self.ssh(), "-O", "exit", self.host.address], capture_output=True, check=False, timeout=20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def ssh(self) -> list[str]:
        """ssh with its options, without the address."""
        one = self.host
        options = ["BatchMode=yes", "IdentitiesOnly=yes", f"ConnectTimeout={CONNECT_S}", "LogLevel=ERROR"]
        options += [f"ServerAliveInterval={ALIVE_S}", f"ServerAliveCountMax={ALIVE_COUNT}"]
        options += ["ControlMaster=auto", "ControlPersist=60", f"ControlPath={self._folder}/%C"]
        options += [f"UserKnownHostsFile={one.known_hosts}"] if one.known_hosts else []
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", *words, "-i", str(one.key), "-p", str(one.port)]

    def ask(self, script: str, *values: str, text: str | None = None) -> subprocess.CompletedProcess:
        """A bash script there, values as $1, $2, …; text: its standard input.

        raises  RftError: no connection; the script's own failure is in the result
        """
        command = shlex.join(["bash", "-c", script, "rft", *map(str, values)])
        done = subprocess.run(
            [*self.ssh(), self.host.address, command],
            capture_output=True,
            text=True,
            input=text if text is not None else "",
            errors="replace",
            check=False,
        )
        if done.returncode == 255:
            raise RftError(self.trouble(done.stderr))
        return done

    def say(
        self, script: str, *values: str, text: str | None = None, remedy: str = "mend that, then call again"
    ) -> str:
        """The same, its output.

        raises  RftError: no connection, or the script fails: its last line
        """
        done = self.ask(script, *values, text=text)
        if done.returncode != 0:
            raise RftError(f"{self.host.name}: {self.last(done.stderr or done.stdout, done.returncode)}; {remedy}")
        return done.stdout

    def shown(self, script: str, *values: str) -> int:
        """A script whose output goes to the terminal; its exit status."""
        command = shlex.join(["bash", "-c", script, "rft", *map(str, values)])
        code = subprocess.run(
            [*self.ssh(), self.host.address, command], stdin=subprocess.DEVNULL, check=False
        ).returncode
        if code == 255:
            raise RftError(f"{self.host.name}: the connection broke; call again")
        return code

    def last(self, said: str, code: int) -> str:
        """The line that says why; a full disk is named as such."""
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        full = next((line for line in lines if FULL.search(line)), None)
        if full:
            return f"disk full ({full}); free space there (rft disk --prune)"
        fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
        return (fatal or lines or [f"exit status {code}"])[-1].removeprefix("error: ")

    def trouble(self, said: str) -> str:
        """Why there is no connection."""
        one = self.host
        where = f"{one.name} ({one.address}, port {one.port})"
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        text, end = "\n".join(lines), lines[-1] if lines else "no reason given"
        if "HOST IDENTIFICATION HAS CHANGED" in text or "Host key verification failed" in text:
            how = "has changed" if "HAS CHANGED" in text else "is not known here"
            return f"{where}: the machine's own key {how}; make sure which machine it is, then log in once by hand"
        loading = next((line for line in lines if line.startswith("Load key")), None)
        if loading:
            return f"{where}: key {one.key} is no private key ({loading}); name the right one"
        if "Permission denied" in text or "Too many authentication failures" in text:
            return f"{where}: key {one.key} refused; add its public half to {one.user}'s authorized_keys there"
        return f"{where}: unreachable ({end}); is it up, and are host and port right?"

    def send(self, what: str, sources: Sequence[str], target: str, *options: str, cwd: Path | None = None) -> None:
        """rsync from here to a folder there; see :meth:`_rsync`."""
        self._rsync(what, [*options, *sources, f"{self.host.address}:{target}"], cwd)

    def fetch(self, what: str, source: str, target: Path, *options: str) -> None:
        """rsync from a folder there to one here."""
        self._rsync(what, [*options, f"{self.host.address}:{source}", str(target)], None)

    def _rsync(self, what: str, words: list[str], cwd: Path | None) -> None:
        """Files appear whole; of one that was cut off the part is kept, and the next call goes on with it.

        raises  RftError: no connection, interrupted, disk full, not readable
        """
        plain = ["rsync", "--archive", "--partial-dir=.rsync-partial", "--secluded-args", "-e", shlex.join(self.ssh())]
        code, said = self._with_bar(what, [*plain, "--info=progress2", "--no-inc-recursive", *words], cwd)
        if code == 0:
            return
        again = "what arrived is kept, the same command goes on from there"
        if FULL.search(said):
            line = next(line for line in said.splitlines() if FULL.search(line))
            raise RftError(
                f"{self.host.name}: {what}: disk full ({line.strip()}); free space, then call again: {again}"
            )
        if "command not found" in said and code in (12, 127):
            raise RftError(f"{self.host.name}: {what}: rsync is not installed there; install it")
        if code == 255 and re.search(
            r"Permission denied \(|refused|verification failed|resolve|timed out|HAS CHANGED", said
        ):
            raise RftError(self.trouble("\n".join(line for line in said.splitlines() if "rsync" not in line)))
        if code in RSYNC_CUT:
            raise RftError(f"{self.host.name}: {what}: interrupted (rsync status {code}); {again}")
        reason = next((line for line in said.splitlines() if line.startswith("rsync:")), f"rsync status {code}")
        raise RftError(f"{self.host.name}: {what}: {reason.strip()}; mend that, then call again")

    def _with_bar(self, what: str, command: list[str], cwd: Path | None) -> tuple[int, str]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
        )
        with (
            tempfile.TemporaryFile("w+", errors="replace") as errors,
            Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar,
            subprocess.Popen(
                command, cwd=cwd, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL
            ) as child,
        ):
            task = bar.add_task(what, total=100, told="")
            line = b""
            while data := child.stdout.read1(4096):
                *_, line = re.split(rb"[\r\n]", line + data) if b"\r" in data or b"\n" in data else (line + data,)
                words = (line or data).decode("utf-8", "replace")
                if match := PERCENT.search(words):
                    bar.update(task, completed=int(match[1]), told=" ".join(words.split()[:3]))
            code = child.wait()
            errors.seek(0)
            return code, errors.read()
