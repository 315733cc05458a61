#!/usr/bin/env bash
# Usage: POOL=400 NS=8 TBS=16 EP=1 WARMUP=0.05 LR=5e-7 bash preflight_lr.sh [--json]
#
# The learning rate of a planned run, from the scheduler that the run will use: at optimizer steps and rollouts 1, 5, 10,
# 20 and 50, and as a plot. Exit status 1 if it is under 30 % of the target at optimizer step 20, with the warm-up or the
# number of episodes that would pass. The launchers check the same with their own values.
#
#   POOL    prompts; POOL=$(wc -l < data/sft_rl_pool.jsonl)    EP      passes over them (--num_episodes)
#   NS      answers to a prompt (--n_samples_per_prompt)       WARMUP  share of the steps (--lr_warmup_ratio)
#   TBS     answers of an optimizer step (--train_batch_size)  LR      target (--actor_learning_rate)
#   and, where they are not 16, 1 and cosine_with_min_lr: RBS (prompts of a rollout), MAX_EPOCHS, SCHEDULER
#
# The same as: rft preflight-lr
set -euo pipefail

main() {
  local root
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
  case "${1:-}" in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      return 0
      ;;
  esac
  local python=${PYTHON:-$root/.venv/bin/python}
  if ! command -v "$python" >/dev/null; then
    echo "error: $python: no such Python; run: bash setup.sh" >&2
    return 2
  fi
  PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m rft.cli preflight-lr "$@"
}

main "$@"
