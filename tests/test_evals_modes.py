"""Modes, settings and their digest (rft/evals/modes.py, settings.py)."""

import pytest

from rft.errors import RftError
from rft.evals import modes, settings

BASE = {
    "mode": "sampling_pass@8",
    "temperature": 0.6,
    "n": 8,
    "max_tokens": 32,
    "data_set": "aime",
    "data_sha256": "aa",
    "model": "m",
    "model_digest": "11",
    "adapter": None,
    "adapter_digest": None,
    "lora_apply": None,
}


def test_the_three_modes():
    assert [modes.parse(name) for name in modes.DEFAULTS] == [
        modes.Mode("greedy_pass@1", 0.0, 1),
        modes.Mode("sampling_pass@8", 0.6, 8),
        modes.Mode("nondet_proxy_pass@8", 0.0, 8),
    ]
    assert [modes.parse(name).name for name in ("greedy", "sampling", "nondet")] == list(modes.DEFAULTS)
    assert modes.parse("sampling_pass@16", 1.0) == modes.Mode("sampling_pass@16", 1.0, 16)
    assert modes.parse("greedy", 1.0).temperature == 0.0
    assert [mode.diagnostic for mode in map(modes.parse, modes.DEFAULTS)] == [False, False, True]


@pytest.mark.parametrize(
    "name, options",
    [
        ("pass@8", {}),
        ("sampling_pass@0", {}),
        ("nondet_proxy_pass@1", {}),
        ("sampling", {"temperature": 0.0}),
        ("sampling", {"temperature": float("nan")}),
        ("sampling", {"top_p": 0.0}),
    ],
)
def test_what_is_no_mode_is_refused(name, options):
    with pytest.raises(RftError) as error:
        modes.parse(name, **options)
    assert "\n" not in str(error.value)


def test_a_name_says_what_was_sampled():
    assert [modes.name(t, n) for t, n in ((0, 1), (0.6, 8), (1.0, 1), (0, 8))] == [
        "greedy_pass@1",
        "sampling_pass@8",
        "sampling_pass@1",
        "nondet_proxy_pass@8",
    ]


def test_the_digest_is_of_what_decides_the_samples():
    same = {**BASE, "model": "elsewhere", "data_set": "copy"}
    assert settings.digest(same) == settings.digest(dict(reversed(BASE.items())))
    for key, value in (("max_tokens", 33), ("model_digest", "12"), ("adapter_digest", "x"), ("lora_apply", "merge")):
        assert settings.digest({**BASE, key: value}) != settings.digest(BASE)


def test_a_comparison_is_about_models_and_nothing_else():
    trained = {**BASE, "model": "n", "model_digest": "22", "adapter_digest": "33", "lora_apply": "merge"}
    assert settings.differences(BASE, trained) == []
    longer = {**trained, "max_tokens": 64, "reasoning_effort": "high"}
    assert settings.differences(BASE, longer) == ["max_tokens: 32 and 64", "reasoning_effort: None and high"]


def test_unequal_settings_are_refused_unless_forced():
    results = [{"settings": BASE}, {"settings": {**BASE, "max_tokens": 64}}]
    with pytest.raises(RftError, match="max_tokens: 32 and 64"):
        settings.require_equal(results, force=False)
    assert settings.require_equal(results, force=True) == ["max_tokens: 32 and 64"]
    assert settings.require_equal(results[:1] * 2, force=False) == []
