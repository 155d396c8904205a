#!/bin/sh
# Compiles the CUDA parts where nvcc is found, with warnings as errors, and tests the device; without
# nvcc, or without a GPU, it says what was skipped and why.
set -eu
cd "$(dirname "$0")/.."
nvcc=$(command -v nvcc || true)
if [ -z "$nvcc" ] && [ -x /usr/local/cuda/bin/nvcc ]; then
    nvcc=/usr/local/cuda/bin/nvcc
fi
if [ -z "$nvcc" ]; then
    echo "skip: cuda: nvcc is not found"
    exit 0
fi
mkdir -p build
log=build/cuda.log

# Runs a command; what it wrote is shown only when it fails.
quietly() {
    "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
}

quietly cmake --preset release -B build/cuda -DSLUICE_CUDA=ON -DSLUICE_WERROR=ON \
    -DCMAKE_CUDA_COMPILER="$nvcc"
quietly cmake --build build/cuda --target cuda_parts
echo "cuda: compiled with nvcc $("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
quietly build/cuda/tests/test_device
sed -n 's/^skip/skip: cuda/p' "$log"
