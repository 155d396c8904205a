#!/usr/bin/env python3
"""Compares random pipelines, not only random texts: vocabularies of the golden files under normalizers,
pre-tokenizers, decoders and added tokens that are drawn by chance.

    tools/compare_tokenizer_pipelines.py --program build/tests/tokenize [--count N] [--seed S]

Files that Sluice refuses as not supported, or that `tokenizers` cannot read, are counted and left out.
"""
import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

from compare_tokenizer import Sluice
from make_tokenizer_goldens import CL100K, GPT4O, LLAMA3, QWEN2, ROOT
from tokenizer_texts import id_lists, texts

BEHAVIORS = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
PATTERNS = [LLAMA3, QWEN2, GPT4O, CL100K, r"\s", r"\w+", r"\W", r"\d{1,3}", r"[aeiou]*", r"\p{L}\p{M}*", r"^\s*",
            r"\S+$", r"(?<=a)b?", r".", r"(?i:the|a)", r"\p{Han}+", r"[^\s\w]+"]
ADDED = ["the", "a b", "  ", "\n", "Å", "é", "e\u0301", "<x>", "<x>y", "ſs", "▁", "漢", "'s", "XY z"]


def flip(rng, chance=0.5):
    return rng.random() < chance


def normalizer(rng):
    return rng.choice([
        {"type": rng.choice(["NFC", "NFD", "NFKC", "NFKD", "Lowercase"])},
        {"type": "Prepend", "prepend": rng.choice(["▁", "x ", "é"])},
        {"type": "Replace", "pattern": {"String": rng.choice([" ", "a", "''"])}, "content": rng.choice(["▁", "", "bb"])},
        {"type": "Replace", "pattern": {"Regex": rng.choice([r"\s+", r"\p{N}", r" {2,}", r"\p{M}+"])},
         "content": rng.choice([" ", "#", ""])},
        {"type": "Strip", "strip_left": flip(rng), "strip_right": flip(rng)}])


def pre_tokenizer(rng):
    if flip(rng):
        pattern = {"String": rng.choice([" ", "\n", "'", "ab"])} if flip(rng, 0.2) else {"Regex": rng.choice(PATTERNS)}
        return {"type": "Split", "pattern": pattern, "behavior": rng.choice(BEHAVIORS), "invert": flip(rng, 0.3)}
    return rng.choice([
        {"type": "Digits", "individual_digits": flip(rng)}, {"type": "Punctuation", "behavior": rng.choice(BEHAVIORS)},
        {"type": "WhitespaceSplit"}, {"type": "Whitespace"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": rng.choice(["always", "first", "never"]),
         "split": flip(rng)}])


def decoder(rng, own):
    return rng.choice([
        own, None, {"type": "Fuse"}, {"type": "ByteFallback"},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": rng.choice(["always", "first", "never"]), "split": True},
        {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"},
                                          {"type": "Strip", "content": "a", "start": 3, "stop": 0}]}])


def sequence(parts, field):
    if len(parts) < 2:
        return parts[0] if parts else None
    return {"type": "Sequence", field: parts}


def add_tokens(rng, data):
    next_id = max([len(data["model"]["vocab"])] + [t["id"] + 1 for t in data["added_tokens"]])
    known = {t["content"] for t in data["added_tokens"]} | set(data["model"]["vocab"])
    for content in rng.sample(ADDED, rng.randrange(6)):
        if content in known:
            continue
        normalized = flip(rng)
        data["added_tokens"].append({
            "id": next_id, "content": content, "single_word": flip(rng, 0.3), "lstrip": flip(rng, 0.3),
            "rstrip": flip(rng, 0.3), "normalized": normalized, "special": not normalized and flip(rng)})
        next_id += 1


def pipeline(rng):
    byte_level = flip(rng)
    base = rng.choice(["gpt2", "qwen2", "dropping", "lacking"] if byte_level else ["llama2", "gemma", "unknown", "words"])
    with open(os.path.join(ROOT, "tests/golden/tokenizers", base, "tokenizer.json"), encoding="utf-8") as file:
        data = json.load(file)
    data["normalizer"] = sequence([normalizer(rng) for _ in range(rng.choice([0, 0, 1, 2, 3]))], "normalizers")
    parts = [pre_tokenizer(rng) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    if byte_level:
        parts.append({"type": "ByteLevel", "add_prefix_space": flip(rng), "trim_offsets": True, "use_regex": flip(rng)})
    else:
        data["decoder"] = decoder(rng, data["decoder"])
        data["model"]["byte_fallback"] = flip(rng)
    data["pre_tokenizer"] = sequence(parts, "pretokenizers")
    data["model"].update(ignore_merges=flip(rng, 0.3), fuse_unk=flip(rng))
    if "<unk>" in data["model"]["vocab"]:
        data["model"]["unk_token"] = rng.choice([None, "<unk>"])
    add_tokens(rng, data)
    return data


def differences(theirs, ours, seed):
    """Texts and id lists that do not come out alike. Where `tokenizers` panics there is nothing to compare."""
    found = []
    for text in texts(seed, 120, [t.content for t in theirs.get_added_tokens_decoder().values()]):
        try:
            want = theirs.encode(text, add_special_tokens=False).ids
        except BaseException as error: # pyo3's PanicException is no Exception
            if isinstance(error, KeyboardInterrupt):
                raise
            continue
        if ours.encode(text, False) != want:
            found.append(text)
    for ids in id_lists(seed, 60, max(theirs.get_vocab().values()) + 1):
        for skip in (False, True):
            want = theirs.decode(ids, skip_special_tokens=skip)
            if any(ours.decode(ids, skip, pieces) != want for pieces in (False, True)):
                found.append(ids)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="build/tests/tokenize")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    tally = collections.Counter()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "tokenizer.json")
        for number in range(args.count):
            data = pipeline(rng)
            with open(path, "w", encoding="utf-8") as file:
                json.dump(data, file)
            loads = subprocess.run([args.program, directory], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                   check=False)
            if loads.returncode != 0:
                tally["refused: " + loads.stderr.strip().replace(path + ": ", "")] += 1
                continue
            ours = Sluice(args.program, directory)
            found = differences(Tokenizer.from_file(path), ours, number)
            ours.close()
            tally["different" if found else "equal"] += 1
            if found:
                print("DIFFERENT", ascii(found[0]), {k: data[k] for k in ("normalizer", "pre_tokenizer", "decoder")},
                      data["added_tokens"][-5:], flush=True)
    print(dict(tally))
    sys.exit(1 if tally["different"] or not tally["equal"] else 0)


if __name__ == "__main__":
    main()
