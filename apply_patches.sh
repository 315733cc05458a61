#!/usr/bin/env bash
# Usage: bash apply_patches.sh VERB [options]
#
# Manages the patches of the installed OpenRLHF 0.9.3. Verbs:
#   apply     bring it to the repo's series: all or nothing; a no-op when it is there already
#   check     would the series apply to the pristine files? changes nothing
#   verify    silent when exactly the repo's series is applied, else one line and exit 1
#   status    pristine | applied | stale | drifted, then details (--json)
#   reverse   restore the pristine files
#   regen     pin the pristine files anew in patches/base.sha256 (after a patch touches another file)
#   table     the patch table of the README, from the headers
# Options: --site-packages DIR (default: of $PYTHON, else of .venv), --patches DIR, -q (apply, reverse)
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
  PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m rft.patches "$@"
}

main "$@"
