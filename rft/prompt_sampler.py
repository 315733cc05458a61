"""Which prompts a rollout gets: every one once an episode, or a stream of random draws.

`make` is called by the patched ``prepare_datasets`` of openrlhf/trainer/ppo_trainer.py in the controller process. What
it returns is iterated one prompt at a time, has a length (prompts of an episode) and a state that a checkpoint keeps.
"""

import math
from argparse import Namespace

from rft.data.step_stream import StepStream
from rft.errors import RftError
from rft.prompts import PromptLoader

CHOICES = ("epochs", "stream")


def make(dataset, args: Namespace) -> PromptLoader | StepStream:
    """The prompts in the order of --prompt_sampler.

    epochs  each prompt once an episode, in an order of (--seed, episode)
    stream  each rollout a draw of --rollout_batch_size different prompts, of (--seed, rollout); an episode is
            --stream_steps rollouts, or as many as go through the data once. OpenRLHF repeats a prompt for its group
    raises  RftError if the data has fewer prompts than a rollout draws, or --stream_steps goes with epochs
    """
    steps = args.stream_steps
    if args.prompt_sampler == "epochs":
        if steps is not None:
            raise RftError(f"--stream_steps {steps} needs --prompt_sampler stream; add it or leave the number out")
        return PromptLoader(dataset, args.seed)
    batch = args.rollout_batch_size
    if len(dataset) < batch:
        raise RftError(
            f"--prompt_sampler stream draws {batch} different prompts a rollout, --prompt_data has {len(dataset)}; "
            "give more prompts or a smaller --rollout_batch_size"
        )
    return StepStream(dataset, batch, 1, args.seed, steps or math.ceil(len(dataset) / batch))
