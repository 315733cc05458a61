"""``rft preflight-lr`` and ``preflight_lr.sh``: the learning rate of a run that is planned.

Its figures come as environment variables, which is how they are written down in notes, or as flags, which win. Exit
status 0: the rate at step 20 is at least 30 % of the target; 1: it is not, or the run ends before; 2: wrong input.
"""

import argparse
import json
import os
import sys
import warnings

from rft.errors import RftError

# variable: (flag, what it is, type, default; None = it has to be given)
VARIABLES = {
    "POOL": ("--pool", "prompts of the training data", int, None),
    "NS": ("--samples", "answers to a prompt (--n_samples_per_prompt)", int, None),
    "TBS": ("--train-batch", "answers of an optimizer step (--train_batch_size)", int, None),
    "EP": ("--episodes", "passes over the prompts (--num_episodes)", int, None),
    "WARMUP": ("--warmup", "share of the steps (--lr_warmup_ratio)", float, None),
    "LR": ("--lr", "the target (--actor_learning_rate)", float, None),
    "RBS": ("--rollout-batch", "prompts of a rollout (--rollout_batch_size); no rate depends on it", int, 16),
    "MAX_EPOCHS": ("--max-epochs", "passes over a rollout's answers (--max_epochs)", int, 1),
    "SCHEDULER": ("--scheduler", "transformers' name of the schedule (--lr_scheduler)", str, "cosine_with_min_lr"),
}


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    values = {name: _value(name, getattr(args, name), os.environ) for name in VARIABLES}
    _check(values)
    warnings.filterwarnings("ignore", message=".*pynvml.*", category=FutureWarning)  # torch's, about a package of vLLM
    from rft.preflight.learning_rate import Plan, remedy

    plan = Plan(
        pool=values["POOL"],
        samples=values["NS"],
        train_batch=values["TBS"],
        rollout_batch=min(values["RBS"], values["POOL"]),
        episodes=values["EP"],
        warmup=values["WARMUP"],
        learning_rate=values["LR"],
        max_epochs=values["MAX_EPOCHS"],
        scheduler=values["SCHEDULER"],
    )
    print(json.dumps(_record(plan)) if args.json else _text(plan))
    if plan.passes:
        return 0
    from rft.preflight.learning_rate import verdict

    print(f"error: learning rate: {verdict(plan)}; {remedy(plan)}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    table = "\n".join(
        f"  {name:<11}{flag:<16}{text}{'' if default is None else f', default {default}'}"
        for name, (flag, text, _, default) in VARIABLES.items()
    )
    parser = argparse.ArgumentParser(
        prog="rft preflight-lr",
        description="Prints the learning rate of a planned run; exit status 1 if it is too low at step 20.",
        epilog=f"environment variables and flags (flags win):\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, (flag, *_) in VARIABLES.items():
        parser.add_argument(flag, dest=name, metavar="X", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of text")
    return parser


def _value(name: str, given: str | None, environ):
    flag, text, kind, default = VARIABLES[name]
    found = given if given is not None else environ.get(name, "")
    if not found.strip():
        if default is None:
            raise RftError(f"{name} is missing ({text}): set it, or give {flag}")
        return default
    try:
        return kind(found)
    except ValueError:
        what = "whole number" if kind is int else "number"
        raise RftError(f"{name}={found!r}: no {what} ({text}); mend it") from None


def _check(values: dict) -> None:
    from rft.inputs import SCHEDULERS

    for name in ("POOL", "NS", "TBS", "EP", "RBS", "MAX_EPOCHS"):
        if values[name] < 1:
            raise RftError(f"{name}={values[name]}: must be at least 1")
    if not 0 <= values["WARMUP"] <= 1:
        raise RftError(f"WARMUP={values['WARMUP']:g}: a share of the steps, so give 0 to 1")
    if not 0 < values["LR"] < float("inf"):
        raise RftError(f"LR={values['LR']:g}: give a rate above 0")
    if values["SCHEDULER"] not in SCHEDULERS:
        raise RftError(f"SCHEDULER={values['SCHEDULER']}: not a known schedule; use {', '.join(SCHEDULERS)}")


def _record(plan) -> dict:
    from rft.preflight.learning_rate import MIN_SHARE, SHOWN_STEPS, remedy, verdict

    return {
        "passes": plan.passes,
        "verdict": verdict(plan),
        "remedy": remedy(plan),
        "min_share": MIN_SHARE,
        "steps": plan.steps,
        "rollouts": plan.rollouts,
        "warmup_steps": plan.warmup_steps,
        "steps_a_rollout": plan.steps_a_rollout,
        "by_step": {str(step): plan.rate(step) for step in SHOWN_STEPS if step <= plan.steps},
        "by_rollout": {str(n): plan.rate(first) for n, first in _rollout_starts(plan)},
    }


def _rollout_starts(plan) -> list[tuple[int, int]]:
    """(rollout, its first optimizer step), both from 1."""
    from rft.preflight.learning_rate import SHOWN_STEPS

    starts = [(n, plan.first_step(n)) for n in SHOWN_STEPS if n <= plan.rollouts]
    return [(n, step) for n, step in starts if step <= plan.steps]


def _text(plan) -> str:
    from rft.preflight import plot
    from rft.preflight.learning_rate import JUDGED_STEP, MIN_SHARE, SHOWN_STEPS, verdict

    lines = [
        f"{plan.scheduler}, target {plan.learning_rate:g}, warm-up {plan.warmup:g} = {plan.warmup_steps} steps",
        f"{plan.pool} prompts x {plan.samples} answers / {plan.train_batch} x {plan.episodes} episodes"
        f"{f' x {plan.max_epochs} epochs' if plan.max_epochs > 1 else ''} = {plan.steps} optimizer steps",
        f"{plan.rollouts} rollouts of {plan.rollout_batch} prompts, {plan.steps_a_rollout} optimizer steps each",
        "",
        "                 at optimizer step         at first step of rollout",
    ]
    first = dict(_rollout_starts(plan))
    for n in SHOWN_STEPS:
        one = _cell(plan, n) if n <= plan.steps else "the run is over"
        two = _cell(plan, first[n]) if n in first else "the run is over"
        lines.append(f"{n:>14}   {one:<26}{two}")
    top = max(plan.learning_rate, max(plan.rate(step) for step in range(1, plan.steps + 1)))
    drawn = plot.curve(plan.rate, plan.steps, top, lambda rate: f"{rate:.2e}")
    margin, columns = drawn[-1].index("└") + 1, drawn[-1].count("─")
    axes = [plot.axis("optimizer step", plan.steps, margin, columns)]
    axes.append(plot.axis("rollout", plan.rollouts, margin, columns))
    passes = "ok" if plan.passes else "TOO LOW" if not plan.short else "TOO SHORT"
    limit = f"at least {MIN_SHARE:.0%} at step {JUDGED_STEP} is wanted"
    return "\n".join([*lines, "", *drawn, *axes, "", f"{passes}: {verdict(plan)}; {limit}"])


def _cell(plan, step: int) -> str:
    return f"{plan.rate(step):.3e}  {plan.share(step):>5.1%}"
