#!/usr/bin/env bash
# Makes the Python environment of this repository, or leaves it alone when it is already the one that is asked for.
#
#   requirements/environment.sh [folder]      (default: .venv)
#
# Environment variables, all optional:
#   PYTHON         a Python 3.12 to make the folder with; otherwise one is searched, and fetched by uv when there is none
#   TORCH_BACKEND  another build of the locked torch, in uv's words: cpu, auto, cu128, ...; "default" is the locked one
#   TORCH_WHEEL    one or more wheel files or addresses that replace torch and torchvision (Jetson's builds)
#   RECREATE=1     start from an empty folder even if nothing changed
#
# A choice of torch is remembered in the folder, so later calls need not repeat it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV="${1:-.venv}"
LOCK="requirements/lock.txt"
SCRIPT="requirements/environment.sh"
UV_PIN="$(sed -n 's/^\(uv==[0-9.]*\).*/\1/p' "$LOCK")"
STAMP="$VENV/.made-of" # first line: what it was made of; second and third: the chosen torch
stamp_line() { sed -n "$1p" "$STAMP" 2>/dev/null || true; }
BACKEND="${TORCH_BACKEND:-}"
WHEEL="${TORCH_WHEEL:-}"
if [ -z "$BACKEND$WHEEL" ]; then
  BACKEND="$(stamp_line 2)"
  WHEEL="$(stamp_line 3)"
elif [ "$BACKEND" = default ]; then
  BACKEND=""
fi
QUIET=--quiet
[ -t 2 ] && QUIET="" # a person at a terminal sees the downloads' progress
# uv reads these two itself; the first would also apply where this script does not want it.
unset UV_TORCH_BACKEND VIRTUAL_ENV
export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-300}" # seconds: torch and its CUDA libraries are large files

say() { printf 'environment: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

is_python_312() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }
can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# What the environment was made of. The folder is part of it: a virtual environment breaks when it is moved.
fingerprint() {
  { sha256sum "$LOCK" setup.py setup.cfg "$SCRIPT"; printf '%s|%s|%s\n' "$PWD" "$BACKEND" "$WHEEL"; } |
    sha256sum | cut -d' ' -f1
}

find_python() { # prints a Python 3.12, or nothing
  local candidate candidates=(python3.12 python3 "$HOME"/.pyenv/versions/3.12*/bin/python)
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
  # python3.12 on the PATH may be a version manager's shim that refuses to run, so each candidate is tried.
  for candidate in "${candidates[@]}"; do
    if is_python_312 "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
}

apt_install() { # installs when it may, otherwise says the one command
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing with apt-get: $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
  else
    fail "please run:  sudo apt-get install -y $*"
  fi
}

make_venv() {
  local python helper
  python="$(find_python)"
  if [ -n "${PYTHON:-}" ] && [ -z "$python" ]; then
    fail "PYTHON=$PYTHON is not a working Python 3.12: give the path of one, or leave PYTHON unset to have one found."
  fi
  if [ -n "$python" ]; then
    can_make_venv "$python" || apt_install python3.12-venv
    say "making $VENV with $python"
    "$python" -m venv --clear "$VENV"
    return
  fi
  # No Python 3.12 here: any other Python can run pip once to get uv, and uv brings its own Python 3.12.
  say "no Python 3.12 found; uv fetches one"
  helper="$(mktemp -d)"
  can_make_venv python3 || apt_install python3-venv
  python3 -m venv "$helper"
  "$helper/bin/python" -m pip install --quiet --disable-pip-version-check "$UV_PIN"
  "$helper/bin/uv" venv --quiet --clear --managed-python --python 3.12 "$VENV" ||
    fail "no Python 3.12 here and none could be fetched: install one, or give its path as PYTHON=/path/to/python3.12"
  "$helper/bin/uv" pip install --quiet --python "$VENV/bin/python" "$UV_PIN"
  rm -rf "$helper"
}

ensure_uv() { # the lock holds uv as well, so the install below keeps this one
  if [ ! -x "$VENV/bin/uv" ]; then
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 || "$VENV/bin/python" -m ensurepip >/dev/null
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$UV_PIN"
  fi
}

# shellcheck disable=SC2086  # an empty QUIET must vanish
pip() { "$VENV/bin/uv" pip "$1" $QUIET --python "$VENV/bin/python" "${@:2}"; }

# ROS's wheels carry the egg-info of the packages inside them. The installer takes these for packages of their own that
# the lock does not name, and the next update would uninstall rclpy and every message from under their wheels.
drop_stray_metadata() { rm -rf "$VENV"/lib/python3.12/site-packages/*.egg-info; }

install_locked() {
  if [ -z "$BACKEND$WHEEL" ]; then
    pip sync "$LOCK"
    return
  fi
  # Another torch: everything but torch and its CUDA libraries comes from the lock, then torch brings its own.
  local rest torch replaced='torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+'
  # torchcodec is compiled against one torch release, and nothing here needs it: videos are decoded with PyAV.
  if [ -n "$WHEEL" ]; then replaced+='|torchcodec'; fi
  rest="$(mktemp)"
  grep -vE "^($replaced)==" "$LOCK" >"$rest"
  pip install --no-deps -r "$rest"
  rm -f "$rest"
  if [ -n "$WHEEL" ]; then
    # shellcheck disable=SC2086  # several wheels, separated by spaces
    pip install $WHEEL
  else
    torch="$(sed -nE 's/^((torch|torchvision)==[^ ;]+).*/\1/p' "$LOCK")"
    # shellcheck disable=SC2086
    pip install --torch-backend "$BACKEND" $torch
  fi
}

[ -n "$UV_PIN" ] || fail "$LOCK does not pin uv: run 'make lock'."
[ -z "$BACKEND" ] || [ -z "$WHEEL" ] || fail "set TORCH_BACKEND or TORCH_WHEEL, not both."
exec 9<"$LOCK" && flock 9 # two makes at once must not build into one folder

WANTED="$(fingerprint)"
if [ -z "${RECREATE:-}" ] && [ "$(stamp_line 1)" = "$WANTED" ] && is_python_312 "$VENV/bin/python"; then
  exit 0
fi

# The locked environment can be brought up to date in place. To and from another torch it starts from an empty folder:
# an installer takes torch 2.11+cpu for torch 2.11 and would leave it, with its libraries, where it is.
OTHER_TORCH="$(stamp_line 2)$(stamp_line 3)$BACKEND$WHEEL"
if [ -n "${RECREATE:-}$OTHER_TORCH" ] || ! is_python_312 "$VENV/bin/python"; then
  make_venv
fi
ensure_uv
rm -f "$STAMP" # from here on the folder is neither the old environment nor the new one
say "installing $LOCK${BACKEND:+ with torch for $BACKEND}${WHEEL:+ with $WHEEL}"
install_locked
drop_stray_metadata
pip install --no-deps --no-build-isolation --editable .
printf '%s\n%s\n%s\n' "$WANTED" "$BACKEND" "$WHEEL" >"$STAMP"
say "ready: $VENV"
