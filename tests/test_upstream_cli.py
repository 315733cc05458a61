"""The parser is upstream's own, read from the installed file without its imports."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rft import upstream_cli
from rft.errors import RftError

BASE = ["--advantage_estimator", "dr_grpo", "--remote_rm_url", "reward.py", "--vllm_num_engines", "1"]


def test_parses_like_upstream_in_well_under_a_second():
    start = time.monotonic()
    args = upstream_cli.parse(
        [*BASE, "--target_modules", "q_proj", "k_proj", "--eval_temp", "0.3", "--eps_clip", "0.1"]
    )
    assert time.monotonic() - start < 1
    assert (args.target_modules, args.eval_temperature, args.remote_rm_url) == (
        ["q_proj", "k_proj"],
        0.3,
        ["reward.py"],
    )
    assert args.eps_clip_low_high == (0.1, 0.1)  # upstream's validation block ran
    assert args.vllm_generate_batch_size == args.rollout_batch_size == 1024
    code = "import sys; from rft import upstream_cli as u; u.parse(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, *BASE]
    cwd = Path(__file__).parent.parent
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd).stdout == "False\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*BASE, "--rolout_batch_size", "3"], "unknown flag --rolout_batch_size: did you mean --rollout_batch_size?"),
        ([*BASE, "--xyzzy=3"], "unknown flag --xyzzy: see the flags with"),
        ([*BASE, "stray"], "unexpected argument 'stray'"),
        ([*BASE, "--rollout_batch_size", "x"], "argument --rollout_batch_size: invalid int value: 'x'"),
        (["--advantage_estimator", "foo"], "argument --advantage_estimator: invalid choice: 'foo'"),
        (["--advantage_estimator", "rloo"], "flags refused by OpenRLHF: rloo requires n_samples_per_prompt > 1"),
        ([*BASE, "--rollout_batch_size", "1"], "flags refused by OpenRLHF: The number of sample batches"),
        ([], "flags refused by OpenRLHF: 'NoneType' object has no attribute 'split'"),
    ],
)
def test_refusals_are_one_line(argv, message):
    with pytest.raises(RftError) as caught:
        upstream_cli.parse(argv)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_patch_may_import_a_seam_and_nothing_heavy_runs(tmp_path):
    source = tmp_path / "train_ppo_ray.py"
    source.write_text(
        textwrap.dedent(
            """
            import argparse, sys
            from datetime import datetime
            import ray_that_is_not_there
            from rft.errors import RftError
            import math
            def train(args): raise SystemExit("trained")
            if __name__ == "__main__":
                parser = argparse.ArgumentParser()
                parser.add_argument("--offload", action="store_true")
                parser.add_argument("--x", type=float, default=math.pi)
                args = parser.parse_args()
                if args.x < 0: raise RftError("--x must be positive")
                if args.x == 1:
                    patch_hub()
                train(args)
            """
        )
    )
    args = upstream_cli.parse(["--offload"], source)
    assert args.offload and args.x > 3 and upstream_cli.is_patched(source)
    with pytest.raises(RftError, match="--x must be positive"):
        upstream_cli.parse(["--x=-1"], source)


def test_is_patched_tells_the_pristine_parser(pristine_site):
    assert not upstream_cli.is_patched(pristine_site / "openrlhf" / "cli" / "train_ppo_ray.py")
