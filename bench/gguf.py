"""Writes a Hugging Face checkpoint (Llama, Qwen2, Qwen3; bf16 safetensors) as GGUF in bf16.

    gguf.py MODEL_DIR OUT.gguf

For comparisons of speed on the same weights: matrices keep their bits, norms and biases become f32 as
llama.cpp wants them, and there is no vocabulary (token ids in, logits out). Query and key rows of
Llama are reordered, since llama.cpp rotates neighbouring pairs there and Hugging Face halves. Only
python3 and numpy; the format is GGUF version 3.
"""
import json
import math
import os
import struct
import sys

import numpy as np

F32, BF16 = 0, 30             # ggml types
U32, FLOAT, STRING = 4, 6, 8  # GGUF value types
MOSTLY_BF16 = 32
ALIGNMENT = 32


class Checkpoint:
    """Tensors of all safetensors files of a directory, mapped."""

    def __init__(self, directory):
        with open(os.path.join(directory, "config.json")) as file:
            self.config = json.load(file)
        self.places = {}
        for name in sorted(os.listdir(directory)):
            if name.endswith(".safetensors"):
                self.add_file(os.path.join(directory, name))

    def add_file(self, path):
        with open(path, "rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(size))
        data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size)
        for name, info in header.items():
            if name != "__metadata__":
                first, last = info["data_offsets"]
                self.places[name] = (info["dtype"], info["shape"], data[first:last])

    def bits(self, name):
        """A tensor as its bf16 bits."""
        dtype, shape, data = self.places[name]
        if dtype != "BF16":
            raise SystemExit(f"gguf.py: {name} is {dtype}; want BF16")
        return data.view("<u2").reshape(shape)

    def floats(self, name):
        return (self.bits(name).astype("<u4") << np.uint32(16)).view("<f4")


def rope_of(config):
    """Base and scaling, in both spellings of the configuration."""
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or (rope if rope.get("rope_type") == "llama3" else None)
    return float(rope.get("rope_theta", config.get("rope_theta", 10000.0))), scaling


def llama3_factors(base, scaling, dim):
    """What each frequency is divided by."""
    factor, old = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = old / scaling["low_freq_factor"], old / scaling["high_freq_factor"]
    factors = []
    for i in range(0, dim, 2):
        wave = 2 * math.pi * base ** (i / dim)
        if wave < high:
            factors.append(1.0)
        elif wave > low:
            factors.append(factor)
        else:
            smooth = (old / wave - scaling["low_freq_factor"]) / (
                scaling["high_freq_factor"] - scaling["low_freq_factor"])
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype="<f4")


def neighbours(bits, heads):
    """Rows of a projection from halves to neighbouring pairs, head by head."""
    rows, columns = bits.shape
    halves = bits.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows, columns)


def tensors_of(checkpoint, arch, head_dim):
    """(name, GGUF type, shape, a function that gives the array)"""
    config = checkpoint.config
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    out = []

    def matrix(name, source, reorder=0):
        shape = checkpoint.places[source][1]

        def read():
            bits = checkpoint.bits(source)
            return neighbours(bits, reorder) if reorder else bits
        out.append((name, BF16, shape, read))

    def vector(name, source):
        if source in checkpoint.places:
            out.append((name, F32, checkpoint.places[source][1], lambda: checkpoint.floats(source)))

    matrix("token_embd.weight", "model.embed_tokens.weight")
    vector("output_norm.weight", "model.norm.weight")
    if not config.get("tie_word_embeddings", False):
        matrix("output.weight", "lm_head.weight")
    base, scaling = rope_of(config)
    if scaling and scaling.get("rope_type", scaling.get("type")) == "llama3":
        factors = llama3_factors(base, scaling, head_dim)
        out.append(("rope_freqs.weight", F32, [head_dim // 2], lambda: factors))
    for i in range(config["num_hidden_layers"]):
        here, there = f"blk.{i}.", f"model.layers.{i}."
        vector(here + "attn_norm.weight", there + "input_layernorm.weight")
        vector(here + "ffn_norm.weight", there + "post_attention_layernorm.weight")
        for letter, n in (("q", heads), ("k", kv_heads), ("v", 0)):
            source = f"{there}self_attn.{letter}_proj."
            matrix(f"{here}attn_{letter}.weight", source + "weight", n if arch == "llama" else 0)
            vector(f"{here}attn_{letter}.bias", source + "bias")
        vector(here + "attn_q_norm.weight", there + "self_attn.q_norm.weight")
        vector(here + "attn_k_norm.weight", there + "self_attn.k_norm.weight")
        matrix(here + "attn_output.weight", there + "self_attn.o_proj.weight")
        for part in ("gate", "up", "down"):
            matrix(f"{here}ffn_{part}.weight", f"{there}mlp.{part}_proj.weight")
    return out


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, value):
    packed = {STRING: lambda: text(value), U32: lambda: struct.pack("<I", value),
              FLOAT: lambda: struct.pack("<f", value)}[kind]()
    return text(key) + struct.pack("<I", kind) + packed


def settings_of(config, arch, head_dim, name):
    base, _ = rope_of(config)
    return [
        pair("general.architecture", STRING, arch),
        pair("general.name", STRING, name),
        pair("general.alignment", U32, ALIGNMENT),
        pair("general.file_type", U32, MOSTLY_BF16),
        pair(f"{arch}.vocab_size", U32, config["vocab_size"]),
        pair(f"{arch}.context_length", U32, config["max_position_embeddings"]),
        pair(f"{arch}.embedding_length", U32, config["hidden_size"]),
        pair(f"{arch}.block_count", U32, config["num_hidden_layers"]),
        pair(f"{arch}.feed_forward_length", U32, config["intermediate_size"]),
        pair(f"{arch}.attention.head_count", U32, config["num_attention_heads"]),
        pair(f"{arch}.attention.head_count_kv", U32, config["num_key_value_heads"]),
        pair(f"{arch}.attention.key_length", U32, head_dim),
        pair(f"{arch}.attention.value_length", U32, head_dim),
        pair(f"{arch}.attention.layer_norm_rms_epsilon", FLOAT, config["rms_norm_eps"]),
        pair(f"{arch}.rope.dimension_count", U32, head_dim),
        pair(f"{arch}.rope.freq_base", FLOAT, base),
        pair("tokenizer.ggml.model", STRING, "no_vocab"),
    ]


def padded(n):
    return (n + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def write(directory, path):
    checkpoint = Checkpoint(directory)
    config = checkpoint.config
    arch = config["model_type"]
    if arch not in ("llama", "qwen2", "qwen3"):
        raise SystemExit(f"gguf.py: model type {arch}; want llama, qwen2 or qwen3")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    tensors = tensors_of(checkpoint, arch, head_dim)
    settings = settings_of(config, arch, head_dim, os.path.basename(directory.rstrip("/")))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(settings)) + b"".join(settings)
    offset = 0
    for name, kind, shape, _ in tensors:
        header += text(name) + struct.pack("<I", len(shape))
        header += b"".join(struct.pack("<Q", n) for n in reversed(shape))
        header += struct.pack("<IQ", kind, offset)
        offset += padded(math.prod(shape) * (2 if kind == BF16 else 4))
    with open(path + ".part", "wb") as file:
        file.write(header.ljust(padded(len(header)), b"\0"))
        for _, _, _, read in tensors:
            data = np.ascontiguousarray(read())
            file.write(data)
            file.write(b"\0" * (padded(data.nbytes) - data.nbytes))
    os.replace(path + ".part", path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    write(sys.argv[1], sys.argv[2])
