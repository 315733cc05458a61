"""The definitions of figures, their tables, and the check of a run's file (rft/metrics.py, metrics_check.py)."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from rft import metrics, metrics_check, metrics_cli
from rft.errors import RftError

ROOT = Path(__file__).resolve().parent.parent

#: what the project promises of every step, by its names here
_PROMISED = """
time step episode actor_lr lr_share reward_mean reward_std reward_min reward_max reward_p90 correctness has_answer
has_boxed boxed_in_final parse_method_box parse_method_formula parse_method_none unparseable_count crashed_count
truncated response_length_mean response_length_p50 response_length_p90 response_length_p99 zero_std_groups
groups_all_right groups_all_wrong effective_batch policy_loss grad_norm grad_norm_clipped ppo_clip_ratio_low
ppo_clip_ratio_high ppo_kl kl advantage_mean advantage_std advantage_max advantage_min entropy_mean entropy_p10
entropy_p90 log_ratio_raw_max log_ratio_max log_ratio_min ratio_max log_ratio_abs_p99 dlogp_abs_mean dlogp_abs_p99
dlogp_abs_max seq_weight_ess generate_s reward_s old_logprob_s train_s sync_s save_s eval_s other_s generate_tok_s
train_tok_s host_rss_bytes gpu_allocated_bytes gpu_peak_bytes null_count
"""
PROMISED = _PROMISED.split()


def line(step: int = 1, **changes) -> dict:
    """A whole train line."""
    record = {m.name: 0.0 for m in metrics.METRICS.values() if m.always and not m.family}
    record |= {
        "event": "train",
        "time": 1e9 + 10 * step,
        "step": step,
        "total_steps": 40,
        "episode": 0,
        "null_count": 0,
    }
    record |= {"generate_s": 6.0, "train_s": 4.0, "step_s": 10.0, "samples": 128}
    return {**record, **changes}


def write(path: Path, *lines) -> Path:
    path.write_text("".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in lines))
    return path


def test_every_promised_figure_is_defined_whole():
    assert not [name for name in PROMISED if name not in metrics.METRICS]
    for metric in metrics.METRICS.values():
        assert metric.formula and metric.source and metric.tier in metrics.TIERS
        low, high = metric.healthy or (None, None)
        assert low is None or high is None or low <= high
        if metric.unit == "share" and metric.healthy:
            assert all(bound is None or 0 <= bound <= 1 for bound in metric.healthy)
    rows = sum(len(table) for table in metrics.SECTIONS.values())
    assert rows == len(metrics.METRICS)  # no name twice


def test_names_of_families_and_of_older_runs_are_known():
    assert metrics.get("tokens_lag3").name == "tokens_lag*" and metrics.get("reward/judge").name == "reward/*"
    assert metrics.get("experience_s").name == "old_logprob_s" and metrics.get("my_reward_thing") is None
    assert metrics.canonical({"reward": 1, "reward_mean": 2, "experience_s": 3, "x": 4}) == {
        "reward_mean": 2,
        "old_logprob_s": 3,
        "x": 4,
    }


def test_the_state_of_a_value():
    clip = metrics.get("ppo_clip_ratio")
    assert [clip.state(v) for v in (0.0, 0.4, 0.41, math.nan, math.inf, None)] == ["ok", "ok", *["high"] * 3, None]
    assert metrics.get("entropy_mean").state(0.9) == "low" and metrics.get("step").state(3) is None
    assert clip.range_text() == "≤ 0.4" and metrics.get("entropy_mean").range_text() == "≥ 1"
    assert metrics.get("spikes").range_text() == "= 0" and metrics.get("grad_norm").range_text() == "1e-09 to 50"


@pytest.mark.parametrize(("name", "ranges_only"), [("README.md", True), ("docs/metrics.md", False)])
def test_the_tables_are_current(name, ranges_only):
    text = (ROOT / name).read_text(encoding="utf-8")
    start, end = metrics_cli.between_markers(text, name)
    assert text[start:end].strip() == metrics.markdown(ranges_only), f"run: rft metrics --update {name}"


def test_the_table_holds_every_figure_once():
    rows = [row for row in metrics.markdown().splitlines() if row.startswith("| `")]
    assert len(rows) == len(metrics.METRICS) and all(row.replace("\\|", "").count("|") == 7 for row in rows)
    assert all(row.split("|")[4].strip() for row in metrics.markdown(True).splitlines()[2:])


def test_update_changes_what_stands_between_the_markers_and_nothing_else(tmp_path):
    path = tmp_path / "r.md"
    path.write_text("before\n<!-- metrics -->\nold\n<!-- /metrics -->\nafter\n")
    assert metrics_cli.main(["--update", str(path)]) == 0
    assert path.read_text() == f"before\n<!-- metrics -->\n{metrics.markdown(True)}\n<!-- /metrics -->\nafter\n"
    path.write_text("no markers\n")
    with pytest.raises(RftError, match=r"r.md: needs one line <!-- metrics -->"):
        metrics_cli.main(["--update", str(path)])
    assert path.read_text() == "no markers\n"


def test_a_whole_file_passes_and_every_fault_is_named(tmp_path, capsys):
    good = [line(1), {"event": "eval", "step": 1}, line(2, reward_mean=None, null_count=1, my_reward_thing=7.0)]
    run = tmp_path / "run"
    (run / "metrics").mkdir(parents=True)
    write(run / "metrics" / "training_metrics.jsonl", *good)
    assert metrics_cli.main(["--check", str(run)]) == 0 and "whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (line(2, kl="0.1"), "kl is '0.1', neither a number nor null"),
        (line(2, truncated=1.5), r"truncated is 1.5, a share is in \[0, 1\]"),
        (line(2, save_s=-1.0, other_s=1.0), "save_s is -1, it cannot be negative"),
        (line(2, kl=None), "null_count is 0, 1 figures are null"),
        (line(2, reward_min=1.0), "reward_min ≤ reward_mean ≤ reward_max does not hold"),
        (line(2, train_s=3.5), "the phases add up to 9.500 s, step_s is 10.000 s"),
        (line(2, ppo_clip_ratio_low=0.1, ppo_clip_ratio=0.3), "clip ratios 0.1 and 0 do not add up to 0.3"),
        (line(3), "step 3 follows step 1"),
        (line(1, time=1e9 + 20), "step 1 follows step 1"),
        (line(2, time=1e9 + 9), "time goes back by 1.000 s"),
        (line(2, time=1e9 + 18), "step_s is 10.000 s, the previous line is 8.000 s old"),
        ({k: v for k, v in line(2).items() if k != "policy_loss"}, "policy_loss is missing"),
        ('{"event": "train", "st', "Unterminated"),
        ("[1, 2]", "a list, not an object"),
        (json.dumps(line(2)).replace('"kl": 0.0', '"kl": NaN'), "NaN is no JSON"),
    ],
)
def test_a_fault_is_one_line_with_its_place(tmp_path, faulty, message):
    import re

    path = write(tmp_path / "m.jsonl", line(1), faulty)
    (problem,) = metrics_check.check_file(path)
    assert re.search(message, problem) and problem.startswith(f"{path}:2: ") and "\n" not in problem


def test_what_is_no_metrics_file_is_one_clear_line(tmp_path):
    for path, message in ((tmp_path / "none", "No such file"), (write(tmp_path / "empty"), "no train line")):
        with pytest.raises(RftError, match=message) as caught:
            metrics_check.check_file(path)
        assert "\n" not in str(caught.value)
    many = write(tmp_path / "many", *["{"] * 500)
    assert len(metrics_check.check_file(many)) == metrics_check.MOST + 1


def test_the_command_explains_and_helps_without_heavy_imports(capsys):
    assert metrics_cli.main(["ppo_clip_ratio", "tokens_lag2"]) == 0
    assert "≤ 0.4" in capsys.readouterr().out.splitlines()[0]
    with pytest.raises(RftError, match="nonsense: no figure"):
        metrics_cli.main(["nonsense"])
    code = "import sys; from rft import metrics_cli as m; m.main(['--json']); "
    code += "sys.stderr.write(str('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False" and len(json.loads(done.stdout)) == len(metrics.METRICS)
