"""Ray's own word on a run's actors: alive or dead, and of what; asked of the GCS, so no dashboard is needed.

`actors` asks in a process of its own, bounded: a GCS that hangs or is gone must not hang the doctor. Imports ray there.
"""

import json
import subprocess
import sys

TIMEOUT_S = 30.0


def actors(address: str) -> tuple[list[dict], str | None]:
    """([class, state, pid, death cause of each actor], None) or ([], why there is no answer)."""
    words = [sys.executable, "-m", "rft.doctor.ray_state", address]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return [], f"Ray's GCS at {address} did not answer within {TIMEOUT_S:.0f} s"
    if done.returncode != 0:
        return [], f"Ray's GCS at {address}: {(done.stderr.strip().splitlines() or ['no answer'])[-1][:200]}"
    return json.loads(done.stdout), None


def _ask(address: str) -> list[dict]:
    from ray._private.state import GlobalState
    from ray._raylet import GcsClientOptions

    state = GlobalState()
    state._initialize_global_state(
        GcsClientOptions.create(address, None, allow_cluster_id_nil=True, fetch_cluster_id_if_nil=False)
    )
    table = state.actor_table(None).values()
    keys = {"class": "ActorClassName", "state": "State", "pid": "Pid", "restarts": "NumRestarts"}
    return [
        {**{name: actor[key] for name, key in keys.items()}, "death_cause": _cause(actor["DeathCause"])}
        for actor in table
    ]


def _cause(message) -> str | None:
    """The text in whichever kind of cause is set."""
    kind = message.WhichOneof("context")
    if kind is None:
        return None
    context = getattr(message, kind)
    said = getattr(context, "error_message", "") or getattr(context, "serialized_runtime_env_error", "")
    return f"{kind}: {' '.join(str(said or context).split())}"[:600]


if __name__ == "__main__":
    print(json.dumps(_ask(sys.argv[1])))
