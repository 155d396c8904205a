#!/usr/bin/env bash
# All benchmarks of `make bench`, on a machine with nothing else to do: kernels against its limits, the
# first table, and llama.cpp if LLAMA_PYTHON names an interpreter that has llama-cpp-python. About
# twenty minutes on two cores. BUILD chooses another build directory.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build}

busy=$(cut -d' ' -f1 /proc/loadavg)
if python3 -c "import sys; sys.exit(not float('$busy') > 0.5)"; then
    echo "bench: load average $busy: something else is running; these figures are not for the record" >&2
fi
for program in bench-kernels bench-transfer; do
    if [ -x "$build/bin/$program" ]; then
        echo "== $program"
        "$build/bin/$program"
    else
        echo "skip: $program: not built"
    fi
done
echo "== first table"
bench/first_table.sh --build "$build"
if [ -n "${LLAMA_PYTHON:-}" ]; then
    echo "== llama.cpp"
    /usr/bin/python3 bench/compare_llama_cpp.py --llama-python "$LLAMA_PYTHON" --build "$build"
else
    echo "skip: llama.cpp: LLAMA_PYTHON is not set (an interpreter with llama-cpp-python)"
fi
