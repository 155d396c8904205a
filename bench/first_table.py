#!/usr/bin/env python3
"""Prints the table of bench/first_table.sh from its JSON files: DIR MODEL ROUNDS PROMPT...

Each cell is the median over the rounds of that round's figure.
"""
import datetime
import json
import os
import statistics
import subprocess
import sys

SETUPS = (("0x2", "`--prefill 0`, 2 workers"), ("1x1", "1 prefill, 1 decode"))


def machine():
    model, flags = "unknown", set()
    with open("/proc/cpuinfo") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            if name.strip() == "flags":
                flags = set(value.split())
    paths = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    return f"{model}, {len(os.sched_getaffinity(0))} CPUs ({', '.join(paths)})"


def shape(directory):
    with open(os.path.join(directory, "config.json")) as file:
        config = json.load(file)
    return (f"{os.path.basename(directory.rstrip('/'))}: {config['num_hidden_layers']} layers, "
            f"hidden {config['hidden_size']}, {config['num_attention_heads']} heads, "
            f"{config['num_key_value_heads']} KV heads, vocabulary {config['vocab_size']}")


def commit():
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main():
    directory, model, rounds, prompts = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]

    def load(setup, prompt):
        runs = []
        for k in range(1, rounds + 1):
            with open(os.path.join(directory, f"{setup}-{prompt}-{k}.json")) as file:
                runs.append(json.load(file))
        return runs

    settings = load("1x1", prompts[0])[0]["settings"]
    print("# `--prefill 0` against one prefill and one decode worker\n")
    print(f"{datetime.date.today()}, commit {commit()}. {machine()}; load average "
          f"{os.getloadavg()[0]:.1f} at the end.\n{shape(model)}; random weights.\n")
    print(f"`bench/first_table.sh`: {settings['requests']} requests a round (fewer of long ones), "
          f"{settings['concurrency']} at once, {settings['output_tokens']} tokens generated each, "
          f"greedy, token ids, no shared prefix; median of {rounds} rounds that alternate.\n")
    print("| prompt | setup | TTFT p50 ms | TTFT p99 | ITL mean ms | ITL p50 | ITL p99 | "
          "output tok/s | prompt tok/s | handover ms | transfer MB/s | hidden | failed |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for prompt in prompts:
        for setup, name in SETUPS:
            runs = load(setup, prompt)

            def median(*path):
                values = []
                for run in runs:
                    for key in path:
                        run = (run or {}).get(key)
                    if run is not None:
                        values.append(run)
                return statistics.median(values) if values else None

            def cell(value, digits=1):
                return "–" if value is None else f"{value:.{digits}f}"

            handed = median("server", "handovers")
            failed = sum(run["requests_failed"] for run in runs)
            print(f"| {prompt} | {name} | {cell(median('ttft_ms', 'p50'))} | "
                  f"{cell(median('ttft_ms', 'p99'))} | {cell(median('itl_ms', 'mean'), 2)} | "
                  f"{cell(median('itl_ms', 'p50'), 2)} | "
                  f"{cell(median('itl_ms', 'p99'), 2)} | {cell(median('output_tokens_per_s'))} | "
                  f"{cell(median('prompt_tokens_per_s'))} | "
                  f"{cell(median('server', 'handover_mean_ms') if handed else None, 2)} | "
                  f"{cell(median('server', 'transfer_throughput_mb_s') if handed else None)} | "
                  f"{cell(median('server', 'transfer_hidden_fraction') if handed else None, 3)} | "
                  f"{failed} |")


if __name__ == "__main__":
    main()
