#!/usr/bin/env bash
# Makes sure MuJoCo can render without a screen: EGL through Mesa or a GPU driver, or OSMesa.
set -euo pipefail

PACKAGES="libegl1 libgl1 libgl1-mesa-dri"

libraries="$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p)"
has() { grep -q "$1" <<<"$libraries"; }

if has 'libOSMesa\.so' || has 'libEGL_nvidia\.so'; then
  exit 0
fi
# libEGL alone is only the dispatcher: without Mesa's drivers it finds no device.
if has 'libEGL\.so\.1' && has 'libGL\.so\.1' && compgen -G '/usr/lib/*/dri/*_dri.so' >/dev/null; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "gl: installing $PACKAGES with apt-get" >&2
  # shellcheck disable=SC2086
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $PACKAGES >&2
else
  echo "gl: MuJoCo cannot render here: the GL libraries are missing. Please run:  sudo apt-get install -y $PACKAGES" >&2
  exit 1
fi
