#!/usr/bin/env python3
"""Compares Sluice's tokenizer with the Python package `tokenizers` on random texts.

    tools/compare_tokenizer.py --program build/tests/tokenize DIR... [--count N] [--seed S] [--speed [--text FILE]]

Each DIR has a tokenizer.json. Prints the first differences, and exits 1 if there are any.
"""
import argparse
import os
import struct
import subprocess
import sys
import time

from tokenizers import Tokenizer

from tokenizer_texts import SENTENCES, id_lists, texts

FAILED = 0xFFFFFFFF


class Sluice:
    """The filter tests/unit/text/tokenize.c."""

    def __init__(self, program, directory):
        self.process = subprocess.Popen([program, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, letter, data, item_bytes):
        self.process.stdin.write(letter + struct.pack("<I", len(data)) + data)
        self.process.stdin.flush()
        n = struct.unpack("<I", self.process.stdout.read(4))[0]
        return None if n == FAILED else self.process.stdout.read(n * item_bytes)

    def encode(self, text, special):
        answer = self.ask(b"S" if special else b"E", text.encode(), 4)
        return None if answer is None else list(struct.unpack("<%dI" % (len(answer) // 4), answer))

    def decode(self, ids, skip, pieces):
        letter = {(False, False): b"D", (True, False): b"K", (False, True): b"P", (True, True): b"Q"}[skip, pieces]
        return self.ask(letter, struct.pack("<%dI" % len(ids), *ids), 1).decode()

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def compare(directory, program, count, seed):
    theirs = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    ours = Sluice(program, directory)
    tokens = [t.content for t in theirs.get_added_tokens_decoder().values()]
    different = 0

    def differ(*what):
        nonlocal different
        different += 1
        if different <= 5:
            print("DIFFERENT", directory, *what)

    for text in texts(seed, count, tokens):
        for special in (False, True):
            want = theirs.encode(text, add_special_tokens=special).ids
            have = ours.encode(text, special)
            if want != have:
                differ("encode", ascii(text), "want", want, "have", have)
    n_ids = max(theirs.get_vocab(with_added_tokens=True).values()) + 1
    for ids in id_lists(seed, count, n_ids):
        for skip in (False, True):
            want = theirs.decode(ids, skip_special_tokens=skip)
            for pieces in (False, True):
                have = ours.decode(ids, skip, pieces)
                if want != have:
                    differ("decode", ids, "want", ascii(want), "have", ascii(have))
    if ours.close() != 0:
        differ("the program failed")
    print("%s: %d texts, %d id lists, %d differences" % (directory, count, count, different), flush=True)
    return different


def cpu_seconds(pid):
    """User and system time of a process so far, from /proc."""
    with open("/proc/%d/stat" % pid, encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def speed(directory, program, path):
    """Both on the same text, one thread each, in turns; CPU time, so that other load matters less."""
    theirs = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    if path is None:
        text = " ".join(SENTENCES * 40)
    else:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    size = len(text.encode()) / 1e6
    ours = Sluice(program, directory)
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text, False)
    for _ in range(3):
        start, n = time.process_time(), 0
        while time.process_time() - start < 1:
            theirs.encode(text, add_special_tokens=False)
            n += 1
        rate = n / (time.process_time() - start)
        start, n = cpu_seconds(ours.process.pid), 0
        while cpu_seconds(ours.process.pid) - start < 1:
            ours.ask(b"E", text.encode(), 4)
            n += 1
        mine = n / (cpu_seconds(ours.process.pid) - start)
        print("%s: tokenizers %.2f MB/s, sluice %.2f MB/s" % (directory, rate * size, mine * size), flush=True)
    ours.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--program", default="build/tests/tokenize")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", action="store_true", help="MB of UTF-8 a second, both")
    parser.add_argument("--text", help="the file to measure on")
    args = parser.parse_args()
    if args.speed:
        for directory in args.directories:
            speed(directory, args.program, args.text)
        return
    sys.exit(1 if sum(compare(d, args.program, args.count, args.seed) for d in args.directories) else 0)


if __name__ == "__main__":
    main()
