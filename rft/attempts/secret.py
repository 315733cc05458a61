"""Words of a command and variables of an environment without the secrets in them.

What is hidden is `HIDDEN`; better one value too many than one too few.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

from rft.provenance import is_secret

HIDDEN = "<hidden>"
FLAGS = ("--use_wandb",)  # OpenRLHF takes the key itself here; "True" stands for the one of the environment
ENDS = ("api_key", "apikey", "token", "secret", "password", "passwd", "credential", "credentials")
ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
ADDRESS = re.compile(r"(://[^/@:\s]*:)[^/@\s]+@")


def hide(words: Sequence[str]) -> list[str]:
    """A command's words: values of secret flags and variables, and passwords in addresses, are replaced."""
    found, follows = [], False
    for word in words:
        flag, equals, value = word.partition("=")
        if follows and not word.startswith("--"):
            found.append(word if word.lower() in ("true", "false") else HIDDEN)
            follows = False
            continue
        follows = False
        if word.startswith("-") and _hides(flag):
            follows = not equals
            found.append(f"{flag}={HIDDEN}" if equals and value.lower() != "true" else word)
        elif (match := ASSIGNED.fullmatch(word)) and is_secret(match[1]) and match[2]:
            found.append(f"{match[1]}={HIDDEN}")
        else:
            found.append(ADDRESS.sub(rf"\1{HIDDEN}@", word))
    return found


def keyless(words: Sequence[str]) -> list[str]:
    """The same for words that are to be used again: a key given by a flag becomes ``True``, the environment's key."""
    return ["True" if found == HIDDEN and before in FLAGS else found for before, found in pairwise(["", *hide(words)])]


def _hides(flag: str) -> bool:
    return flag in FLAGS or flag.lstrip("-").lower().replace("-", "_").endswith(ENDS)


def variables(env: dict[str, str]) -> dict[str, str]:
    """The same for NAME -> value."""
    return {name: HIDDEN if is_secret(name) else ADDRESS.sub(rf"\1{HIDDEN}@", v) for name, v in env.items()}
