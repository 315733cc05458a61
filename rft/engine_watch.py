"""The controller's part in keeping engines and trainer one policy: which prompts are canaries, who is up to date.

Used by the patched ``PPOTrainer``; the sync itself runs in the actors' ranks (`rft.lora_sync`).
"""

from rft import canary
from rft.doctor import waits


class EngineWatch:
    """One a run.

    version  of the adapter that every engine must serve; None before the first sync, or without LoRA
    """

    def __init__(self, args, engines: list | None, actor_group):
        self.args, self.engines, self.actor_group = args, engines or [], actor_group
        self.version: int | None = None

    def choose_canaries(self, prompts: list[str], tokenizer) -> None:
        """Tell the actors' ranks which prompts to score; before the first sync."""
        if self.args.lora_rank > 0 and self.engines and self.args.canary_every > 0:
            longest = min(canary.MAX_TOKENS, self.args.prompt_max_len)
            count = canary.ANSWER_TOKENS // min(canary.MAX_ANSWER, self.args.generate_max_len)
            chosen = canary.choose(prompts, tokenizer, count, longest)
            refs = self.actor_group.async_run_method(method_name="set_canaries", prompts=chosen)
            waits.get(refs, "the actors to take the canaries")

    def before_rollout(self) -> None:
        """No engine serves another version than the current one: one that was restarted gets it first.

        raises  RftError (in the actor) if an engine does not come to serve it
        """
        if self.version is None:
            return
        held = waits.get([engine.adapter_version.remote() for engine in self.engines], "the engines' adapter versions")
        if any(version != self.version for version in held):
            print(f"warning: engines hold adapter versions {held}, current is {self.version}: catching up", flush=True)
            refs = self.actor_group.async_run_method(method_name="catch_up_engines")
            waits.get(refs, "the engines to catch up with the adapter")
