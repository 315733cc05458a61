"""Does the other machine hold the same commit, patches, packages and data? Main thread."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rft import runs
from rft.errors import RftError
from rft.spare import facts
from rft.spare.ssh import Remote

NAMES = ("commit", "series", "packages", "data")
SHOWN = 3
ASK = 'cd "$1" && PYTHONPATH="$1" exec "$2" -m rft.spare.facts "${@:3}"'


@dataclass(frozen=True)
class Check:
    """One line of the verification; skipped ones are told and do not fail."""

    name: str
    ok: bool
    told: str
    remedy: str = ""
    skipped: bool = False


def ask(remote: Remote) -> dict:
    """The facts of the other machine.

    raises  RftError: no repository or no Python there
    """
    host = remote.host
    there = remote.ask('[ -d "$1/.git" ] && echo repo; [ -x "$2" ] && echo python; exit 0', host.repo, host.interpreter)
    if "repo" not in there.stdout:
        raise RftError(f"{host.name}: {host.repo}: no repository there; send it: rft spare sync {host.name}")
    if "python" not in there.stdout:
        remedy = f"build it: rft spare sync {host.name} --setup cpu (or gpu)"
        raise RftError(f"{host.name}: {host.interpreter}: no Python there; {remedy}")
    said = remote.say(ASK, host.repo, host.interpreter, *host.data, remedy=f"rft spare sync {host.name} --setup")
    try:
        return json.loads(said.splitlines()[-1])
    except (ValueError, IndexError) as err:
        raise RftError(f"{host.name}: {host.repo} answered no facts ({said[-80:]!r}); is its commit this one?") from err


def compare(here: dict, there: dict, name: str, skip: Collection[str] = ()) -> list[Check]:
    """here, there: `rft.spare.facts`; name: the machine's."""
    sync, setup = f"rft spare sync {name}", f"rft spare sync {name} --setup cpu (or gpu)"
    found = [
        _commit(here, there, sync),
        _series(here, there, setup),
        _listed("packages", _versions(here["packages"]), _versions(there["packages"]), setup),
        _listed("data", here["data"], there["data"], sync),
    ]
    return [Check(c.name, c.ok, c.told, c.remedy, c.name in skip and not c.ok) for c in found]


def _commit(here: dict, there: dict, remedy: str) -> Check:
    if here["dirty"] or there["dirty"]:
        where = "here" if here["dirty"] else "there"
        return Check("commit", False, f"changes that are not committed, {where}", f"commit them, then {remedy}")
    same = here["commit"] == there["commit"] is not None
    told = _short(here) if same else f"wrong commit: {_short(there)} there, {_short(here)} here"
    return Check("commit", same, told, remedy)


def _short(side: dict) -> str:
    return str(side["commit"])[:12]


def _series(here: dict, there: dict, remedy: str) -> Check:
    ids = (here["series"], here["applied"], there["series"], there["applied"])
    same = len(set(ids)) == 1 and ids[0] is not None
    told = (
        f"series {ids[0]}, applied on both" if same else f"here {ids[0]} (applied {ids[1]}), there {ids[2]} ({ids[3]})"
    )
    wrong_here = ids[0] != ids[1]
    return Check("series", same, told, "bash apply_patches.sh apply, here" if wrong_here else remedy)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    return dict(line.partition("==")[::2] for line in packages)


def _listed(name: str, here: dict[str, str], there: dict[str, str], remedy: str) -> Check:
    """Equal values under equal names; the first that differ are told."""
    differing = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    if name == "data":  # more data there does no harm
        differing = [key for key in differing if key in here]
    if not differing:
        return Check(name, True, f"{len(here)} {'files' if name == 'data' else name} equal")
    shown = [f"{key} ({_side(here, key)} here, {_side(there, key)} there)" for key in differing[:SHOWN]]
    more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return Check(name, False, f"{', '.join(shown)}{more}", remedy)


def _side(values: dict[str, str], key: str) -> str:
    return values.get(key, "missing")[:12]


def require(remote: Remote, skip: Collection[str] = (), root: Path = runs.REPO) -> list[Check]:
    """All checks.

    raises  RftError: one fails and is not skipped; the line names it, the others and the remedy
    """
    checks = compare(facts.collect(remote.host.data, root), ask(remote), remote.host.name, skip)
    failed = [check for check in checks if not check.ok and not check.skipped]
    if failed:
        first, *others = failed
        more = f" (also: {', '.join(check.name for check in others)})" if others else ""
        raise RftError(f"{remote.host.name}: {first.name}: {first.told}{more}; {first.remedy}, or --skip {first.name}")
    return checks
