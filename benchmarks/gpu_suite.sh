#!/usr/bin/env bash
# Everything that needs a GPU, on a machine with one and without a network, in under 9 minutes: build, GPU tests,
# microbenchmarks, a training step, compute-sanitizer over the kernels. Logs, CSV and pictures go to $OUT.
#
#   OUT=folder benchmarks/gpu_suite.sh
#
# Needs python3 with torch (built for CUDA), triton, pybind11, pytest, hypothesis; for the training step timm, for the
# tests of a whole step DALI and safetensors too, for the pictures matplotlib; nvcc, cmake, ninja, compute-sanitizer.
# The libraries are installed into the checkout's toplight_ext/, which git ignores.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${OUT:?set OUT to the folder for the results}"
mkdir -p "$OUT"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
failed=()

deadline=530 # seconds from the start: what is left then is cut off and counts as failed

# step NAME SECONDS COMMAND...: runs with a time limit, keeps the log, prints its last lines.
step() {
  local name=$1 limit=$2 left=$((deadline - SECONDS))
  shift 2
  echo "== $name (at $SECONDS s)"
  if ((left < 5)); then
    failed+=("$name: no time left")
    return
  fi
  timeout -k 5 "$((limit < left ? limit : left))" "$@" >"$OUT/$name.log" 2>&1 || failed+=("$name")
  tail -n 12 "$OUT/$name.log"
}

build() {
  local architecture
  architecture=$(python3 -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') &&
    cmake -S . -B build-gpu -G Ninja -DTOPLIGHT_CUDA=ON -DTOPLIGHT_CUDA_ARCHITECTURES="$architecture" &&
    cmake --build build-gpu &&
    cmake --install build-gpu --prefix . &&
    ln -sfn ../kernels toplight_ext/kernels &&
    python3 -c 'from toplight_ext import ops; print(*ops.backends().items(), sep="\n")'
}

# Triton compiles for every shape and type: its part of the op tests is small here, test_cuda.py has the rest.
native_tests() {
  python3 -m pytest -q python_tests/test_ops.py -k "cuda-native" -p no:cacheprovider
}

gpu_tests() {
  python3 -m pytest -q python_tests/test_cuda.py python_tests/test_cuda_training.py -p no:cacheprovider
}

# Memory straight from the driver, so that every overrun is one of an allocation.
sanitize() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all \
    python3 -m pytest -q python_tests/test_cuda.py -k "kernels_alone and native" -p no:cacheprovider
}

# microbenchmarks NAME ARGUMENTS...: rows in $OUT/NAME.csv, each written when its case is done.
microbenchmarks() {
  python3 benchmarks/ops.py --device cuda --dtype bfloat16 --out "$OUT/$1.csv" "${@:2}"
}

pictures() {
  python3 benchmarks/plot.py "$OUT"/ops_*.csv --out "$OUT" --format svg png
}

maps=(TOPLight AGW DEEN small wide large)
main_ops=(slice_pool_upsample shuffle_attention FDR FDR.pooled)
export -f build native_tests gpu_tests sanitize microbenchmarks pictures
step build 120 bash -c build
step verify 50 python3 -m toplight_ext.verify --device cuda --quick
step gpu_tests 110 bash -c gpu_tests
step native_tests 80 bash -c native_tests
step ops_maps 100 bash -c 'microbenchmarks "$@"' - ops_maps --shape "${maps[@]}" --layout NHWC --variant eager native
step training_step 45 python3 benchmarks/training_step.py --device cuda --out "$OUT/training_step.csv"
for tool in memcheck racecheck initcheck synccheck; do
  step "$tool" 30 bash -c "sanitize $tool"
done
# torch.compile and Triton compile for every case, so they come last, on as many cases as there is time for.
step ops_peers 90 bash -c 'microbenchmarks "$@"' - ops_peers --shape TOPLight large --op "${main_ops[@]}"
step pictures 20 bash -c pictures

echo "== ${#failed[@]} steps failed or ran out of time: ${failed[*]:-none} ($SECONDS s)"
exit "${#failed[@]}"
