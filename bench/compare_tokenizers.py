#!/usr/bin/env python3
"""Sluice's tokenizer beside the Python package `tokenizers` (Rust), one core each, in turns.

    bench/compare_tokenizers.py [--build build] [--rounds 5] [DIR...] > bench/results/NNNN-tokenizers.md

Without directories it trains vocabularies of 32,000 tokens, byte-level and SentencePiece-style, on the
Python library's own sources and the licences of this machine, and keeps them in BUILD/bench-tokenizers. With
directories it takes those (each with a tokenizer.json: a model's own, say). Needs the package `tokenizers`.

Rates are MB of UTF-8 a second of CPU time (user and system).
Of each pair the median of the rounds, which alternate. What Sluice takes includes the pipe that its filter
(tests/unit/text/tokenize.c) reads from and writes to; what `tokenizers` takes includes its object of ids and
offsets, but no list of them.
"""
import argparse
import datetime
import glob
import importlib.metadata
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers  # noqa: E402

from compare_tokenizer import Sluice  # noqa: E402
from make_tokenizer_goldens import GPT4O, LLAMA3, QWEN2  # noqa: E402
from tokenizer_texts import PROSE, corpus, sources  # noqa: E402

VOCAB = 32000
MB = 1000000
SLOW_SECONDS = 60  # one call that takes longer is not made again, nor with a longer text


def library():
    """The text to learn from: sources of the Python library, licences."""
    files = sorted(glob.glob(f"{sys.base_prefix}/lib/python3*/*.py"))[:150] + sorted(glob.glob("/usr/share/common-licenses/*"))
    return [pathlib.Path(path).read_text(encoding="utf-8", errors="replace") for path in files]


def bytes_behind(*parts):
    return pre_tokenizers.Sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def train_byte_level(path):
    """One vocabulary under the pipelines of GPT-2, Llama 3, Qwen and GPT-4o."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = bytes_behind(split(LLAMA3))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(library() + PROSE, trainers.BpeTrainer(
        vocab_size=VOCAB, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    pipelines = {"gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
                 "llama3": (None, bytes_behind(split(LLAMA3))), "qwen2": (normalizers.NFC(), bytes_behind(split(QWEN2))),
                 "gpt4o": (None, bytes_behind(split(GPT4O)))}
    for name, (normalizer, pre) in pipelines.items():
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre
        data = json.loads(tokenizer.to_str())
        if normalizer is None:
            data["normalizer"] = None
        write(path / name, data)


def train_sentencepiece(path):
    """Learnt from words, run over the whole text as Llama 2 and Mistral v0.1 have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fallback = ["<unk>"] + ["<0x%02X>" % byte for byte in range(256)]
    tokenizer.train_from_iterator(library() + PROSE, trainers.BpeTrainer(
        vocab_size=VOCAB, show_progress=False, special_tokens=fallback, limit_alphabet=2000))
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = []
    data["pre_tokenizer"] = None
    data["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    write(path / "llama2", data)


def write(path, data):
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def directories(build):
    path = pathlib.Path(build) / "bench-tokenizers"
    if not (path / "llama2").exists():
        train_byte_level(path)
        train_sentencepiece(path)
    return sorted(path.iterdir())


def long(make, bytes_wanted):
    """Texts of a corpus, one behind the other, to about so many bytes."""
    out, size, seed = [], 0, 0
    while size < bytes_wanted:
        out += make(seed)
        size = sum(len(text.encode()) for text in out)
        seed += 1
    return "\n".join(out)


def natural():
    return {"code and prose of the Python library": "\n".join(library())[400000:800000],
            "C and Python of this tree": "\n".join(sources())[:400000],
            "25 languages": long(lambda seed: corpus("multilingual text", seed, 200), 300000),
            "emoji": long(lambda seed: corpus("emoji", seed, 200), 300000),
            "random bytes": long(lambda seed: corpus("random bytes", seed, 200), 300000)}


def hostile(size):
    letters = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=size))
    return {"letters without a space": letters, **{
        f"one character: {name}": unit * (size // len(unit.encode()))
        for name, unit in (("a", "a"), ("space", " "), ("line feed", "\n"), ("1", "1"), ("!", "!"), ("漢", "漢"))}}


def cpu_seconds(pid):
    """User and system time of a process so far, to the nanosecond."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0]) / 1e9


class Pair:
    """Both, with the same tokenizer.json, on the same text."""

    def __init__(self, directory, program):
        self.theirs = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.ours = Sluice(program, str(directory))

    def their_seconds(self, text):
        start, wall = time.process_time(), time.perf_counter()
        self.theirs.encode(text, add_special_tokens=False)
        return time.process_time() - start, time.perf_counter() - wall

    def our_seconds(self, text):
        data, pid = text.encode(), self.ours.process.pid
        start, wall = cpu_seconds(pid), time.perf_counter()
        self.ours.ask(b"E", data, 4)
        return cpu_seconds(pid) - start, time.perf_counter() - wall

    def measure(self, text, rounds):
        """Median seconds (CPU, wall) of each; None where it took too long to be asked again."""
        mine, rust = [self.our_seconds(text)], [self.their_seconds(text)]
        slow = rust[0][0] > SLOW_SECONDS / rounds
        for _ in range(rounds):
            mine.append(self.our_seconds(text))
            if not slow:
                rust.append(self.their_seconds(text))
        keep = slice(1, None)  # the first one warms caches
        return ([statistics.median(column) for column in zip(*mine[keep])],
                [statistics.median(column) for column in zip(*(rust if slow else rust[keep]))])


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def table_natural(pairs, rounds):
    print("## Natural text\n\nMB/s of CPU time, and how many times the Rust figure Sluice's is.\n")
    row("tokenizer", "text", "MB", "`tokenizers`", "Sluice", "ratio")
    row("---", "---", *["---:"] * 4)
    ratios = []
    for name, pair in pairs.items():
        for label, text in natural().items():
            size = len(text.encode()) / MB
            assert pair.theirs.encode(text, add_special_tokens=False).ids == pair.ours.encode(text, False), (name, label)
            (mine, _), (rust, _) = pair.measure(text, rounds)
            ratios.append(rust / mine)
            row(name, label, f"{size:.2f}", f"{size / rust:.2f}", f"{size / mine:.2f}", f"{rust / mine:.2f}")
    return ratios


def table_hostile(pairs, rounds):
    print("\n## Hostile text\n\nSeconds of CPU time for a quarter, a half and a whole MB; the ratio is of the whole.\n")
    row("tokenizer", "text", "`tokenizers` 0.25", "0.5", "1 MB", "Sluice 0.25", "0.5", "1 MB", "ratio")
    row("---", "---", *["---:"] * 7)
    ratios = []
    for name, pair in pairs.items():
        for label in hostile(1):
            mine, rust = [], []
            for size in (MB // 4, MB // 2, MB):
                text = hostile(size)[label]
                if rust and rust[-1] > SLOW_SECONDS / 4:  # it grows: not to be waited for
                    mine.append(statistics.median(pair.our_seconds(text)[0] for _ in range(rounds)))
                    rust.append(float("inf"))
                else:
                    (own, _), (other, _) = pair.measure(text, rounds)
                    mine.append(own)
                    rust.append(other)
            ratios.append(rust[-1] / mine[-1])
            row(name, label, *(f"{s:.3f}" if s < float("inf") else "not waited for" for s in rust), *(f"{s:.3f}" for s in mine),
                f"{ratios[-1]:.2f}")
    return ratios


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directories", nargs="*", type=pathlib.Path)
    parser.add_argument("--build", default=str(ROOT / "build"))
    parser.add_argument("--rounds", type=int, default=5, help="of natural text; hostile text once, after a call that warms")
    parser.add_argument("--hostile", nargs="*", default=["llama3", "llama2"], help="names of those that get hostile text")
    args = parser.parse_args()
    program = os.path.join(args.build, "tests", "tokenize")
    pairs = {path.name: Pair(path, program) for path in args.directories or directories(args.build)}
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True,
                            check=False).stdout.strip()
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo", encoding="ascii") if "model name" in line), "?")
    print(f"# Tokenizers: Sluice beside `tokenizers` {importlib.metadata.version('tokenizers')}\n")
    print(f"{datetime.date.today()}, commit {commit}. {cpu}, {os.cpu_count()} CPUs; load average {os.getloadavg()[0]:.1f} at the "
          f"beginning.\n`bench/compare_tokenizers.py --rounds {args.rounds}`: one core each, in turns, medians.\n")
    ratios = table_natural(pairs, args.rounds) + table_hostile(
        {name: pair for name, pair in pairs.items() if name in args.hostile or args.directories}, 1)
    print(f"\nRatio over all rows: least {min(ratios):.2f}, median {statistics.median(ratios):.2f}. "
          f"Load average {os.getloadavg()[0]:.1f} at the end.")
    sys.exit(0 if min(ratios) >= 1 else 1)


if __name__ == "__main__":
    main()
