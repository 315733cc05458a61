#!/usr/bin/env bash
# Usage: bash docker/train.sh [--dry-run] [LAUNCHER.sh] [flags of the launcher]
#
# Runs a launcher of this repository (default train_grpo_1gpu.sh) in the image that docker/build.sh made:
#   bash docker/train.sh train_grpo_20b.sh --num_episodes 5
# The hub's cache, data/ and runs/ are this machine's; compiled kernels stay in the docker volume rft-cache. Tokens are
# handed on by name: docker takes their values from this shell's environment, no command line and no image holds them.
#
#   --dry-run   print the command, one token a line; touch nothing
#
# Environment: RFT_IMAGE (rft), RFT_DOCKER_GPUS (all; device=0; none for the cpu image), RFT_DOCKER_SHM (16g),
# RFT_DOCKER_SANDBOX=0 (keep docker's own confinement: the code reward, which needs user namespaces, is refused then),
# HF_HOME, RFT_RUNS_DIR. Handed on where set: HF_TOKEN, HF_REPO_ID, HF_HUB_OFFLINE, GEMINI_API_KEY, GOOGLE_API_KEY,
# WANDB_API_KEY and every other RFT_ variable.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TOKENS=(HF_TOKEN HF_REPO_ID HF_HUB_OFFLINE GEMINI_API_KEY GOOGLE_API_KEY WANDB_API_KEY)

die() {
  echo "error: $1" >&2
  exit 2
}

# Names of the variables to hand on.
handed_on() {
  local name
  for name in "${TOKENS[@]}" $(compgen -e RFT_ || true); do
    case $name in
      RFT_DOCKER_* | RFT_IMAGE | RFT_KIND | RFT_RUNS_DIR) ;;
      *) [[ -n ${!name:-} ]] && echo "$name" ;;
    esac
  done
  return 0
}

main() {
  local dry=no launcher=train_grpo_1gpu.sh
  case ${1:-} in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      return 0
      ;;
    --dry-run)
      dry=yes
      shift
      ;;
  esac
  if [[ ${1:-} == *.sh ]]; then
    launcher=$1
    shift
  fi
  [[ $launcher != */* && -f $ROOT/$launcher ]] || die "$launcher: no launcher of $ROOT; give one like train_grpo_20b.sh"

  local hub=${HF_HOME:-$HOME/.cache/huggingface} runs name
  runs=$(realpath -m "${RFT_RUNS_DIR:-$ROOT/runs}") # docker takes no relative path
  local command=(
    docker run --rm
    --init                                 # reaps what a killed engine leaves
    --shm-size "${RFT_DOCKER_SHM:-16g}"    # Ray's object store and NCCL; docker's own 64 MB end a run at its start
    --ulimit memlock=-1                    # pinned memory
    --ulimit stack=67108864
    --mount "type=volume,src=rft-cache,dst=/root/.cache"
    --mount "type=bind,src=$hub,dst=/root/.cache/huggingface"
    --mount "type=bind,src=$ROOT/data,dst=/opt/rft/data"
    --mount "type=bind,src=$runs,dst=/opt/rft/runs"
  )
  if [[ ${RFT_DOCKER_GPUS:-all} != none ]]; then
    command+=(--gpus "${RFT_DOCKER_GPUS:-all}")
  fi
  if [[ ${RFT_DOCKER_SANDBOX:-1} == 1 ]]; then
    command+=(--security-opt seccomp=unconfined --security-opt apparmor=unconfined)
  fi
  if [[ -t 0 && -t 1 ]]; then
    command+=(--interactive --tty)
  fi
  while read -r name; do
    command+=(--env "$name")
  done < <(handed_on)
  command+=("${RFT_IMAGE:-rft}" "$launcher" "$@")
  if [[ $dry == yes ]]; then
    printf '%s\n' "${command[@]}"
    return 0
  fi
  command -v docker >/dev/null || die 'docker is not on PATH: install it, or start the launcher without a container'
  mkdir -p "$hub" "$runs"
  exec "${command[@]}"
}

main "$@"
