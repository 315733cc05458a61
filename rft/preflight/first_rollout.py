"""The two checks that need a rollout: KL to the reference, and trainer against engine, before the first update.

Called by the patched trainer in the controller process, once, between the first rollout's log-probs and the first
optimizer step. A fresh adapter changes nothing (B = 0), so the policy *is* the reference: a KL that is not 0 says that
the two are computed differently, and a run would be held by it to something that is not its base. The mismatch is that
of `rft.mismatch`: mean |Δ log p| of the sampled tokens, healthy below 0.03 for gpt-oss, above 0.05 a bug.

`--skip first-kl` and `--skip first-mismatch` reach the trainer as a variable. The verdicts stand in
``metrics/preflight.jsonl``, in the form of the rows of run.json's preflight.
"""

import math
import os

from rft import metrics_file
from rft.errors import RftError
from rft.preflight.result import FAIL, Result, ok, run, skipped, warn

SKIP_VARIABLE = "RFT_PREFLIGHT_SKIP"
FILE = "preflight.jsonl"
KL_HEALTHY, KL_LIMIT = 1e-3, 1e-2  # nats a token, either sign: k1 is no distance
MISMATCH_HEALTHY, MISMATCH_LIMIT = 0.03, 0.05  # nats a token


class FirstRollout:
    """args: the run's arguments. One object a run."""

    def __init__(self, args):
        self.args, self.done = args, False

    def check(self, global_step: int, stats: dict[str, float]) -> None:
        """Judges the first rollout that it is called for; later ones pass unseen.

        global_step  finished steps: 0 before the first update; a continued run's adapter is no longer fresh
        stats        of `rft.rollout_stats`
        raises       RftError, which stops the run before it has changed anything
        """
        if self.done:
            return
        self.done = True
        left_out = os.environ.get(SKIP_VARIABLE, "").split(",")
        checks = {
            "first-kl": lambda _: judge_kl(self.args, global_step, stats),
            "first-mismatch": lambda _: judge_mismatch(stats),
        }
        skip = {name for name in checks if name in left_out}
        results = {
            name: skipped("left out by --skip") if name in skip else run(name, function, None)
            for name, function in checks.items()
        }
        path = os.path.join(metrics_file.folder(), FILE)
        for name, one in results.items():
            row = {"check": name, "value": one.value, "verdict": one.verdict, "remedy": one.remedy}
            metrics_file.append(path, {"step": global_step, **row})
            if one.verdict not in ("ok", "skipped"):
                print(f"preflight: {name}: {one.verdict}: {one.value}; {one.remedy}", flush=True)
        failed = next((one for one in results.values() if one.verdict == FAIL), None)
        if failed is not None:
            raise RftError(failed.error)


def judge_kl(args, global_step: int, stats: dict[str, float]) -> Result:
    """KL to the reference of the first rollout's tokens, nats a token."""
    if global_step:
        return skipped(f"continued after step {global_step}: the adapter is no longer fresh")
    if getattr(args, "load_checkpoint", False) or args.init_kl_coef <= 0 or "kl" not in stats:
        return skipped("no reference is computed" if args.init_kl_coef <= 0 else "no fresh adapter")
    if getattr(args, "use_kl_loss", False):
        return skipped("--use_kl_loss: the KL is computed in the update")
    value = stats["kl"]
    if not abs(value) <= KL_LIMIT:  # NaN too
        raise RftError(
            f"KL to the reference is {value:.3g} nats a token before the first update (limit {KL_LIMIT:g}), where a "
            "fresh adapter gives 0: the reference is another model, or computed otherwise; use --reference actor, or "
            "--skip first-kl"
        )
    if abs(value) > KL_HEALTHY:
        return warn(f"{value:.3g} nats a token before the first update", "compare actor and reference; 0 is expected")
    return ok(f"{value:.3g} nats a token")


def judge_mismatch(stats: dict[str, float]) -> Result:
    """mean |Δ log p| between trainer and engine over the first rollout's tokens, nats."""
    value = stats.get("dlogp_abs_mean")
    if value is None:
        return skipped("the rollout has no log-probs of the engine")
    largest = stats.get("dlogp_abs_max", math.nan)
    found = f"mean |Δ log p| {value:.3g}, largest {largest:.3g}"
    if not value <= MISMATCH_LIMIT:
        raise RftError(
            f"trainer and engine disagree on the first rollout: {found} (limit {MISMATCH_LIMIT:g}); look at the "
            "attention implementation (sinks), RoPE (fp32) and --engine_pretrain, or --skip first-mismatch"
        )
    if value > MISMATCH_HEALTHY:
        return warn(found, f"healthy is below {MISMATCH_HEALTHY:g}")
    return ok(found)
