#!/usr/bin/env bash
# Makes .venv with everything pinned. Called by `make setup`; safe to repeat.
#   PYTHON=python3.11   the interpreter to build on
#   TORCH=cpu|cuda|keep which PyTorch build to install; keep leaves the one in .venv alone
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
torch=${TORCH:-cpu}
fail() { echo "error: $*" >&2; exit 2; }

case $torch in cpu | cuda | keep) ;; *) fail "TORCH=$torch is not one of cpu, cuda, keep" ;; esac
command -v "$python" > /dev/null || fail "$python not found; install Python 3.11 or say PYTHON=/path/to/python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || fail "$python is Python $version, the pins are for 3.11; say PYTHON=/path/to/python3.11"

# System packages: open3d's libraries, ffmpeg for videos, make's own needs.
missing=()
need() { ldconfig -p 2> /dev/null | grep -q "$1" || missing+=("$2"); }
need libusb-1.0.so.0 libusb-1.0-0
need libGL.so.1 libgl1
need libgomp.so.1 libgomp1
need libEGL.so.1 libegl1
need libX11.so.6 libx11-6
need libglib-2.0.so.0 libglib2.0-0
command -v ffmpeg > /dev/null || missing+=(ffmpeg)
[ -x .venv/bin/python ] || "$python" -c 'import ensurepip' 2> /dev/null || missing+=(python3.11-venv)
if [ ${#missing[@]} -gt 0 ]; then
  line="apt-get install -y --no-install-recommends ${missing[*]}"
  if ! command -v apt-get > /dev/null; then
    fail "system packages are missing: ${missing[*]} (Debian's names); install them, then run make setup again"
  elif [ "$(id -u)" = 0 ]; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $line > /dev/null
  elif sudo -n true 2> /dev/null; then
    sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $line > /dev/null
  else
    fail "system packages are missing; type:  sudo $line"
  fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip="$PWD/.venv/bin/python -m pip --disable-pip-version-check"
if [ "$torch" != keep ] && ! .venv/bin/python -c 'import torch' 2> /dev/null; then
  echo "installing PyTorch ($torch)"
  $pip install -q --require-hashes --no-deps -r "requirements/torch-$torch.txt" ||
    fail "PyTorch's $torch build was not found; for cpu point PIP_EXTRA_INDEX_URL at PyTorch's CPU wheel index, or take TORCH=cuda (several GB) or TORCH=keep"
fi
echo "installing the pinned packages"
$pip install -q --require-hashes --no-deps -r requirements/base.txt -r requirements/dev.txt
$pip install -q --no-deps --no-build-isolation -e scene -e render -e recon -e sim -e learn -e deploy -e app
echo "compiling the CPU kernels (about a minute)"
.venv/bin/gaussgym compile
touch .venv/.ready
echo "ready: .venv ($(.venv/bin/python -c 'import torch; print("torch", torch.__version__)'))"
