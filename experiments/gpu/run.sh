#!/usr/bin/env bash
# Everything that waits for a machine with an NVIDIA GPU, in one run, the most important first.
#
#   experiments/gpu/run.sh [FOLDER [STEP ...]]       default: ./gpu-results, all steps
#   REHEARSE=1 experiments/gpu/run.sh FOLDER         tiny sizes on the CPU
#
# Each step has its own time limit and leaves the others alone when it fails or runs out of it; FOLDER/done.txt lists what
# succeeded, and is not run again. TIME_S (default 3300) bounds the whole: a step that would not fit any more is not begun.
# Needs the packages of requirements/ (or of `pip install 'gaussgym-render[cuda,rivals]' 'gaussgym-sim[gpu]'`); gsplat's kernels are
# compiled in the background where nvcc is found. Without installed packages the sources of this tree are used.
set -uo pipefail
tree=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(realpath -m "${1:-gpu-results}")
shift || true
wanted=" $* "
mkdir -p "$folder"
log=$folder/run.log done_list=$folder/done.txt
touch "$done_list"
begin=$SECONDS
total=${TIME_S:-3300}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 OUT=$folder
for stage in scene render recon sim learn deploy app; do
  PYTHONPATH=$tree/$stage/src${PYTHONPATH:+:$PYTHONPATH}
done
export PYTHONPATH
tiny=() scenes=${TMPDIR:-/tmp}/gaussgym-gpu-scenes
[ -n "${REHEARSE:-}" ] && tiny=(--rehearse)

step() { # name, limit [s], command ...
  local name=$1 limit=$2 left=$((total - (SECONDS - begin))) status
  shift 2
  if [ "$wanted" != "  " ] && [[ $wanted != *" $name "* ]]; then return; fi
  if grep -qx "$name" "$done_list"; then return; fi
  if [ "$left" -lt 20 ]; then
    echo "== $name: not begun, the time is up" | tee -a "$log"
    return
  fi
  [ "$limit" -gt "$left" ] && limit=$left
  echo "== $name (at most $limit s)" | tee -a "$log"
  local start=$SECONDS
  timeout -k 10 "$limit" "$@" 2>&1 | tee -a "$log"
  status=${PIPESTATUS[0]}
  echo "== $name: exit $status after $((SECONDS - start)) s" | tee -a "$log"
  [ "$status" -eq 0 ] && echo "$name" >>"$done_list"
}

# gsplat's kernels take minutes; what needs them comes late.
build_pid=
if [ -z "${REHEARSE:-}" ] && [[ $wanted == "  " || $wanted == *" rivals "* ]] && command -v nvcc >/dev/null; then
  arch=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null)
  TORCH_CUDA_ARCH_LIST=$arch MAX_JOBS=$(($(nproc) > 4 ? $(nproc) - 4 : 1)) nice -n 19 timeout 600 \
    "$python" -c 'from gsplat.cuda import _backend; assert _backend._C is not None' >"$folder/gsplat_build.log" 2>&1 &
  build_pid=$!
fi

renderer() { # limit [s], step name, steps of renderer.py ...
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$python" "$tree/experiments/gpu/renderer.py" "${tiny[@]}" --output "$folder/renderer_gpu.json" \
    --plot "$folder/renderer_gpu.png" --limit-s $((limit - 30)) --steps "$@"
}

# Our kernels, compiled side by side rather than one after the other as they come.
compile="import importlib, pkgutil, warp as wp, gaussgym_render.cuda as cuda
names = [f'gaussgym_render.cuda.{module.name}' for module in pkgutil.iter_modules(cuda.__path__)]
for name in names: importlib.import_module(name)
wp.force_load('${REHEARSE:+cpu}' or 'cuda:0', [wp.get_module(name) for name in names], max_workers=8)"
step kernels 240 "$python" -c "$compile"
renderer correct 240 machine correct
renderer speed 240 machine variants headline
renderer scaling 150 lod flat
step throughput 420 "$python" "$tree/experiments/gpu/throughput.py" "${tiny[@]}" --choices "$folder/renderer_gpu.json" --scenes-dir "$scenes" \
  --output "$folder/throughput_gpu.json"
step throughput-lod 300 "$python" "$tree/experiments/gpu/throughput.py" "${tiny[@]}" --choices "$folder/renderer_gpu.json" --scenes-dir "$scenes" --lod-px 0.7 \
  --output "$folder/throughput_lod_gpu.json"
if [ -n "$build_pid" ]; then
  wait "$build_pid" && echo "== gsplat: compiled" | tee -a "$log" || { echo "== gsplat: not compiled" | tee -a "$log"; tail -5 "$folder/gsplat_build.log"; }
fi
renderer rivals 200 gsplat rivals
if [ -z "${REHEARSE:-}" ]; then
  step tests 300 "$python" -m pytest -q -p no:cacheprovider -m gpu "$tree/render/tests" "$tree/sim/tests" "$tree/learn/tests"
fi
renderer cpu 150 cpu
renderer matrix 400 matrix
if [ -z "${REHEARSE:-}" ]; then
  step sim 700 "$python" "$tree/experiments/gpu/sim.py" --output "$folder/sim_gpu.json"
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      step "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 1 "$python" "$tree/experiments/gpu/renderer.py" --rehearse \
        --device cuda --steps correct variants --output "$folder/$tool.json"
    done
  fi
else
  step sim 300 "$python" "$tree/experiments/gpu/sim.py" --device cpu --num-envs 4 --steps 2 --rounds 1 --checks 1 --output "$folder/sim_gpu.json"
fi
echo "== done: $(tr '\n' ' ' <"$done_list")" | tee -a "$log"
