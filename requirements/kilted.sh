#!/usr/bin/env bash
# Makes an environment with ROS 2 Kilted in place of Jazzy, or leaves it alone when it is already there.
#
#   requirements/kilted.sh [folder] [base]      (default: .venv-kilted .venv)
#
# Only ROS's wheels are installed; every other library comes from the base environment, which stands behind it on
# Python's path. So the second row of the test matrix costs seconds, and differs in nothing but ROS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV="${1:-.venv-kilted}"
BASE="${2:-.venv}"
LIST="requirements/kilted.txt"
SCRIPT="requirements/kilted.sh"
STAMP="$VENV/.made-of"
PACKAGES="lib/python3.12/site-packages"

say() { printf 'kilted: %s\n' "$*" >&2; }

[ -x "$BASE/bin/uv" ] || { say "$BASE is not there yet: run 'make environment' first."; exit 1; }
if [ "$(uname -m)" != x86_64 ]; then
  say "Kilted's Python wheels exist for x86-64 only; here, source a Kilted installation and run the tests with it."
  exit 1
fi

WANTED="$(sha256sum "$LIST" "$SCRIPT" | sha256sum | cut -d' ' -f1) $PWD/$BASE"
[ "$(cat "$STAMP" 2>/dev/null || true)" != "$WANTED" ] || exit 0

say "making $VENV"
"$BASE/bin/uv" venv --quiet --clear --python "$BASE/bin/python" "$VENV"
"$BASE/bin/uv" pip install --quiet --python "$VENV/bin/python" --requirement "$LIST"
# What ROS's wheels bring besides ROS would hide the locked versions behind it.
"$BASE/bin/uv" pip uninstall --quiet --python "$VENV/bin/python" numpy pyyaml setuptools typing-extensions
printf '%s\n' "$PWD/$BASE/$PACKAGES" >"$VENV/$PACKAGES/everything_else.pth"
printf '%s\n' "$WANTED" >"$STAMP"
say "ready: $VENV"
