#!/usr/bin/env bash
# Usage: bash tests/run.sh [--fast] [pytest options and paths]
#
# Sets up, lints (ruff, shellcheck), then runs the tests: the fast tier (a worker a core, at most 8; -n 0: in one
# process), then the engine tier, which starts real engines.
#   --fast   leave the engine tier out
# Ends by saying how many engine-tier tests ran; a whole run in which none ran has failed.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BIN=$ROOT/.venv/bin
FAILED=()

# check NAME COMMAND...: runs it, remembers a failure, goes on.
check() {
  local name=$1
  shift
  "$@" || FAILED+=("$name")
}

lint() {
  local scripts
  mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh' .ci/run)
  check 'ruff check' "$BIN/ruff" check --quiet .
  check 'ruff format' "$BIN/ruff" format --check .
  check shellcheck "$BIN/shellcheck" "${scripts[@]}"
}

# tier NAME MARK REPORT OWN CALLER'S...: OWN is one string of options, the caller's may overrule them. 5 is pytest's
# "no tests collected", which a path or -k can bring about in one tier.
tier() {
  local name=$1 mark=$2 report=$3 code=0 own
  read -ra own <<<"$4"
  shift 4
  "$BIN/python" -m pytest -q -m "$mark" --junitxml="$report" "${own[@]}" "$@" || code=$?
  if [[ $code != 0 && ! ($code == 5 && $# -gt 0) ]]; then FAILED+=("$name"); fi
}

# Prints "ran failed skipped" of a junit report.
count() {
  "$BIN/python" - "$1" <<'PY'
import sys
import xml.etree.ElementTree as tree

try:
    suite = tree.parse(sys.argv[1]).getroot().find("testsuite")
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    print(total - skipped, int(suite.get("failures")) + int(suite.get("errors")), skipped)
except (OSError, tree.ParseError, AttributeError):
    print(0, 0, 0)
PY
}

main() {
  local fast=no
  case "${1:-}" in
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
      return 0
      ;;
    --fast)
      fast=yes
      shift
      ;;
  esac
  cd "$ROOT"
  bash setup.sh
  lint
  REPORTS=$(mktemp -d)
  trap 'rm -rf "${REPORTS:?}"' EXIT
  tier 'fast tier' 'not engine' "$REPORTS/fast.xml" '-n auto --maxprocesses 8 --dist loadfile' "$@"
  local ran=0 bad=0 skipped=0
  if [[ $fast == no ]]; then
    tier 'engine tier' engine "$REPORTS/engine.xml" '--durations 20' "$@"
    read -r ran bad skipped < <(count "$REPORTS/engine.xml")
    if [[ $ran == 0 && $# == 0 ]]; then FAILED+=('engine tier: no test ran'); fi
    echo "engine tier: $ran tests ran, $bad failed, $skipped skipped"
  else
    echo 'engine tier: 0 tests ran (--fast)'
  fi
  if [[ ${#FAILED[@]} -gt 0 ]]; then
    printf 'error: failed: %s\n' "${FAILED[@]}" >&2
    return 1
  fi
}

main "$@"
