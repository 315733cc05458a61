"""Is the hub there for a model that has to come from it? One request, not minutes of its libraries' retries."""

import http.client
import urllib.error
import urllib.request

from rft.errors import RftError

DEFAULT = "https://huggingface.co"
WAIT_S = 10.0


def reachable(flag: str, name: str, env: dict[str, str]) -> None:
    """Any answer will do, a refusal too: what it says of the model is left to the checks that read it.

    env  HF_ENDPOINT names another hub; proxies are those of this process

    raises RftError where nothing answers at all
    """
    hub = (env.get("HF_ENDPOINT") or DEFAULT).rstrip("/")
    try:
        request = urllib.request.Request(f"{hub}/{name}/resolve/main/config.json", method="HEAD")
        urllib.request.urlopen(request, timeout=WAIT_S).close()
    except urllib.error.HTTPError as refusal:
        refusal.close()
    except (OSError, ValueError, http.client.HTTPException) as err:
        why = " ".join(str(getattr(err, "reason", err)).split())[:120]
        raise RftError(
            f"{flag} {name}: not in the hub cache, and {hub} does not answer ({why}); "
            "give a model folder, fill the cache or mend the network (HTTPS_PROXY, HF_ENDPOINT)"
        ) from err
