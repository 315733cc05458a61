#!/usr/bin/env bash
# Usage: bash train_grpo.sh [--dry-run] [--verbose] [--resume RUN] [flags of openrlhf.cli.train_ppo_ray]
#
# GRPO on gpt-oss-120b with LoRA, for one machine with 8 H100: two vLLM engines (TP=2) on GPUs 0-3, four ZeRO-3 actor
# ranks on GPUs 4-7. This file is the recipe; a trailing flag overrides any of it:
#   bash train_grpo.sh --num_episodes 100 --actor_learning_rate 5e-7
# Set-up, checks, run folder, Ray and the end of everything are the launcher's (rft/launch.py).
#
#   --dry-run      print the resolved command, one token a line; touch nothing
#   --preflight    check everything that can be known before a run, print the table; --skip CHECK leaves one out
#   --verbose      the training process's output on the terminal too (it always goes to the run's log.txt)
#   --resume RUN   continue a run (id, `last`, `auto` or folder) from its newest whole checkpoint
#   --on_hang M    log, stop or off: a step that takes far longer than its median is examined, with stop it ends the run
#   --name NAME    begin of the run's id
#   --env N=V      set a variable for the run, unless the environment has it
#   --config FILE  settings in YAML over the recipe's; flags win over both. --print-config prints the resolved whole
#   --task TYPE    math, code, action or custom: prompts, reward and template (docs/config.md)
#
# Relative paths are relative to this repository. Switches, for flags that a later flag cannot take back:
#   RFT_OFFLOAD=1|0      parameters and optimizer on the CPU
#   RFT_STREAM_LOAD=1|0  each rank reads its own part of the checkpoint's shards
# Environment: RFT_MODEL (the model), RFT_SKIP_SETUP=1 (no setup.sh), RFT_VERBOSE=1, RAY_ADDRESS (join that Ray cluster
# and leave it up), RFT_RAY_PORT, RFT_RUNS_DIR, METRICS_LOG_DIR, SAMPLES_LOG_DIR, RFT_CKPT_DIR, RFT_SAVE_DIR,
# RFT_LOG_FILE, RFT_MIN_FREE_GB; limits in seconds: RFT_WAIT_S (any wait on an actor or engine), RFT_REWARD_S (a reward),
# RFT_STOP_S (update and save after SIGTERM), RFT_HANG_START_S (the first step).
set -euo pipefail

RECIPE=${BASH_SOURCE[0]}

# --- which model, which data ---
model=(
  --pretrain "${RFT_MODEL:-openai/gpt-oss-120b}"
  --param_dtype bf16
  --attn_implementation eager        # flash attention 2 and 3 drop gpt-oss's attention sinks without a word
)
data=(
  --prompt_data data/aime_train.jsonl
  --input_key input
  --label_key label
  --apply_chat_template              # Harmony: without it gpt-oss does not know that it is asked something
  --prompt_max_len 1024              # AIME prompts end at about 350 tokens
  --generate_max_len 3072            # raise it when more than 70 % of the answers are cut off
)
reward=(
  --remote_rm_url reward_func.py     # 0.6 x exact match + 0.4 x judged reasoning
)

# --- the algorithm ---
algorithm=(
  --advantage_estimator dr_grpo      # group mean subtracted, no division by the std, no 1/length bias
  --n_samples_per_prompt 8           # group size: the advantage of 1 in 8 is still visible
  --rollout_batch_size 8             # prompts; 64 answers a step
  --train_batch_size 8               # answers: 8 optimizer steps a rollout
  --micro_rollout_batch_size 1       # eager attention takes about 6 GB for each sequence of 4k
  --micro_train_batch_size 1         # the same
  --eps_clip 0.1                     # 0.2 gave gradient spikes from extreme probability ratios
  --init_kl_coef 0                   # saves a pass of the reference; LoRA and the clip hold the policy near
  --entropy_loss_coef 0              # 0 logs the entropy and leaves the loss alone
  --num_episodes 50
  --seed 42
  --rollout_seed request             # every answer has its own seed: a resumed run samples as the whole one would
)
optimizer=(
  --actor_learning_rate 1e-6
  --lr_warmup_ratio 0.001            # 50 of some 47,000 optimizer steps; 0.03 would be 1,400 at next to nothing
  --lora_rank 64
  --lora_alpha 128                   # alpha / r = 2
  --target_modules q_proj k_proj v_proj o_proj  # all-linear would reach the experts of the MoE
)

# --- where it runs ---
placement=(
  --actor_num_nodes 1
  --actor_num_gpus_per_node 4        # GPUs 4-7
  --vllm_num_engines 2
  --vllm_tensor_parallel_size 2      # GPUs 0-3: 65 GB of MXFP4 weights on two 80 GB cards
  --vllm_gpu_memory_utilization 0.85 # leaves room for adapter buffers and CUDA graphs
  --vllm_sync_with_ray               # adapters through Ray's object store: no NCCL group over actor boundaries
)
zero=(
  --zero_stage 3
  --gradient_checkpointing
  --gradient_checkpointing_use_reentrant  # the other kind compares shapes that ZeRO-3 changes
)
offload=(
  --offload                          # bf16 weights are 58 GB a rank: they live on the host
  --adam_offload
)
stream_load=(
  --stream_load                      # else each rank loads all 234 GB, and deepspeed.initialize moves them to its GPU
)
reference=(
  --reference actor                  # with a KL term: the actor without its adapter, no second model; or separate, with
  --ref_num_nodes 1                  # --colocate_actor_ref if it is to share the actor's GPUs
  --ref_num_gpus_per_node 4
)

# --- do the engines serve what was trained? ---
agreement=(
  --lora_apply sidepath              # exact; merge has no decode overhead and loses small updates in bf16
  --canary_every 10                  # each takes two forward passes of the actor over a few prompts
  --mismatch_abort 0.1               # healthy gpt-oss is at 0.01 to 0.03; above 0.05 something is wrong
)

# --- what is measured and kept ---
evaluation=(
  --eval_dataset data/aime_eval.jsonl
  --eval_steps 10
  --eval_at_start                    # without a number for step 0 there is no before and after
  --eval_temperature 0.6
  --eval_n_samples_per_prompt 8
)
checkpoints=(
  --save_steps 10                    # with the evaluations, so that each has its checkpoint; 10 steps are what a crash costs
  --save_hf_ckpt
  --disable_ds_ckpt                  # the resume state of the adapter is saved with it: no second copy of the base
  --max_ckpt_num 3
)
environment=(
  --env PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True  # answers of every length fragment the allocator
  --env NCCL_DEBUG=WARN
  --env TOKENIZERS_PARALLELISM=false # forks after tokenising would warn and may deadlock
)

# The header comment of each file named.
show_help() {
  local file
  for file in "$@"; do
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$file"
  done
}

main() {
  local root python word skip_setup=${RFT_SKIP_SETUP:-0}
  root=$(cd "$(dirname "$RECIPE")" && pwd)
  for word in "$@"; do
    case $word in
      -h | --help)
        show_help ${RFT_PRESET:+"$RFT_PRESET"} "$RECIPE"
        return 0
        ;;
      --dry-run | --print-config | --preflight) skip_setup=1 ;;
    esac
  done

  cd "$root"
  if [[ $skip_setup != 1 ]]; then
    bash setup.sh
  fi
  python=$root/.venv/bin/python
  if [[ ! -x $python ]]; then
    python=python3 # enough for --dry-run
  fi
  if [[ ${RFT_OFFLOAD:-1} != 1 ]]; then
    offload=()
  fi
  if [[ ${RFT_STREAM_LOAD:-1} != 1 ]]; then
    stream_load=()
  fi

  PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -u -m rft.launch --name gpt-oss-120b-grpo \
    "${environment[@]}" -- "${model[@]}" "${data[@]}" "${reward[@]}" "${algorithm[@]}" "${optimizer[@]}" \
    "${placement[@]}" "${zero[@]}" "${offload[@]}" "${stream_load[@]}" "${reference[@]}" "${agreement[@]}" \
    "${evaluation[@]}" "${checkpoints[@]}" -- "$@"
}

main "$@"
