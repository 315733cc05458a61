"""The learning rate of the launch, by rft.preflight.learning_rate. In a process of its own (torch, transformers)."""

from rft.data_files import prompt_count
from rft.errors import RftError
from rft.preflight.learning_rate import JUDGED_STEP, MIN_SHARE, Plan, remedy, verdict
from rft.preflight.result import Result, Subject, ok, skipped, warn


def plan_of(subject: Subject) -> Plan | None:
    """The launch as the scheduler sees it; None where the number of prompts is not known here."""
    args = subject.args
    pool = prompt_count(args, subject.repo)
    if pool is None:
        return None
    return Plan(
        pool=pool,
        samples=args.n_samples_per_prompt,
        train_batch=args.train_batch_size,
        rollout_batch=args.rollout_batch_size,
        episodes=args.num_episodes,
        warmup=args.lr_warmup_ratio,
        learning_rate=args.actor_learning_rate,
        max_epochs=args.max_epochs,
        scheduler=args.lr_scheduler,
    )


def learning_rate(subject: Subject) -> Result:
    """Fails where the rate has not got off the ground by the step that is judged: a warm-up that is too long.

    A run that is short, so that it ends before or is decaying by then, may be meant so (a trial): that is a warning,
    where ``rft preflight-lr`` says no. One step of warm-up, the least there is, is never too long.
    """
    plan = plan_of(subject)
    if plan is None:
        return skipped("the number of prompts is known to the data set library only")
    if plan.passes:
        return ok(f"{verdict(plan)}; {plan.steps_a_rollout} steps a rollout")
    if (
        plan.warmup_steps <= 1
        or max(plan.share(step) for step in range(1, min(JUDGED_STEP, plan.steps) + 1)) >= MIN_SHARE
    ):
        return warn(verdict(plan), f"for more than a trial: {remedy(plan)}")
    raise RftError(f"learning rate {verdict(plan)}; {remedy(plan)}")
