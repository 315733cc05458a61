#!/usr/bin/env bash
# Usage: bash train_grpo_1gpu.sh [--profile gpu|cpu] [--dry-run] [--verbose] [--resume RUN] [flags of
#        openrlhf.cli.train_ppo_ray]
#
# GRPO with LoRA where the actor and the engine share one GPU: the engine sleeps while the actor trains, and the actor's
# weights wait on the host while the engine generates. Ten steps on one prompt, a fast matmul in pure Python; a
# checkpoint every ten steps; the adapter in the run's final_model/. A preset of train_grpo_20b.sh.
#
#   --profile cpu   the same placement without a GPU: the tiny gpt-oss and its sums, one rank, one TP=1 engine (a preset
#                   of train_grpo_tiny.sh; the CPU has no sleep mode)
#
# Memory by card: docs/one_gpu.md. The rest of the help is that of the recipe below it:
#
set -euo pipefail

one_gpu=(
  --name one-gpu
  --save_name final_model
  --actor_num_gpus_per_node 1
  --ref_num_gpus_per_node 1        # for --reference separate
  --vllm_num_engines 1
  --vllm_tensor_parallel_size 1
  --colocate_all_models            # one placement group: actor and engine on the same device
  --deepspeed_enable_sleep         # optimizer states leave the GPU between updates; nothing to do under --adam_offload
  --lora_rank 8                    # 4 million parameters at 20b
  --lora_alpha 16                  # alpha / r stays 2
  --num_episodes 1
  --save_steps 10
)
gpu=(
  --task code
  --task_set repeat=10             # one prompt a step: ten steps
  --task_set effort=low            # 256 tokens of answer leave no room for a long analysis
  --prompt_max_len 256             # with the answer a context of 512
  --generate_max_len 256
  --n_samples_per_prompt 8
  --rollout_batch_size 1
  --train_batch_size 8             # one optimizer step a rollout
  --actor_learning_rate 5e-5       # few steps, small rank
  --vllm_enable_sleep
  --canary_every 0                 # a sleeping engine answers none; every sync's digests are compared all the same
  --enforce_eager                  # CUDA graphs would stay on the GPU while the engine sleeps
  --vllm_gpu_memory_utilization 0.85
  --env PYTORCH_CUDA_ALLOC_CONF=   # vLLM's sleep mode refuses expandable segments
)
cpu=(
  --actor_learning_rate 1e-3       # as in train_grpo_tiny.sh; 20 steps
)

main() {
  local profile=gpu words=()
  while (($#)); do
    case $1 in
      --profile)
        profile=${2:-}
        shift
        ;;
      --profile=*) profile=${1#*=} ;;
      *) words+=("$1") ;;
    esac
    (($#)) && shift
  done
  export RFT_PRESET=${BASH_SOURCE[0]}
  local here
  here=$(dirname "${BASH_SOURCE[0]}")
  case $profile in
    gpu)
      export RFT_OFFLOAD=${RFT_OFFLOAD:-1} # 42 GB of bf16 wait on the host; 0 keeps them on an 80 GB card
      exec bash "$here/train_grpo_20b.sh" "${one_gpu[@]}" "${gpu[@]}" -- "${words[@]}"
      ;;
    cpu) exec bash "$here/train_grpo_tiny.sh" "${one_gpu[@]}" "${cpu[@]}" -- "${words[@]}" ;;
    *)
      echo "error: --profile $profile: give gpu or cpu" >&2
      return 2
      ;;
  esac
}

main "$@"
