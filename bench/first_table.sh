#!/usr/bin/env bash
# The first table: `--prefill 0` (every worker does both phases) against one prefill and one decode
# worker, for prompts of growing length. Both setups have two workers, so they have the same processors.
#
#   bench/first_table.sh [--build DIR] [--model DIR] [--out FILE] [--prompts "128 512 2048 8192"]
#                        [--requests N] [--requests-min N] [--output N] [--concurrency N] [--rounds N]
#
# Without --model it makes random-weight smollm2-135m with a context of 16k in DIR/bench-models. Rounds
# alternate between the setups, so that a machine that slows down slows both; the table shows the median
# of the rounds. Long prompts get fewer requests, at least --requests-min. The result goes to
# bench/results/NNNN-first-table.md unless --out says else.
set -euo pipefail
cd "$(dirname "$0")/.."

build=build model='' out='' prompts='128 512 2048 8192' requests=12 requests_min=4 output=64 concurrency=2 rounds=2
while [ $# -gt 0 ]; do
    case "$1" in
    --build | --model | --out | --prompts | --requests | --requests-min | --output | --concurrency | --rounds)
        option=${1#--}
        declare "${option//-/_}=$2"
        shift 2
        ;;
    *)
        echo "first_table.sh: unknown option $1" >&2
        exit 2
        ;;
    esac
done

for program in sluice-coordinator sluice-prefill sluice-decode sluice-bench; do
    [ -x "$build/bin/$program" ] || { echo "first_table.sh: no $build/bin/$program; make build" >&2; exit 2; }
done
if [ -z "$model" ]; then
    model="$build/bench-models/smollm2-135m-16k"
    [ -f "$model/config.json" ] ||
        /usr/bin/python3 tools/make_random.py "$model" --shape smollm2-135m --context 16384
fi

work=$(mktemp -d)
server=''
stop_server() {
    [ -z "$server" ] && return
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=''
}
trap 'stop_server; rm -rf "$work"' EXIT

# start_server SETUP: prefill workers x decode workers
start_server() {
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$build/bin/sluice-coordinator" --model "$model" --listen "127.0.0.1:$port" --pools local \
        --prefill "${1%x*}" --decode "${1#*x}" --kv-blocks 700 >"$work/log" 2>&1 &
    server=$!
    for _ in $(seq 600); do
        [ "$(curl -s -o "$work/ready" -w '%{http_code}' "http://127.0.0.1:$port/ready")" = 200 ] && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.2
    done
    echo "first_table.sh: $1 does not get ready:" >&2
    tail -n 20 "$work/log" >&2
    exit 1
}

for round in $(seq "$rounds"); do
    for setup in 0x2 1x1; do
        start_server "$setup"
        for prompt in $prompts; do
            n=$requests
            [ "$prompt" -le 512 ] || n=$((requests * 1024 / prompt > requests_min ? requests * 1024 / prompt : requests_min))
            echo "round $round, $setup, $n prompts of $prompt tokens" >&2
            "$build/bin/sluice-bench" --url "http://127.0.0.1:$port" --warmup 1 --requests "$n" \
                --concurrency "$concurrency" --prompt-tokens "$prompt" --output-tokens "$output" \
                --seed "$round$prompt" --json "$work/$setup-$prompt-$round.json" >"$work/print" ||
                { cat "$work/print" >&2; exit 1; }
        done
        stop_server
    done
done

if [ -z "$out" ]; then
    number=$(printf '%04d' $((10#$(ls bench/results | grep -oE '^[0-9]{4}-[a-z]' | cut -c1-4 | sort | tail -n 1 || echo 0) + 1)))
    out="bench/results/$number-first-table.md"
    mkdir -p bench/results
fi
/usr/bin/python3 bench/first_table.py "$work" "$model" "$rounds" $prompts >"$out"
cat "$out"
