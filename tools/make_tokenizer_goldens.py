#!/usr/bin/env python3
"""Trains small tokenizers of every supported kind and writes what the Python package `tokenizers`
answers: tests/golden/tokenizers/<name>/tokenizer.json and cases.tsv.

    tools/make_tokenizer_goldens.py [OUT]

Lines of cases.tsv, fields separated by tabs, bytes below 0x20, 0x7f and backslash as \\xNN:
    S  ids before  ids behind             what add_special_tokens adds, to every text alike
    E  text  ids  decoded                 encoded without special tokens, and decoded again
    D  ids  decoded  decoded without special tokens
A decoded text that is as the field before it (for E: the text) is written as `=`.
"""
import collections
import json
import os
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

from tokenizer_texts import SENTENCES, id_lists, texts

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)"
          r"|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def corpus():
    with open(os.path.join(ROOT, "LICENSE"), encoding="utf-8") as file:
        return SENTENCES * 3 + file.read().split("\n\n")


def alphabet(count):
    """The most frequent characters. (limit_alphabet alone picks among equals by chance.)"""
    found = collections.Counter("".join(corpus()).replace(" ", "▁"))
    return [char for char, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count]]


def train(vocab_size, special=(), pre=None, normalizer=None, prefix_space=False, all_bytes=True):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre or pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(special), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if all_bytes else [])
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2():
    tokenizer = train(900, ["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def roberta():
    tokenizer = train(600, ["<s>", "<pad>", "</s>", "<unk>"], prefix_space=True)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return tokenizer


def llama3():
    data = json.loads(train(1200, pre=split_then_bytes(LLAMA3)).to_str())
    vocab = data["model"]["vocab"]
    for word in ("Ġprefill", "Ġdecodes", "åŃĹ", "didn", "æľĿ"):
        vocab.setdefault(word, len(vocab)) # no merges lead there: only ignore_merges finds them
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>",
                                  "<|end_header_id|>"])
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=bos + " $A", pair=bos + " $A " + bos + " $B",
                                      special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    return tokenizer


def qwen2():
    tokenizer = train(1200, pre=split_then_bytes(QWEN2), normalizer=normalizers.NFC())
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False),
                          AddedToken("<think>", normalized=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def gpt4o():
    tokenizer = train(700, ["<|endoftext|>", "<|endofprompt|>"], pre=split_then_bytes(GPT4O))
    return tokenizer


def cl100k():
    return train(500, ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>"], pre=split_then_bytes(CL100K))


def deepseek():
    parts = [pre_tokenizers.Split(Regex(p), "isolated") for p in DEEPSEEK]
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer = train(600, ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], pre=pre_tokenizers.Sequence(parts))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<｜begin▁of▁sentence｜> $A <｜end▁of▁sentence｜>",
        special_tokens=[("<｜begin▁of▁sentence｜>", 0), ("<｜end▁of▁sentence｜>", 1)])
    return tokenizer


def smollm():
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation("contiguous"),
             pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    return train(500, ["<|endoftext|>", "<|im_start|>"], pre=pre_tokenizers.Sequence(parts))


def added():
    """Every flag of added tokens, with a normalizer."""
    tokenizer = train(450, normalizer=normalizers.NFC())
    tokenizer.add_special_tokens([AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True),
                                  AddedToken("<lr>", lstrip=True, rstrip=True), AddedToken("<n>", normalized=True)])
    tokenizer.add_tokens([AddedToken("word", single_word=True), AddedToken("wordy", single_word=True),
                          AddedToken("caf\u00e9", normalized=True), AddedToken("cafe\u0301s", normalized=False),
                          AddedToken("\u212b", normalized=True), AddedToken("漢字"), AddedToken("   "),
                          AddedToken("\n\n"), AddedToken("raw", normalized=False, lstrip=True, single_word=True),
                          AddedToken("Ġx"), AddedToken("é", single_word=True, rstrip=True),
                          AddedToken("\t", lstrip=True, rstrip=True), AddedToken(" \n", rstrip=True)])
    return tokenizer


def lacking():
    """Bytes without a token: unknown ones, fused."""
    tokenizer = train(60, ["<unk>"], all_bytes=False)
    data = json.loads(tokenizer.to_str())
    data["model"].update(unk_token="<unk>", fuse_unk=True)
    return data


def dropping():
    """Bytes without a token, and no unknown token either."""
    data = json.loads(train(60, ["<unk>"], all_bytes=False).to_str())
    data["model"]["unk_token"] = None
    return data


def behavior(name, invert, pattern):
    tokenizer = train(300, pre=pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern, name, invert),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
    return tokenizer


def sentencepiece(vocab_size, specials, change):
    """As exported from SentencePiece: byte tokens, merges over whole texts with metaspaces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, limit_alphabet=300,
                                  initial_alphabet=alphabet(300))
    tokenizer.train_from_iterator(corpus(), trainer)
    data = json.loads(tokenizer.to_str())
    names = specials + ["<0x%02X>" % byte for byte in range(256)]
    trained = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    data["model"].update(vocab={name: i for i, name in enumerate(names + trained)}, byte_fallback=True,
                         unk_token="<unk>", fuse_unk=True)
    data["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    change(tokenizer)
    return tokenizer


def llama2():
    def change(tokenizer):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return sentencepiece(700, ["<unk>", "<s>", "</s>"], change)


def mistral():
    def change(tokenizer):
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return sentencepiece(700, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], change)


def phi3():
    def change(tokenizer):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.add_special_tokens(["<unk>", "<s>", AddedToken("</s>", rstrip=True)])
        tokenizer.add_special_tokens([AddedToken("<|user|>", rstrip=True), AddedToken("<|end|>", rstrip=True)])
    return sentencepiece(500, ["<unk>", "<s>", "</s>"], change)


def gemma():
    def change(tokenizer):
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"])
        tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False),
                              AddedToken("▁▁▁▁", normalized=False), AddedToken("<table>", normalized=False)])
        tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return sentencepiece(700, ["<pad>", "<eos>", "<bos>", "<unk>"], change)


def metaspace():
    def change(tokenizer):
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase(),
                                                     normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.add_special_tokens([AddedToken("<s>", normalized=False)])
        tokenizer.add_tokens([AddedToken("<Mask>", normalized=True)])
    return sentencepiece(400, ["<unk>", "<s>"], change)


def legacy():
    """As files of before are written: names that have changed since, a Bert post-processor, digits in runs."""
    tokenizer = train(400, ["<s>", "</s>"], pre=pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)]))
    tokenizer.post_processor = processors.BertProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


def unknown():
    """No byte fallback: unknown ones one by one; whitespace pre-tokenizers, a decoder of one part."""
    def change(tokenizer):
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Punctuation("merged_with_next")])
        tokenizer.decoder = decoders.Replace("▁", " ")
        tokenizer.add_special_tokens(["<unk>"])
    data = json.loads(sentencepiece(300, ["<unk>"], change).to_str())
    data["model"].update(byte_fallback=False, fuse_unk=False)
    return data


def words():
    """The Whitespace pre-tokenizer, no decoder: a space between two tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>"], show_progress=False,
                                  limit_alphabet=150, initial_alphabet=alphabet(150))
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


KINDS = {
    "llama2": (llama2, 300), "mistral": (mistral, 300), "phi3": (phi3, 200), "gemma": (gemma, 300),
    "metaspace": (metaspace, 200), "legacy": (legacy, 150), "unknown": (unknown, 200), "words": (words, 200),
    "gpt2": (gpt2, 1100), "roberta": (roberta, 400), "llama3": (llama3, 1100), "qwen2": (qwen2, 1100),
    "gpt4o": (gpt4o, 1000), "cl100k": (cl100k, 1000), "deepseek": (deepseek, 1000), "smollm": (smollm, 1000),
    "added": (added, 1000), "lacking": (lacking, 200), "dropping": (dropping, 200),
}
for number, (split, inverted) in enumerate((b, i) for b in ("removed", "isolated", "merged_with_previous",
                                                             "merged_with_next", "contiguous")
                                           for i in (False, True)):
    where = Regex(r"\s|[aeiou]*") if number % 3 == 0 else Regex(r"\p{L}\p{M}*|\d") if number % 3 == 1 else " "
    KINDS["split_%s%s" % (split, "_inverted" if inverted else "")] = (
        lambda b=split, i=inverted, w=where: behavior(b, i, w), 130)

# How merges are written: pairs is what `tokenizers` writes, strings what older files have.
MERGES_AS_STRINGS = {"gpt2", "qwen2", "cl100k", "smollm"}
IGNORE_MERGES = {"llama3", "gpt4o"}


def write_json(tokenizer, name, path):
    data = tokenizer if isinstance(tokenizer, dict) else json.loads(tokenizer.to_str())
    if name in MERGES_AS_STRINGS:
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    if name in IGNORE_MERGES:
        data["model"]["ignore_merges"] = True
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, indent=None, separators=(",", ":"))
        file.write("\n")


def escape(text):
    out = []
    for char in text:
        if ord(char) < 0x20 or char in "\x7f\\":
            out.append("\\x%02x" % ord(char))
        else:
            out.append(char)
    return "".join(out)


def numbers(ids):
    return " ".join(map(str, ids))


def same(text, as_before):
    return "=" if text == as_before else escape(text)


def write_cases(path, tokenizer, count, seed):
    tokens = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    around = tokenizer.encode("", add_special_tokens=True).ids
    before = next(k for k in range(len(around) + 1)
                  if tokenizer.encode("a").ids[:k] == around[:k] and
                  tokenizer.encode("a").ids[len(tokenizer.encode("a").ids) - (len(around) - k):] == around[k:])
    lines = ["S\t%s\t%s" % (numbers(around[:before]), numbers(around[before:]))]
    for number, text in enumerate(texts(seed, count, tokens)):
        if number >= 60 and number % 100 != 0: # the files are to stay small
            text = text[:36]
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text).ids == around[:before] + ids + around[before:]
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        lines.append("E\t%s\t%s\t%s" % (escape(text), numbers(ids), same(decoded, text)))
    n_ids = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    for ids in id_lists(seed, count // 6, n_ids):
        whole = tokenizer.decode(ids, skip_special_tokens=False)
        skipped = tokenizer.decode(ids, skip_special_tokens=True)
        lines.append("D\t%s\t%s\t%s" % (numbers(ids), escape(whole), same(skipped, whole)))
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "tests/golden/tokenizers")
    for name, (make, count) in KINDS.items():
        seed = sum(name.encode())
        directory = os.path.join(out, name)
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, "tokenizer.json")
        write_json(make(), name, path)
        write_cases(os.path.join(directory, "cases.tsv"), Tokenizer.from_file(path), count, seed)
        print(name, os.path.getsize(path), os.path.getsize(os.path.join(directory, "cases.tsv")), flush=True)


if __name__ == "__main__":
    main()
