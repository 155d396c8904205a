#!/bin/sh
# Formats the C and CUDA sources in place; with --check, names what is not formatted and exits 1.
set -eu
cd "$(dirname "$0")/.."
files=$(find src tests bench -name '*.c' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | sort)
case ${1:-} in
"") exec clang-format-14 -i $files ;;
--check)
    bad=$(clang-format-14 --dry-run $files 2>&1 | sed -n 's/^\(.*\):\([0-9]*\):[0-9]*: warning.*/\1:\2/p')
    if [ -n "$bad" ]; then
        printf '%s\n' "$bad" | sort -u -t: -k1,1 | sed 's/$/: not formatted (make format)/'
        exit 1
    fi
    echo "format: $(printf '%s\n' "$files" | wc -l) files" ;;
*) echo "format.sh: unknown option $1" >&2; exit 2 ;;
esac
