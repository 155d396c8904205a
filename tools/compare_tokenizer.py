#!/usr/bin/env python3
"""Compares Sluice's tokenizer with the Python package `tokenizers` on random texts.

    tools/compare_tokenizer.py --program build/tests/tokenize DIR... [--count N] [--seed S]

Each DIR has a tokenizer.json. Prints the first differences, and exits 1 if there are any. The tables over
all corpora are tools/text_tables.py's, the speed of both is bench/compare_tokenizers.py's.
"""
import argparse
import os
import struct
import subprocess
import sys

from tokenizers import Tokenizer

from tokenizer_texts import id_lists, texts

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


def check_texts(theirs, ours, inputs, check):
    """Ids of each text, without and with special tokens. check(what, input, want, have) is told of each comparison."""
    for text in inputs:
        for special in (False, True):
            check("encode", text, theirs.encode(text, add_special_tokens=special).ids, ours.encode(text, special))


def check_ids(theirs, ours, lists, check):
    """The text of each list of ids, with and without special tokens, by the whole and token by token."""
    for ids in lists:
        for skip in (False, True):
            want = theirs.decode(ids, skip_special_tokens=skip)
            check("decode", ids, want, ours.decode(ids, skip, False))
            check("detokenize", ids, want, ours.decode(ids, skip, True))


def open_theirs(directory):
    theirs = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    return theirs


def n_ids_of(tokenizer):
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


class Tally:
    """Counts comparisons and differences, and prints the first ones."""

    def __init__(self, name):
        self.name = name
        self.checks = self.different = 0

    def __call__(self, what, given, want, have):
        self.checks += 1
        if want == have:
            return
        self.different += 1
        if self.different <= 5:
            print("DIFFERENT", self.name, what, ascii(given), "want", ascii(want), "have", ascii(have), file=sys.stderr)


def compare(directory, program, count, seed):
    theirs, ours = open_theirs(directory), Sluice(program, directory)
    tally = Tally(directory)
    tokens = [t.content for t in theirs.get_added_tokens_decoder().values()]
    check_texts(theirs, ours, texts(seed, count, tokens), tally)
    check_ids(theirs, ours, id_lists(seed, count, n_ids_of(theirs)), tally)
    tally("exit status", directory, 0, ours.close())
    print("%s: %d texts, %d id lists, %d differences" % (directory, count, count, tally.different), flush=True)
    return tally.different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directories", nargs="+")
    parser.add_argument("--program", default="build/tests/tokenize")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    sys.exit(1 if sum(compare(d, args.program, args.count, args.seed) for d in args.directories) else 0)


if __name__ == "__main__":
    main()
