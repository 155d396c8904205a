#!/bin/sh
# Runs each fuzz target of a build for some seconds over its corpus: tools/fuzz.sh build/fuzz 20
# Inputs that it finds on the way stay in the build; those that crash are named by libFuzzer.
set -eu
build=$1
seconds=$2
cd "$(dirname "$0")/.."
found=no
for target in "$build"/fuzz/fuzz_*; do
    [ -x "$target" ] || continue
    found=yes
    name=$(basename "$target")
    corpus="tests/fuzz/corpus/${name#fuzz_}"
    words="tests/fuzz/${name#fuzz_}.dict"
    mkdir -p "$build/corpus/$name"
    echo "fuzz: $name for $seconds s"
    ASAN_OPTIONS=allocator_may_return_null=1 "$target" -max_total_time="$seconds" -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=0 -verbosity=0 -artifact_prefix="$build/corpus/" \
        $([ -f "$words" ] && echo "-dict=$words") \
        "$build/corpus/$name" $([ -d "$corpus" ] && echo "$corpus")
done
if [ $found = no ]; then
    echo "fuzz: no target in $build/fuzz" >&2
    exit 1
fi
