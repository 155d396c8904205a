#!/bin/sh
# Compiles the CUDA parts where nvcc is found, with warnings as errors; else says why not. Nothing of
# it is run: that needs a GPU.
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
cmake --preset release -B build/cuda -DSLUICE_CUDA=ON -DSLUICE_WERROR=ON \
    -DCMAKE_CUDA_COMPILER="$nvcc" >/dev/null
cmake --build build/cuda --target cuda_parts
echo "cuda: compiled with $("$nvcc" --version | sed -n 's/.*\(release [0-9.]*\).*/\1/p')"
