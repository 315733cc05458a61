"""The table of checks: name, what it looks at, and where it runs.

Group `quick` runs in the launcher's own process, which has to stay light. The others import what takes seconds, or run
somebody's code (a reward), so each of them is a process of its own, all at once (rft/preflight/workers.py). Modules are
imported when a check runs: the names and help texts are there without them.
"""

import importlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from rft.preflight.result import FAIL, Result, Subject, run, skipped

QUICK, MODEL, DATA, REWARD = "quick", "model", "data", "reward"
SLOW_GROUPS = (MODEL, DATA, REWARD)


@dataclass(frozen=True)
class Check:
    """function: ``module.function`` of rft.preflight."""

    name: str
    group: str
    function: str
    help: str
    needs: tuple[str, ...] = ()  # checks whose failure leaves this one nothing to look at

    def __call__(self, subject: Subject) -> Result:
        module, name = self.function.split(".")

        def call(subject: Subject) -> Result:
            return getattr(importlib.import_module(f"rft.preflight.{module}"), name)(subject)

        return run(self.name, call, subject)


CHECKS = tuple(
    Check(*row)
    for row in (
        ("patches", QUICK, "install.patches", "the patch series is the one applied"),
        ("packages", QUICK, "install.packages", "installed versions against the lock"),
        ("schedule", QUICK, "recipe.schedule", "the learning-rate schedule's name"),
        ("attention", QUICK, "recipe.attention", "the attention implementation keeps gpt-oss's sinks"),
        ("checkpointing", QUICK, "recipe.checkpointing", "gradient checkpointing that ZeRO-3 can take"),
        ("batches", QUICK, "recipe.batches", "a rollout divides over ranks and into optimizer steps"),
        ("accumulation", QUICK, "recipe.accumulation", "gradient accumulation as DeepSpeed will see it"),
        ("model", QUICK, "recipe.model", "model folder or hub id, trainer's and engine's"),
        ("reward-file", QUICK, "recipe.reward_file", "the reward exists and is one"),
        ("judge", QUICK, "recipe.judge", "Gemini's settings and credentials, if the judge is used", ("reward-file",)),
        ("prompts", QUICK, "recipe.prompts", "rows that can be read, labels that can be graded, enough of them"),
        ("outputs", QUICK, "machine.outputs", "output folders can be made and written"),
        ("disk", QUICK, "machine.disk", "room for the checkpoints"),
        ("ports", QUICK, "machine.ports", "Ray's ports are free"),
        ("gpus", QUICK, "machine.gpus", "GPUs there, free, and enough for the recipe's split"),
        ("shared-memory", QUICK, "machine.shared_memory", "/dev/shm is large enough"),
        ("limits", QUICK, "machine.limits", "ulimits: open files, processes"),
        ("ray-temp", QUICK, "machine.ray_temp", "Ray's temp space under /tmp"),
        (
            "tokenizer",
            MODEL,
            "tokens.tokenizer",
            "tokenizer and chat template make Harmony prompts",
            ("model", "prompts"),
        ),
        ("stop-tokens", MODEL, "tokens.stop_tokens", "the engine stops where an answer ends", ("model",)),
        (
            "prompt-lengths",
            MODEL,
            "tokens.prompt_lengths",
            "no prompt is longer than --prompt_max_len",
            ("model", "prompts", "tokenizer"),
        ),
        ("lora-targets", MODEL, "lora.targets", "LoRA targets exist and are attention projections", ("model",)),
        (
            "learning-rate",
            MODEL,
            "rate.learning_rate",
            "the rate at optimizer step 20 is 30 % of the target or more",
            ("schedule", "batches", "prompts"),
        ),
        ("overlap", DATA, "overlap.overlap", "no training prompt is one of an evaluation set, or nearly", ("prompts",)),
        (
            "reward",
            REWARD,
            "self_test.reward",
            "the reward pays gold more than wrong, in a worker thread",
            ("reward-file", "judge", "prompts"),
        ),
    )
)
#: made by the trainer after the first rollout (rft/preflight/first_rollout.py)
LATER = {
    "first-kl": "KL to the reference is 0 before the first update",
    "first-mismatch": "trainer and engine agree on the first rollout's tokens",
}
NAMES = (*(check.name for check in CHECKS), *LATER)


def in_group(group: str) -> list[Check]:
    return [check for check in CHECKS if check.group == group]


def run_group(
    group: str, subject: Subject, skip: Collection[str], failed: Collection[str]
) -> Iterator[tuple[str, Result]]:
    """(name, result) of each check of a group but those of `skip`, in order, as they come.

    failed  of groups before this one
    """
    known = set(failed)
    for check in in_group(group):
        if check.name in skip:
            continue
        missing = [name for name in check.needs if name in known]
        result = skipped(f"not looked at: {missing[0]} failed") if missing else check(subject)
        if result.verdict == FAIL:
            known.add(check.name)
        yield check.name, result
