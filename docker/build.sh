#!/usr/bin/env bash
# Usage: bash docker/build.sh [--dry-run] [options of docker build]
#
# Builds the image `rft` from this working tree. Needs docker with BuildKit (23 or newer) and about 30 GB of disk.
#
#   --dry-run   print the command, one token a line
#
# Environment: RFT_IMAGE (name of the image, default rft), RFT_KIND (gpu, the default, or cpu: which lock)
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

main() {
  local words=() dry=no word
  for word in "$@"; do
    case $word in
      -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        return 0
        ;;
      --dry-run) dry=yes ;;
      *) words+=("$word") ;;
    esac
  done
  case ${RFT_KIND:-gpu} in
    gpu | cpu) ;;
    *)
      echo "error: RFT_KIND=$RFT_KIND: give gpu or cpu" >&2
      return 2
      ;;
  esac
  local command=(
    docker build
    --file "$ROOT/docker/Dockerfile"
    --tag "${RFT_IMAGE:-rft}"
    --build-arg "KIND=${RFT_KIND:-gpu}"
    "${words[@]}"
    "$ROOT"
  )
  if [[ $dry == yes ]]; then
    printf '%s\n' "${command[@]}"
    return 0
  fi
  if ! command -v docker >/dev/null; then
    echo 'error: docker is not on PATH: install it, or use setup.sh without a container' >&2
    return 2
  fi
  DOCKER_BUILDKIT=1 exec "${command[@]}"
}

main "$@"
