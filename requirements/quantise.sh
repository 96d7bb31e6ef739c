#!/usr/bin/env bash
# Makes the environment of nvidia-modelopt, apart from the repository's own: it needs other versions of onnx and
# onnxruntime. Nothing but `wam quantise` uses it.
#
#   requirements/quantise.sh [environment of the repository]      (default: .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OWN="${1:-.venv}"
FOLDER=".venv-quantise"
MODELOPT="nvidia-modelopt[onnx]==0.47.0"

unset VIRTUAL_ENV
if [ "$(cat "$FOLDER/.made-of" 2>/dev/null)" = "$MODELOPT" ]; then
  exit 0
fi
rm -rf "$FOLDER"
"$OWN/bin/uv" venv --quiet --python "$OWN/bin/python" "$FOLDER"
"$OWN/bin/uv" pip install --quiet --python "$FOLDER/bin/python" "$MODELOPT"
printf '%s' "$MODELOPT" >"$FOLDER/.made-of"
printf 'quantise environment: %s\n' "$FOLDER" >&2
