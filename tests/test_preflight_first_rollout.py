"""The two checks after the first rollout: each fails alone, once, and leaves its verdict in the run's metrics."""

import json
import math
from argparse import Namespace

import pytest

from rft.errors import RftError
from rft.preflight import first_rollout
from rft.preflight.first_rollout import FirstRollout

ARGS = Namespace(init_kl_coef=0.001, load_checkpoint=False, use_kl_loss=False)
GOOD = {"kl": 0.0, "dlogp_abs_mean": 0.002, "dlogp_abs_max": 0.3}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICS_LOG_DIR", str(tmp_path))
    monkeypatch.delenv(first_rollout.SKIP_VARIABLE, raising=False)
    return tmp_path


def verdicts(folder) -> dict[str, str]:
    lines = (folder / first_rollout.FILE).read_text().splitlines()
    return {row["check"]: row["verdict"] for row in map(json.loads, lines)}


def test_a_healthy_rollout_passes_and_later_ones_are_not_judged(folder):
    checks = FirstRollout(ARGS)
    checks.check(0, GOOD)
    checks.check(1, {"kl": 9.0, "dlogp_abs_mean": 9.0})
    assert verdicts(folder) == {"first-kl": "ok", "first-mismatch": "ok"}


@pytest.mark.parametrize(
    ("changed", "failed", "words"),
    [
        ({"kl": 0.02}, "first-kl", "KL to the reference is 0.02 nats a token before the first update"),
        ({"kl": -0.02}, "first-kl", "where a fresh adapter gives 0"),
        ({"kl": math.nan}, "first-kl", "KL to the reference is nan"),
        ({"dlogp_abs_mean": 0.06}, "first-mismatch", "mean |Δ log p| 0.06, largest 0.3 (limit 0.05)"),
        ({"dlogp_abs_mean": math.nan}, "first-mismatch", "mean |Δ log p| nan"),
    ],
)
def test_exactly_one_fails(changed, failed, words, folder, monkeypatch):
    with pytest.raises(RftError) as caught:
        FirstRollout(ARGS).check(0, {**GOOD, **changed})
    assert words in str(caught.value) and "\n" not in str(caught.value) and f"--skip {failed}" in str(caught.value)
    found = verdicts(folder)
    assert [name for name, verdict in found.items() if verdict == "fail"] == [failed] and len(found) == 2
    (folder / first_rollout.FILE).unlink()
    monkeypatch.setenv(first_rollout.SKIP_VARIABLE, f"patches,{failed}")
    FirstRollout(ARGS).check(0, {**GOOD, **changed})
    assert verdicts(folder)[failed] == "skipped"


def test_doubtful_figures_are_warnings(folder, capsys):
    FirstRollout(ARGS).check(0, {"kl": 0.002, "dlogp_abs_mean": 0.04, "dlogp_abs_max": 1.0})
    assert verdicts(folder) == {"first-kl": "warn", "first-mismatch": "warn"}
    assert (
        "preflight: first-mismatch: warn: mean |Δ log p| 0.04, largest 1; healthy is below 0.03"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("args", "step", "stats"),
    [
        ({}, 7, {"kl": 0.5}),  # a continued run's adapter is trained
        ({"load_checkpoint": True}, 0, {"kl": 0.5}),
        ({"init_kl_coef": 0.0}, 0, {"kl": 0.0}),  # upstream logs 0 where no reference is asked
        ({"use_kl_loss": True}, 0, {"kl": 0.5}),
        ({}, 0, {}),
    ],
)
def test_a_kl_that_says_nothing_is_not_judged(args, step, stats, folder):
    FirstRollout(Namespace(**{**vars(ARGS), **args})).check(step, stats)
    assert verdicts(folder) == {"first-kl": "skipped", "first-mismatch": "skipped"}
