#!/usr/bin/env bash
# Usage: bash requirements/compile.sh [uv pip compile options, e.g. --upgrade or --upgrade-package ray]
#
# Regenerates cpu.lock and gpu.lock beside it from cpu.in (with cpu.overrides) and gpu.in. Pins that a lock holds
# already are kept unless an option says otherwise. Refuses to leave a lock that names an index or a path.
set -euo pipefail

compile() {
  local name=$1
  shift
  # The real command line would tell the index and the paths of the machine it ran on.
  UV_CUSTOM_COMPILE_COMMAND='bash requirements/compile.sh' uv pip compile "$name.in" --quiet --python-version 3.11 \
    --no-emit-index-url --no-emit-find-links -o "$name.lock" "$@"
  if grep -nE '://|(^|[^[:alnum:]._-])/[[:alnum:]]|--(extra-)?index|find-links' "$name.lock"; then
    echo "error: $name.lock names an index or a path in the lines above; compile it with plain package names" >&2
    return 1
  fi
}

main() {
  case "${1:-}" in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      return 0
      ;;
  esac
  cd "$(dirname "${BASH_SOURCE[0]}")"
  compile cpu --override cpu.overrides "$@"
  # Its wheels (CUDA, vLLM) exist for this platform and newer ones only.
  compile gpu --python-platform x86_64-manylinux_2_31 "$@"
}

main "$@"
