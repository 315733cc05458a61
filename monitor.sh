#!/usr/bin/env bash
# Usage: bash monitor.sh [RUN] [--once] [--all] [--every S] [--width N] [--no-color] [--ascii] [--no-diagnosis]
#
# Follows a run on the terminal: step, ETA, phases, figures with healthy ranges, evaluations, certificate, spikes, GPUs,
# disks, diagnosis. RUN: an id, the beginning of one, `last` (default), or a folder, copied ones too. Reads only.
# --once prints a plain snapshot, as into a pipe; --svg FILE draws it. Keys: q quits, a shows all figures.
# The same as: rft monitor
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
  PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m rft.cli monitor "$@"
}

main "$@"
