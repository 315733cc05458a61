#!/usr/bin/env bash
# Usage: bash train_grpo_20b.sh [--dry-run] [--verbose] [--resume RUN] [flags of openrlhf.cli.train_ppo_ray]
#
# GRPO on gpt-oss-20b with LoRA on 8 H100: a preset of train_grpo.sh, whose help follows. Exact-match reward on the RL
# pool, a small KL to the reference, no offload.
#
set -euo pipefail

flags=(
  --name gpt-oss-20b-grpo
  --pretrain "${RFT_MODEL:-openai/gpt-oss-20b}"
  --prompt_data data/sft_rl_pool.jsonl
  --remote_rm_url reward_func_em.py
  --generate_max_len 4096
  --rollout_batch_size 16
  --train_batch_size 16           # answers: 8 optimizer steps a rollout, as in the 120b recipe
  --actor_learning_rate 5e-7      # start low; raise it when nothing moves for 20 episodes
  --lr_warmup_ratio 0.0001        # 50 of 500,000 optimizer steps; 0.05 would be 25,000 at next to nothing
  --init_kl_coef 0.001            # lets it explore, holds it near the base
  --lora_rank 32                  # smaller model, smaller rank; alpha / r stays 2
  --lora_alpha 64
  --num_episodes 20
  --eval_dataset data/probe_set_200_ood.jsonl  # disjoint from the pool: the signal checkpoints are chosen by
  --eval_steps 5
  --eval_temperature 0.0          # greedy: more than one sample would be the same answer again
  --eval_n_samples_per_prompt 1
)

main() {
  export RFT_PRESET=${RFT_PRESET:-${BASH_SOURCE[0]}}
  export RFT_OFFLOAD=${RFT_OFFLOAD:-0} # 42 GB of bf16 on four 80 GB cards
  exec bash "$(dirname "${BASH_SOURCE[0]}")/train_grpo.sh" "${flags[@]}" -- "$@"
}

main "$@"
