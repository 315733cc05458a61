"""Which machines there are: spare.toml, one table a machine. Nothing about any machine is built in.

[h100-b]                             # the name that the commands take
host = "10.0.0.3"
user = "me"
key = "~/.ssh/id_ed25519"
repo = "/home/me/rft"                # this and the next three: absolute paths there
adapters = "/mnt/data/rft_adapters"
merged = "/mnt/scratch/merged"
jobs = "/mnt/scratch/jobs"
data = ["data"]                      # what goes over beside the code, relative to this repository
# port = 22, python = ".venv/bin/python" (relative to repo), known_hosts = "FILE", env = { HF_HOME = "/mnt/hf" }
"""

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rft.errors import RftError

PATHS = ("repo", "adapters", "merged", "jobs")
NEEDED = ("host", "user", "key", *PATHS)
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Host:
    """One machine. key, known_hosts: files here; the other paths are on the machine, absolute."""

    name: str
    host: str
    user: str
    key: Path
    repo: str
    adapters: str
    merged: str
    jobs: str
    data: tuple[str, ...] = ()
    port: int = 22
    python: str = ".venv/bin/python"
    known_hosts: Path | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"{self.user}@{self.host}"

    @property
    def interpreter(self) -> str:
        """Absolute path of Python on the machine."""
        return str(PurePosixPath(self.repo) / self.python)


def file(given: Path | None) -> Path:
    """--config, $RFT_SPARE_CONFIG, or spare.toml in the user's configuration folder."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return given or Path(os.environ.get("RFT_SPARE_CONFIG") or home / "rft" / "spare.toml")


def load(name: str, given: Path | None = None) -> Host:
    """raises  RftError: no such file or machine, a key that is missing or unknown, a path that is not absolute"""
    path = file(given)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise RftError(
            f"{path}: not there; describe the machine in it (form: rft spare --help), or name --config"
        ) from err
    except (OSError, ValueError) as err:
        raise RftError(f"{path}: not readable as TOML ({err}); see rft spare --help for the form") from err
    table = tables.get(name)
    if not isinstance(table, dict):
        known = ", ".join(key for key, value in tables.items() if isinstance(value, dict)) or "none"
        raise RftError(f"{path}: no machine [{name}]; it has {known}")
    return _host(f"{path}: [{name}]", name, table)


def _host(where: str, name: str, table: dict) -> Host:
    known = set(Host.__dataclass_fields__) - {"name"}
    unknown = sorted(table.keys() - known)
    if unknown:
        raise RftError(f"{where} {unknown[0]}: unknown key; known are {', '.join(sorted(known))}")
    missing = [key for key in NEEDED if not isinstance(table.get(key), str) or not table[key]]
    if missing:
        raise RftError(f"{where} {missing[0]}: missing or no text; nothing is built in, so name it")
    relative = next((key for key in PATHS if not table[key].startswith("/")), None)
    if relative:
        raise RftError(f"{where} {relative} = {table[relative]!r}: give an absolute path on that machine")
    kinds = {"port": int, "python": str, "known_hosts": str, "data": list, "env": dict}
    wrong = next((key for key, kind in kinds.items() if key in table and not isinstance(table[key], kind)), None)
    if wrong:
        raise RftError(f"{where} {wrong} = {table[wrong]!r}: give a {kinds[wrong].__name__}")
    if table["host"].startswith("-") or table["user"].startswith("-"):
        raise RftError(f"{where}: host and user begin with a letter or digit")
    env = {str(key): str(value) for key, value in table.get("env", {}).items()}
    bad = next((key for key in env if not NAME.fullmatch(key)), None)
    if bad:
        raise RftError(f"{where} env: {bad!r} is no name of a variable")
    key = Path(table["key"]).expanduser()
    if not key.is_file():
        raise RftError(f"{where} key = {table['key']!r}: no such file here; name the private key")
    about = key.stat()
    if about.st_uid == os.getuid() and about.st_mode & 0o077:
        raise RftError(f"{where} key: {key} may be read by others, so ssh ignores it; chmod 600 {key}")
    hosts = table.get("known_hosts")
    given = {**table, "key": key, "env": env, "data": tuple(map(str, table.get("data", [])))}
    given["known_hosts"] = Path(hosts).expanduser() if hosts else None
    return Host(name=name, **given)
