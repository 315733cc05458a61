"""The sections of a configuration file: which settings there are, where each stands and what value it takes.

A setting is a flag of ``openrlhf.cli.train_ppo_ray`` (patched) under its own name, or an option of the launcher.
The flags, their kinds and defaults come from the installed parser; only the section is written down here. A flag that
nobody has put into a section yet stands in `OTHER`.
"""

import argparse
from dataclasses import dataclass

from rft import upstream_cli

OTHER = "grpo"
SWITCH, VALUE, LIST, MAP = "switch", "value", "list", "map"

#: section -> flags of OpenRLHF, in the order in which they are printed
FLAGS = {
    "model": """
        pretrain engine_pretrain param_dtype attn_implementation load_in_4bit use_liger_kernel disable_fast_tokenizer
        actor_num_nodes actor_num_gpus_per_node ref_num_nodes ref_num_gpus_per_node critic_num_nodes
        critic_num_gpus_per_node colocate_actor_ref colocate_critic_reward colocate_all_models zero_stage zpg offload
        adam_offload experts stream_load logprob_chunk_tok ref_reward_offload
        actor_init_on_gpu deepspeed_enable_sleep gradient_checkpointing
        gradient_checkpointing_use_reentrant grad_accum_dtype overlap_comm deepcompile ds_tensor_parallel_size
        ring_attn_size ring_head_stride packing_samples use_dynamic_batch rollout_max_tokens_per_gpu
        train_max_tokens_per_gpu local_rank critic_pretrain value_head_prefix check_base_digest use_ms perf
    """,
    "grpo": """
        advantage_estimator n_samples_per_prompt rollout_batch_size train_batch_size micro_train_batch_size
        micro_rollout_batch_size num_episodes max_epochs seed actor_learning_rate lr_scheduler lr_warmup_ratio
        adam_betas l2 max_norm spike_grad_norm spike_zscore on_spike stop_on_smoke_failure
        eps_clip eps_clip_low_high dual_clip value_clip init_kl_coef kl_target
        kl_horizon kl_estimator use_kl_loss reference entropy_loss_coef aux_loss_coef policy_loss_type
        no_advantage_std_norm normalize_reward lambd gamma freezing_actor_steps critic_learning_rate ptx_coef
        enable_ema ema_beta dynamic_filtering dynamic_filtering_reward_range full_determinism
    """,
    "lora": "lora_rank lora_alpha lora_dropout target_modules allow_expert_lora lora_apply",
    "data": """
        prompt_data prompt_data_probs prompt_split max_samples input_key label_key input_template apply_chat_template
        prompt_max_len prompt_sampler stream_steps
    """,
    "reward": """
        remote_rm_url reward_pretrain reward_num_nodes reward_num_gpus_per_node reward_clip_range overlong_buffer_len
        overlong_penalty_factor stop_properly_penalty_coef agent_func_path
    """,
    "rollout": """
        generate_max_len max_len temperature top_p rollout_seed vllm_num_engines vllm_tensor_parallel_size
        vllm_gpu_memory_utilization vllm_enable_sleep enforce_eager enable_prefix_caching vllm_generate_batch_size
        vllm_sync_with_ray vllm_sync_backend canary_every canary_dlogp_mean canary_dlogp_max mismatch_abort
        enable_vllm_is_correction vllm_is_correction_type vllm_is_truncated_threshold async_train async_queue_size
    """,
    "eval": """
        eval_dataset eval_split eval_steps eval_at_start eval_at_end eval_greedy early_stop eval_temperature
        eval_n_samples_per_prompt
    """,
    "save": """
        save_steps save_path ckpt_path save_hf_ckpt disable_ds_ckpt max_ckpt_num max_ckpt_mem load_checkpoint
        use_ds_universal_ckpt save_value_network logging_steps use_wandb wandb_org wandb_group wandb_project
        wandb_run_name use_tensorboard
    """,
}
#: the launcher's own options: name -> (section, kind)
OWN = {
    "env": ("model", MAP),
    "tiny": ("model", VALUE),
    "reward_gate": ("reward", VALUE),
    "name": ("save", VALUE),
    "save_name": ("save", VALUE),
    "after": ("save", VALUE),
}
#: what to do rather than a setting of a run; these stand on the command line
COMMANDS = (
    "print_config",
    "dry_run",
    "verbose",
    "resume",
    "flags",
    "task",
    "task_set",
    "unset_env",
    "preflight",
    "json",
    "skip",
)
SECTIONS = (*FLAGS, "task")


@dataclass(frozen=True)
class Key:
    """One setting. action: the parser's, None for the launcher's own options."""

    name: str
    section: str
    kind: str
    action: argparse.Action | None = None

    @property
    def flag(self) -> str:
        return f"--{self.name}" if self.action is None else self.action.option_strings[0]


def keys() -> dict[str, Key]:
    """Every setting but the task's, by name, section by section in the printed order.

    raises  RftError if OpenRLHF is not installed
    """
    actions = upstream_cli.actions()
    found: dict[str, Key] = {}
    for section, names in FLAGS.items():
        for name in names.split():
            if name in actions:
                found[name] = Key(name, section, _kind(actions[name]), actions[name])
        for name, kind in own_options().items():
            if kind[0] == section:
                found[name] = Key(name, *kind)
    for name, action in actions.items():
        found.setdefault(name, Key(name, OTHER, _kind(action), action))
    return found


def own_options() -> dict[str, tuple[str, str]]:
    """`OWN`, and what the launcher has learned since: its options are the fields of `rft.launch.Options`."""
    from dataclasses import fields

    from rft.launch import Options

    added = {}
    for field in fields(Options):
        if field.name not in OWN and field.name not in COMMANDS:
            added[field.name] = ("save", SWITCH if field.default is False else VALUE)
    return OWN | added


def _kind(action: argparse.Action) -> str:
    if action.nargs == 0:
        return SWITCH
    return LIST if action.nargs in ("*", "+") or isinstance(action.nargs, int) else VALUE
