"""What the model makers share: safetensors files, bf16, repeatable random numbers, tokenizer.json.

Only python3 and numpy. Everything is a function of its arguments: the same call gives the same
bytes with any version of numpy, since nothing here uses numpy's random generators or its libm.
"""

import hashlib
import json
import os
import struct

import numpy as np

ELEMENT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
TORCH_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


# ------------------------------------------------------------------ numbers

def mix64(x):
    """splitmix64's finaliser on an array of uint64: a counter in, 64 random bits out."""
    x = x * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def stream_key(seed, name):
    """The 64-bit key of one tensor's numbers."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def random_u16(key, first, count):
    """`count` uniform 16-bit numbers, from index `first` (a multiple of 4) of stream `key`."""
    words = (count + 3) // 4
    counter = np.arange(first // 4, first // 4 + words, dtype=np.uint64) + np.uint64(key)
    return mix64(counter).view("<u2")[:count]


def shuffled(key, count):
    """A permutation of 0..count-1."""
    order = mix64(np.arange(count, dtype=np.uint64) + np.uint64(key))
    return np.argsort(order, kind="stable")


def encode(values, element):
    """float array -> bytes of the element type, rounded to nearest even."""
    values = np.ascontiguousarray(values, dtype="<f4")
    if element == "F32":
        return values.tobytes()
    if element == "F16":
        return values.astype("<f2").tobytes()
    bits = values.view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2").tobytes()


# ------------------------------------------------------------------ files

def write_json(path, body):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(body, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_safetensors(path, tensors):
    """tensors: [(name, element, shape, chunks)]; chunks() yields the tensor's bytes in pieces."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, element, shape, _ in tensors:
        size = int(np.prod(shape, dtype=np.int64)) * ELEMENT_BYTES[element]
        header[name] = {"dtype": element, "shape": list(shape),
                        "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, _, chunks in tensors:
            for chunk in chunks():
                file.write(chunk)
            end = 8 + len(text) + header[name]["data_offsets"][1]
            assert file.tell() == end, f"{name}: wrote up to {file.tell()}, want {end}"


def write_checkpoint(directory, tensors, n_shards):
    """One model.safetensors, or n_shards of them with an index, as transformers names them."""
    if n_shards == 1:
        write_safetensors(os.path.join(directory, "model.safetensors"), tensors)
        return
    sizes = [int(np.prod(t[2], dtype=np.int64)) * ELEMENT_BYTES[t[1]] for t in tensors]
    shards, limit, filled = [[] for _ in range(n_shards)], sum(sizes) / n_shards, 0
    for tensor, size in zip(tensors, sizes):
        shards[min(int((filled + size / 2) / limit), n_shards - 1)].append(tensor)
        filled += size
    weight_map = {}
    for n, shard in enumerate(shards):
        name = f"model-{n + 1:05d}-of-{n_shards:05d}.safetensors"
        write_safetensors(os.path.join(directory, name), shard)
        weight_map.update({tensor[0]: name for tensor in shard})
    write_json(os.path.join(directory, "model.safetensors.index.json"),
               {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map})


# ------------------------------------------------------------------ tokenizers

def byte_alphabet():
    """GPT-2's printable character for each byte: list of 256."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(others)) for b in range(256)]


def byte_level_tokenizer(vocab, merges, bos, specials, split=LLAMA3_SPLIT):
    """The body of tokenizer.json. vocab: token -> id; merges: [(left, right)]; specials: tokens of
    vocab; bos is put before every text."""
    def template(*parts):
        return [{"SpecialToken": {"id": bos, "type_id": 0}},
                *({"Sequence": {"id": part, "type_id": 0}} for part in parts)]

    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": vocab[token], "content": token, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False, "special": True} for token in specials],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated",
             "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}]},
        "post_processor": {
            "type": "TemplateProcessing", "single": template("A"), "pair": template("A", "B"),
            "special_tokens": {bos: {"id": bos, "ids": [vocab[bos]], "tokens": [bos]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": vocab, "merges": [list(pair) for pair in merges]},
    }


PLAIN_TEMPLATE = ("{{ bos_token }}{% for m in messages %}{{ m['content'] }}"
                  "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}")


def tokenizer_config(bos, eos, context, chat_template=PLAIN_TEMPLATE):
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos,
        "model_max_length": context, "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
