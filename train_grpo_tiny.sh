#!/usr/bin/env bash
# Usage: bash train_grpo_tiny.sh [--dry-run] [--verbose] [--resume RUN] [flags of openrlhf.cli.train_ppo_ray]
#
# The same loop for real on a CPU machine (2 cores, under 16 GiB): makes a gpt-oss of about a million parameters that
# answers small sums, trains it by GRPO with two ZeRO-3 ranks and a TP=2 vLLM engine, and prints a table, before and
# after, on held-out sums. A preset of train_grpo.sh, whose help follows.
#
# Environment: RFT_TINY_DIR (where the model is made, default data/tiny/seed0)
#
set -euo pipefail

DIR=${RFT_TINY_DIR:-data/tiny/seed0}

flags=(
  --name tiny
  --tiny "$DIR"                   # made first where it does not stand yet; the summary comes at the end
  --pretrain "$DIR/model"
  --engine_pretrain "$DIR/model-bf16"  # bit-exact dequantisation: vLLM's CPU build cannot load MXFP4
  --prompt_data "$DIR/train.jsonl"
  --remote_rm_url reward_func_em.py
  --prompt_max_len 64
  --generate_max_len 32
)
algorithm=(
  --rollout_batch_size 16
  --train_batch_size 128          # one optimizer step a rollout: the on-policy ratio stays 1
  --micro_train_batch_size 8
  --micro_rollout_batch_size 8    # as above: training sees the rows that the old log-probs saw
  --actor_learning_rate 1e-3      # a model this small needs a thousand times the big one's
  --lr_warmup_ratio 0.03          # 2 of 40 optimizer steps
  --lora_rank 16
  --lora_alpha 32
  --init_kl_coef 0.001            # the reference runs, so the KL is logged
  --canary_every 1                # each step proves that the engine serves the trained policy; here it costs little
  --num_episodes 2                # 40 steps
)
placement=(
  --actor_num_gpus_per_node 2     # logical GPUs: no device stands behind them
  --ref_num_gpus_per_node 2       # for --reference separate
  --vllm_num_engines 1
  --vllm_tensor_parallel_size 2
  --enforce_eager                 # no CUDA graphs on a CPU
)
evaluation=(
  --eval_dataset "$DIR/heldout.jsonl"
  --eval_at_end
  --eval_greedy                   # greedy_pass@1 beside the sampled accuracy
  --eval_temperature 1.0          # the temperature that is trained at
  --check_base_digest             # the frozen base is proven unchanged on every rank
)
environment=(
  --env DS_ACCELERATOR=cpu
  --env VLLM_CPU_KVCACHE_SPACE=1  # GiB; the default takes half the machine
  --env VLLM_CPU_OMP_THREADS_BIND=nobind  # two tensor-parallel workers and two ranks share two cores
  --env OMP_NUM_THREADS=1
  --env TORCHDYNAMO_DISABLE=1     # else the first sampled batch waits 20 s for a compile
  --env HF_HUB_OFFLINE=1          # everything is on the disk
)

main() {
  export RFT_PRESET=${RFT_PRESET:-${BASH_SOURCE[0]}}
  exec bash "$(dirname "${BASH_SOURCE[0]}")/train_grpo.sh" "${flags[@]}" "${algorithm[@]}" "${placement[@]}" \
    "${evaluation[@]}" "${environment[@]}" -- "$@"
}

main "$@"
