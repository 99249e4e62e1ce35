#!/usr/bin/env bash
# Everything that needs a GPU, on a machine with one and without a network, in under 9 minutes: build, GPU tests,
# compute-sanitizer over the kernels, microbenchmarks. Logs and CSV go to $OUT.
#
#   OUT=folder benchmarks/gpu_suite.sh
#
# Needs python3 with torch (built for CUDA), triton, pybind11, pytest, hypothesis; nvcc, cmake, ninja,
# compute-sanitizer. The libraries are installed into the checkout's toplight_ext/, which git ignores.
set -uo pipefail
cd "$(dirname "$0")/.."
: "${OUT:?set OUT to the folder for the results}"
mkdir -p "$OUT"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
failed=()

# step NAME SECONDS COMMAND...: runs with a time limit, keeps the log, prints its last lines.
step() {
  local name=$1 limit=$2
  shift 2
  echo "== $name (at $SECONDS s)"
  timeout "$limit" "$@" >"$OUT/$name.log" 2>&1 || failed+=("$name")
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
  python3 -m pytest -q python_tests/test_cuda.py -p no:cacheprovider
}

# Memory straight from the driver, so that every overrun is one of an allocation.
sanitize() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 --target-processes all \
    python3 -m pytest -q python_tests/test_cuda.py -k "kernels_alone and native" -p no:cacheprovider
}

export -f build native_tests gpu_tests sanitize
step build 120 bash -c build
step native_tests 90 bash -c native_tests
step gpu_tests 110 bash -c gpu_tests
for tool in memcheck racecheck initcheck synccheck; do
  step "$tool" 35 bash -c "sanitize $tool"
done
step benchmark 75 python3 benchmarks/ops.py --shape TOPLight DEEN large --dtype bfloat16 --out "$OUT/ops.csv"

echo "== ${#failed[@]} steps failed or ran out of time: ${failed[*]:-none} ($SECONDS s)"
exit "${#failed[@]}"
