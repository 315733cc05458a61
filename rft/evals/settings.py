"""What a result depends on: one flat dictionary, its digest, and which differences make two results incomparable.

    mode temperature top_p n max_tokens seed      seed is None at T 0, where it decides nothing
    data_set data_sha256 n_problems               digest over problems and labels, in order
    model model_digest adapter adapter_digest lora_apply
    reasoning_effort input_template prompt_date chat_template     the last as a digest
    prompts_sha256                                digest of the prompts' token ids, in order: what the engine is asked
    engine                                        vLLM's version

`NAMES` are what the user calls things: they decide nothing. `COMPARED` is what a comparison is about. Standard library.
"""

import hashlib
import json

from rft.errors import RftError

NAMES = ("data_set", "model", "adapter")
COMPARED = ("model", "model_digest", "adapter", "adapter_digest", "lora_apply")


def digest(settings: dict) -> str:
    """sha256 of everything that decides the samples, hex; equal for equal content under other names."""
    deciding = {key: value for key, value in settings.items() if key not in NAMES}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def differences(one: dict, other: dict) -> list[str]:
    """``max_tokens: 32 and 64`` for every setting that a comparison needs equal and that is not; sorted."""
    keys = (one.keys() | other.keys()) - {*COMPARED, *NAMES}
    return [
        f"{key}: {_brief(one.get(key))} and {_brief(other.get(key))}"
        for key in sorted(keys)
        if one.get(key) != other.get(key)
    ]


def require_equal(results: list[dict], force: bool) -> list[str]:
    """[] where all results may stand in one table; under `force` the differences, which label that table.

    results  as rft/evals/results.py makes them
    raises   RftError: settings differ and `force` is not given
    """
    found: list[str] = []
    for result in results[1:]:
        found += [d for d in differences(results[0]["settings"], result["settings"]) if d not in found]
    if found and not force:
        raise RftError(
            f"settings differ ({'; '.join(found)}): the results cannot be compared; evaluate alike, or --force"
        )
    return found


def _brief(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text
