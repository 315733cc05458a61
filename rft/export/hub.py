"""An export on the Hugging Face hub, through huggingface_hub: private unless told otherwise, in one commit.

All files of a commit become visible together, after the last of them has arrived; what was sent by an upload that
failed is not sent again. The token comes from the environment alone and appears in no message. Main thread, network.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rft.errors import RftError

REMEDY = "the export itself stands; upload it with: rft export --out {out} --push_to_hub"


@dataclass(frozen=True)
class Target:
    """Where to upload to. endpoint: None for the hub itself (HF_ENDPOINT overrides it)."""

    repo: str
    token: str
    private: bool
    endpoint: str | None = None

    def __repr__(self) -> str:
        return f"Target({self.repo!r}, private={self.private})"  # a traceback prints it: without the token


def target(private: bool) -> Target:
    """From HF_TOKEN and HF_REPO_ID, once the hub has accepted the token.

    raises  RftError: one of them is missing, or the hub cannot be reached or rejects the token
    """
    token, repo = os.environ.get("HF_TOKEN", ""), os.environ.get("HF_REPO_ID", "")
    if not token:
        raise RftError(
            "--push_to_hub: HF_TOKEN is not set; export a token that may write (huggingface.co/settings/tokens)"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise RftError(f"--push_to_hub: HF_REPO_ID is {repo!r}; set it to owner/name")
    found = Target(repo, token, private, os.environ.get("HF_ENDPOINT") or None)
    _asked(found, "--push_to_hub: ", "; nothing was written", lambda api: api.whoami())
    return found


def upload(folder: Path, to: Target) -> str:
    """Upload every file of an export; returns the address of the repository.

    raises  RftError: refused on the way, or the repository is public and the export is to be private
    """
    after = f"; {REMEDY.format(out=folder)}"

    def send(api) -> str:
        url = api.create_repo(to.repo, private=to.private, exist_ok=True)
        if to.private and not api.repo_info(to.repo).private:
            raise RftError(f"HF_REPO_ID {to.repo} exists and is public; give --public or another name{after}")
        api.upload_folder(folder_path=folder, repo_id=to.repo, commit_message=f"Upload {folder.name}")
        return str(url)

    return _asked(to, f"{to.repo}: upload failed: ", f"; no file of it became visible{after}", send)


def _asked(to: Target, before: str, after: str, what):
    import httpx
    import requests
    from huggingface_hub import HfApi

    try:
        return what(HfApi(endpoint=to.endpoint, token=to.token))
    except (requests.RequestException, httpx.HTTPError, OSError, ValueError, RuntimeError) as err:
        cause = _line(getattr(err, "server_message", None) or str(err) or type(err).__name__, to.token)
        status = getattr(getattr(err, "response", None), "status_code", None)
        cause = f"the hub answers {status} ({cause})" if status else cause
    raise RftError(f"{before}{cause}{after}")


def _line(text: str, token: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else "no reason given").replace(token, "…").rstrip(".")[:200]
