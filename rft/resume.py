"""Save and continue a run from inside the policy actor.

Called by the patched ``PolicyModelActor`` on every ZeRO rank; the folder's format is `rft.checkpoint`'s.
"""

import os

from rft import checkpoint


def save(actor, tag: str, controller_state: dict) -> None:
    """Collective: write ``<ckpt_path>/<tag>_hf`` with everything that continuing needs, then drop the oldest.

    actor             the ``PolicyModelActor``
    controller_state  the trainer's JSON-able state: step, episode, data position, counters
    """
    args, strategy = actor.strategy.args, actor.strategy
    path = os.path.join(args.ckpt_path, f"{tag}_hf")
    model = strategy._unwrap_model(actor.actor)
    if args.enable_ema or args.lora_rank == 0:
        strategy.save_model(actor.ema_model if args.enable_ema else actor.actor, actor.tokenizer, path)
        return
    identity = {key: checkpoint.jsonable(getattr(args, key)) for key in checkpoint.IDENTITY}
    checkpoint.save_adapter(
        model,
        actor.tokenizer,
        path,
        write_resume=lambda folder: checkpoint.write_rank_state(actor.actor.model, actor.actor_scheduler, folder),
        state={"identity": identity, "controller": controller_state},
    )
    checkpoint.prune(args.ckpt_path, args.max_ckpt_num)


def load(actor) -> dict:
    """Collective: continue from the newest whole checkpoint under ``--ckpt_path``; the controller's state."""
    return checkpoint.load(actor.actor.model, actor.actor_scheduler, actor.strategy.args)
