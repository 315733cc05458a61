"""Checks of the flags and files that a launch names: thin, the facts are `rft.inputs` and `rft.data_files`.

In the launcher's own process; no torch, and no network but one request for a model that has to come from the hub.
"""

import os
from pathlib import Path

from rft import inputs
from rft.data_files import check_prompts
from rft.preflight import hub
from rft.preflight.result import Result, Subject, ok, skipped, warn
from rft.rewards import run_reward


def schedule(subject: Subject) -> Result:
    inputs.check_scheduler(subject.args)
    return ok(subject.args.lr_scheduler)


def attention(subject: Subject) -> Result:
    """gpt-oss's attention sinks are kept: no flash attention 2 or 3, and nothing that forces one."""
    inputs.check_attention(subject.args, subject.repo, subject.env)
    sinks = inputs.is_gpt_oss(subject.args.pretrain, subject.repo)
    return ok(f"{subject.args.attn_implementation}{', keeps the sinks' if sinks else ''}")


def checkpointing(subject: Subject) -> Result:
    inputs.check_checkpointing(subject.args)
    return ok("re-entrant" if subject.args.gradient_checkpointing_use_reentrant else "as it is")


def batches(subject: Subject) -> Result:
    """A rollout divides over the actor ranks and into whole optimizer steps."""
    args = subject.args
    inputs.check_rollout(args)
    rollout = args.rollout_batch_size * args.n_samples_per_prompt
    steps = rollout // args.train_batch_size * args.max_epochs
    return ok(
        f"{args.rollout_batch_size} prompts x {args.n_samples_per_prompt} = {rollout} answers, "
        f"{steps} optimizer step{'s' if steps > 1 else ''} a rollout"
    )


def accumulation(subject: Subject) -> Result:
    """What DeepSpeed makes of the batch sizes: train batch = micro batch x accumulation x ranks, and no remainder."""
    args = subject.args
    inputs.check_accumulation(args)
    ranks = inputs.data_ranks(args)
    found = f"{args.micro_train_batch_size} a rank x {inputs.accumulation_steps(args)} accumulated x {ranks} ranks"
    found += f" = {args.train_batch_size} answers a step"
    if args.micro_rollout_batch_size != args.micro_train_batch_size:
        other = f"--micro_rollout_batch_size is {args.micro_rollout_batch_size}"
        return warn(
            f"{found}; {other}: training pads rows otherwise than the old log-probs did, so the first ratio is not 1",
            "set both micro batches alike",
        )
    return ok(found)


def model(subject: Subject) -> Result:
    """The model's folder or hub id, the trainer's and the engine's."""
    args, env = subject.args, subject.env
    named = {"--pretrain": args.pretrain}
    if getattr(args, "engine_pretrain", None):
        named["--engine_pretrain"] = args.engine_pretrain
    for flag, name in named.items():
        inputs.check_model(flag, name, subject.repo, env)
    inputs.check_loading(args, subject.repo)
    for flag, name in named.items():
        folder = subject.repo / os.path.expanduser(name)
        if not (folder.is_dir() or inputs.cached(name, env)):
            hub.reachable(flag, name, env)
    return ok(", ".join(named.values()))


def reward_file(subject: Subject) -> Result:
    """The reward is there and is one; nothing of it is run here (that is the check `reward`)."""
    spec = subject.args.remote_rm_url
    run_reward.resolve(subject.args, subject.env, subject.repo)
    return ok(",".join(spec)) if spec else skipped("no reward function: --remote_rm_url is not given")


def judge(subject: Subject) -> Result:
    """Gemini's settings and credentials, where the reward or a part of it is the judge."""
    if not run_reward.uses_judge(subject.args.remote_rm_url, subject.repo):
        return skipped("the reward does not ask Gemini")
    return ok(run_reward.check_judge(subject.args, subject.env, subject.repo))


def prompts(subject: Subject) -> Result:
    """Prompt and evaluation files: every row can be read, every label be graded, and there is a rollout's worth."""
    total = check_prompts(subject.args, subject.repo)
    names = ", ".join(Path(name).name for name in subject.args.prompt_data.split(","))
    return ok(f"{names}: {total} prompts" if total is not None else f"{names}: left to the data set library")
