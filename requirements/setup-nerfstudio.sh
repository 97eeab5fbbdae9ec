#!/usr/bin/env bash
# Makes .nerfstudio: nerfstudio 1.1.5 with everything pinned, and the method gaussgym-splatfacto. Called by `make setup-nerfstudio` and
# docker/recon.Dockerfile; safe to repeat. About 3.5 GB without CUDA.
#   PYTHON=python3.11       the interpreter to build on
#   TORCH=cpu|cuda|keep     which PyTorch build to install; keep leaves the one in .nerfstudio alone
#   FOLDER=.nerfstudio      where to
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3.11}
torch=${TORCH:-cpu}
folder=${FOLDER:-.nerfstudio}
fail() { echo "error: $*" >&2; exit 2; }

case $torch in cpu | cuda | keep) ;; *) fail "TORCH=$torch is not one of cpu, cuda, keep" ;; esac
command -v "$python" > /dev/null || fail "$python not found; install Python 3.11 or say PYTHON=/path/to/python3.11"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || fail "$python is Python $version, the pins are for 3.11; say PYTHON=/path/to/python3.11"
# fpsample and pyliblzfse have no wheels for Python 3.11; open3d wants the libraries.
missing=()
need() { ldconfig -p 2> /dev/null | grep -q "$1" || missing+=("$2"); }
command -v c++ > /dev/null || missing+=(g++)
[ -f "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ] || missing+=(python3.11-dev)
need libusb-1.0.so.0 libusb-1.0-0
need libGL.so.1 libgl1
need libgomp.so.1 libgomp1
need libEGL.so.1 libegl1
need libX11.so.6 libx11-6
need libglib-2.0.so.0 libglib2.0-0
[ ${#missing[@]} -eq 0 ] || fail "system packages are missing; type:  apt-get install -y --no-install-recommends ${missing[*]}"
if [ -e "$folder" ] && [ ! -e "$folder/pyvenv.cfg" ]; then
  fail "$folder exists and is no environment of ours; move it away or say FOLDER="
fi

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check "$@"; }
if [ "$torch" != keep ] && ! "$folder/bin/python" -c 'import torch' 2> /dev/null; then
  echo "installing PyTorch ($torch)"
  pip install -q --require-hashes --no-deps -r "requirements/torch-$torch.txt" ||
    fail "PyTorch's $torch build was not found; for cpu point PIP_EXTRA_INDEX_URL at PyTorch's CPU wheel index, or take TORCH=cuda (several GB) or TORCH=keep"
fi
echo "installing nerfstudio's pinned packages (about 1 GB)"
pip install -q --require-hashes --no-deps -r requirements/nerfstudio.txt || fail "nerfstudio's packages do not install (above is why)"
pip install -q --no-deps --no-build-isolation -e scene -e render -e recon/nerfstudio_method
"$folder/bin/python" - <<'PY' || fail "$folder: nerfstudio does not find the method gaussgym-splatfacto (above is why)"
import warnings
warnings.simplefilter("ignore")
import torch
from nerfstudio.configs.method_configs import all_methods
assert "gaussgym-splatfacto" in all_methods
print("nerfstudio with torch", torch.__version__, "on", "a GPU" if torch.cuda.is_available() else "the CPU")
PY
touch "$folder/.ready"
echo "ready: $folder; gaussgym-recon build CAPTURE --output SCENE --trainer nerfstudio"
