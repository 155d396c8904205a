#!/usr/bin/env python3
"""Prefill and decode tokens/s beside llama.cpp's, on the same random bf16 weights, in one run.

    bench/compare_llama_cpp.py --llama-python PYTHON [--build DIR] [--shape llama-3.2-1b | --model DIR]
                               [--threads N] [--rounds N] [--out FILE]

PYTHON is an interpreter that has llama-cpp-python (its wheel carries llama.cpp; it is used through its
C functions). The model is made by tools/make_random.py and turned into GGUF by bench/gguf.py, so both
read the same bits. Rounds alternate: ours, theirs, ours, … and cells are medians, since machines drift.

What is timed:
  llama.cpp  in its process: llama_decode of a whole prompt, empty cache; then one token per sequence
             and step for B sequences, ids given (no sampling).
  ours       the whole stack over HTTP: sluice-bench against --prefill 0 --decode 1. Prefill is prompt /
             time to first token of single requests; decode is B / median gap between tokens.
Ours pays for HTTP, tokens on the wire, scheduling and sampling; that is the figure users see.
"""
import argparse
import datetime
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PYTHON = "/usr/bin/python3"  # the system's, which has numpy
PROMPT_OF_DECODE = 128


# ------------------------------------------------------------------ their side, in PYTHON

def theirs(path, threads, prompts, batches, steps):
    import ctypes

    import llama_cpp as lc
    lc.llama_backend_init()
    quiet = lc.llama_log_callback(lambda level, text, data: None)
    lc.llama_log_set(quiet, ctypes.c_void_p(0))
    model = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp does not load {path}")
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
    state = [12345]

    def token():
        state[0] = (state[0] * 1103515245 + 12345) & 0x7FFFFFFF
        return state[0] % min(vocab, 256)

    class Context:
        """Room for `sequences` of `tokens` each, every sequence with a cache of its own."""

        def __init__(self, sequences, tokens):
            params = lc.llama_context_default_params()
            params.n_ctx = sequences * tokens
            params.n_batch = max(tokens, sequences)
            params.n_seq_max = sequences
            params.n_threads = params.n_threads_batch = threads
            self.context = lc.llama_init_from_model(model, params)
            if not self.context:
                raise SystemExit("llama.cpp gives no context")
            self.batch = lc.llama_batch_init(params.n_batch, 0, 1)

        def close(self):
            lc.llama_batch_free(self.batch)
            lc.llama_free(self.context)

        def decode(self, entries):
            """entries: (sequence, position, wants logits); returns seconds"""
            batch = self.batch
            batch.n_tokens = len(entries)
            for i, (sequence, position, wanted) in enumerate(entries):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = token(), position, 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = wanted
            start = time.perf_counter()
            if lc.llama_decode(self.context, batch) != 0:
                raise SystemExit("llama_decode failed")
            lc.llama_synchronize(self.context)
            return time.perf_counter() - start

        def prefill(self, n, sequence=0):
            return self.decode([(sequence, i, i == n - 1) for i in range(n)])

    result = {"version": lc.__version__, "prefill": {}, "decode": {}}
    single = Context(1, max(prompts) + 8)
    single.prefill(min(prompts))  # first touch
    for n in prompts:
        lc.llama_memory_clear(lc.llama_get_memory(single.context), True)
        result["prefill"][n] = n / single.prefill(n)
    single.close()
    for b in batches:
        many = Context(b, PROMPT_OF_DECODE + steps + 8)
        for sequence in range(b):
            many.prefill(PROMPT_OF_DECODE, sequence)
        times = [many.decode([(s, PROMPT_OF_DECODE + k, True) for s in range(b)])
                 for k in range(steps)]
        result["decode"][b] = b * (steps - 2) / sum(times[2:])
        many.close()
    print(json.dumps(result))


# ------------------------------------------------------------------ our side

class Server:
    def __init__(self, build, model, threads, blocks):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [f"{build}/bin/sluice-coordinator", "--model", model, "--listen",
             f"127.0.0.1:{self.port}", "--pools", "local", "--prefill", "0", "--decode", "1",
             "--threads", str(threads), "--kv-blocks", str(blocks)],
            stdout=self.log, stderr=self.log)

    def wait_ready(self):
        until = time.monotonic() + 300
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + "/ready", timeout=2) as reply:
                    if reply.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.2)
        self.log.seek(0)
        raise SystemExit("the server does not get ready:\n" + self.log.read()[-3000:].decode())

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def bench(build, url, **options):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [f"{build}/bin/sluice-bench", "--url", url, "--json", out.name, "--settle", "0"]
        for name, value in options.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)
        with open(out.name) as file:
            return json.load(file)


def ours(build, model, threads, prompts, batches, steps, seed):
    tokens = max(max(prompts) + 64, max(batches) * (PROMPT_OF_DECODE + steps + 64))
    server = Server(build, model, threads, 2 * tokens // 64 + 16)
    try:
        server.wait_ready()
        result = {"prefill": {}, "decode": {}}
        bench(build, server.url, requests=1, prompt_tokens=min(prompts), output_tokens=4, seed=seed)
        for n in prompts:
            run = bench(build, server.url, requests=1, concurrency=1, prompt_tokens=n,
                        output_tokens=1, seed=f"{seed}{n}")
            result["prefill"][n] = n / (run["ttft_ms"]["p50"] / 1e3)
        for b in batches:
            # Requests outlast each other's prefill, so the middle of the run has B sequences in each step.
            run = bench(build, server.url, requests=b, concurrency=b, seed=f"{seed}0{b}",
                        prompt_tokens=PROMPT_OF_DECODE, output_tokens=steps)
            result["decode"][b] = b / (run["itl_ms"]["p50"] / 1e3)
        return result
    finally:
        server.stop()


# ------------------------------------------------------------------ the comparison

def prepare(arguments):
    model = arguments.model
    if model is None:
        model = os.path.join(arguments.build, "bench-models", arguments.shape)
        if not os.path.exists(os.path.join(model, "config.json")):
            subprocess.run([PYTHON, os.path.join(ROOT, "tools/make_random.py"), model,
                            "--shape", arguments.shape], check=True)
    gguf = os.path.join(arguments.build, "bench-models",
                        os.path.basename(model.rstrip("/")) + ".gguf")
    os.makedirs(os.path.dirname(gguf), exist_ok=True)
    if not os.path.exists(gguf):
        subprocess.run([PYTHON, os.path.join(ROOT, "bench/gguf.py"), model, gguf], check=True)
    return model, gguf


def next_file(name):
    directory = os.path.join(ROOT, "bench/results")
    os.makedirs(directory, exist_ok=True)
    # NNNN-name.md; a day's file begins with four digits too, but goes on with a digit after the dash.
    numbers = [int(entry[:4]) for entry in os.listdir(directory) if re.match(r"\d{4}-[a-z]", entry)]
    return os.path.join(directory, f"{max(numbers, default=0) + 1:04d}-{name}.md")


def table(arguments, model, prompts, batches, mine, other):
    sys.path.insert(0, os.path.join(ROOT, "bench"))
    import first_table
    lines = ["# Prefill and decode beside llama.cpp", "",
             f"{datetime.date.today()}, commit {first_table.commit()}. {first_table.machine()}; load "
             f"average {os.getloadavg()[0]:.1f} at the end.",
             f"{first_table.shape(model)}; random bf16 weights, the same for both. "
             f"{arguments.threads} threads, llama-cpp-python {other[0]['version']}; medians of "
             f"{arguments.rounds} rounds that alternate.",
             "llama.cpp in its process; ours through the whole stack (see the script's head).", "",
             "| | ours tok/s | llama.cpp tok/s | ratio |", "|---|---|---|---|"]
    for kind, sizes, label in (("prefill", prompts, "prefill {}"), ("decode", batches, "decode, {} at once")):
        for n in sizes:
            a = statistics.median(run[kind][n] for run in mine)
            b = statistics.median(run[kind][str(n)] for run in other)
            lines.append(f"| {label.format(n)} | {a:.1f} | {b:.1f} | {a / b:.2f} |")
    return "\n".join(lines) + "\n"


def main():
    if len(sys.argv) > 1 and sys.argv[1] == "--theirs":
        return theirs(**json.loads(sys.argv[2]))
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--llama-python", required=True)
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompts", default="128,512,2048")
    parser.add_argument("--batches", default="1,4,8,16")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    if shutil.which(arguments.llama_python) is None:
        raise SystemExit(f"compare_llama_cpp.py: no {arguments.llama_python}; make a virtual "
                         "environment and pip install llama-cpp-python there")
    prompts = [int(n) for n in arguments.prompts.split(",")]
    batches = [int(n) for n in arguments.batches.split(",")]
    model, gguf = prepare(arguments)
    mine, other = [], []
    for k in range(arguments.rounds):
        print(f"round {k + 1}: ours", file=sys.stderr)
        mine.append(ours(arguments.build, model, arguments.threads, prompts, batches,
                         arguments.steps, k + 1))
        print(f"round {k + 1}: llama.cpp", file=sys.stderr)
        settings = {"path": gguf, "threads": arguments.threads, "prompts": prompts,
                    "batches": batches, "steps": arguments.steps}
        done = subprocess.run([arguments.llama_python, __file__, "--theirs", json.dumps(settings)],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr[-3000:])
        other.append(json.loads(done.stdout.splitlines()[-1]))
    text = table(arguments, model, prompts, batches, mine, other)
    with open(arguments.out or next_file("llama-cpp"), "w") as file:
        file.write(text)
    print(text)


if __name__ == "__main__":
    main()
