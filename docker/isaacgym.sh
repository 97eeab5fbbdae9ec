#!/usr/bin/env bash
# Makes the environment that Isaac Gym's worker runs in: Python 3.8, torch, and NVIDIA's package out of the user's own tarball.
# Called by `make isaacgym` and isaacgym.Dockerfile; safe to repeat.
#   docker/isaacgym.sh TARBALL [FOLDER]     FOLDER is .isaacgym by default
#   ISAACGYM_PYTHON=python3.8               interpreter to build on (3.6 to 3.8: what NVIDIA's binaries are for)
#   ISAACGYM_TORCH=torch==2.4.1             another build, for example a wheel of your own for an RTX 50
#   ISAACGYM_CHECK=1                        0 leaves out the import at the end (an image is built without a driver)
set -euo pipefail
fail() { echo "error: $*" >&2; exit 2; }

tarball=${1:-}
folder=${2:-"$(dirname "$0")/../.isaacgym"}
python=${ISAACGYM_PYTHON:-python3.8}
torch=${ISAACGYM_TORCH:-torch==2.4.1}

[ -n "$tarball" ] || fail "no tarball given: accept NVIDIA's licence at developer.nvidia.com/isaac-gym/download, fetch" \
  "IsaacGym_Preview_4_Package.tar.gz, and say ISAACGYM_TARBALL=/path/to/it"
[ -f "$tarball" ] || fail "$tarball: no such file, expected NVIDIA's IsaacGym_Preview_4_Package.tar.gz"
members=$(tar -tf "$tarball" 2> /dev/null) || fail "$tarball: not a tar archive, expected NVIDIA's IsaacGym_Preview_4_Package.tar.gz"
grep -q '^\(\./\)\?isaacgym/python/setup.py$' <<< "$members" ||
  fail "$tarball: has no isaacgym/python/setup.py, expected NVIDIA's IsaacGym_Preview_4_Package.tar.gz"
command -v "$python" > /dev/null ||
  fail "$python not found; install Python 3.8 (pyenv, conda or a system package) and say ISAACGYM_PYTHON=/path/to/python3.8"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || fail "$python does not run"
case $version in 3.6 | 3.7 | 3.8) ;; *) fail "$python is Python $version, Isaac Gym is for 3.6 to 3.8; say ISAACGYM_PYTHON=" ;; esac

sum=$(sha256sum "$tarball" | cut -d' ' -f1)
wanted="$sum $torch $("$python" -c 'import sys; print(sys.version.split()[0])')"
if [ "$(cat "$folder/.ready" 2> /dev/null)" = "$wanted" ]; then
  echo "ready: $folder"
  exit 0
fi
if [ -e "$folder" ] && [ ! -e "$folder/pyvenv.cfg" ]; then
  fail "$folder exists and is no environment of ours; move it away or name another folder"
fi
rm -rf "$folder"
"$python" -m venv "$folder" || fail "$python cannot make a virtual environment (python3.8-venv is missing?)"
tar -xf "$tarball" -C "$folder" --no-same-owner
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }
# numpy below 1.24 still has np.float, which NVIDIA's Python files use; gymtorch is compiled at its first import, by ninja.
pip install -q --only-binary :all: numpy==1.23.5 scipy==1.10.1 pyyaml==6.0.2 pillow==10.4.0 imageio==2.35.1 ninja==1.13.0 \
  setuptools==75.3.0 wheel==0.45.1 "$torch" || fail "the packages beside Isaac Gym were not found"
pip install -q --no-deps --no-build-isolation "$folder/isaacgym/python" || fail "$tarball: its package does not install"
if [ "${ISAACGYM_CHECK:-1}" = 1 ]; then
  base=$("$folder/bin/python" -c 'import sys; print(sys.base_prefix)')
  LD_LIBRARY_PATH="$base/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$folder/bin/python" -c \
    'from isaacgym import gymapi, gymtorch; import torch; gymapi.acquire_gym(); print("isaacgym with torch", torch.__version__)' ||
    fail "$folder: Isaac Gym does not import (above is why: a C++ compiler, the driver?)"
fi
echo "$wanted" > "$folder/.ready"
echo "ready: $folder; check it with: gaussgym-sim check --backend isaacgym --device cuda"
