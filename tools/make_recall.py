#!/usr/bin/env python3
"""Writes the recall model, whose weights are computed and whose answers are known.

    make_recall.py DIR

A stock Llama checkpoint (Hugging Face layout, 10 MB in bf16) that continues any passage which
occurred earlier in its context: it finds the best match of the last tokens, at least of the last
two, and predicts what followed there; when it finds nothing, or things that contradict each other,
it ends the text. A KV block that is lost or spoilt therefore shows as a wrong answer, thousands of
tokens later. python3 and numpy are all it needs; the same call gives the same bytes.

The residual holds binary codes as +1 and -1: of every token K (Kerdock, 64 long), G (Golay, 24) and
H (Reed-Muller, 16). Any two tokens agree in at most 1/8, 1/3 and 1/2 of full strength. One further
dimension, ONE, is so large that it alone decides the RMS norm, whose weights take it out again: after
every norm the codes are +-1 and ONE is 1.

  layer 0   Heads 0, 1, 2 copy codes from 1, 2, 3 tokens back. Their key is a constant in the fastest
            rotary pairs, their query the same constant turned back by d, so that the score is
            sum a_n cos(w_n (distance - d)) with its only peak at d. Head 3, the echo, finds an
            earlier copy of the token by K, held off its own position by a negative peak at 0.
            The MLP multiplies neighbours' codes: P01 = H H1 and so on, hashes of pairs of tokens.
  layer 1   Heads 0, 1 look 4 and 7 back for codes and pair hashes: eight tokens of history. Heads
            2, 3 are the echo of the token before.
  layer 2   All heads score the history against every earlier position's, in rotary pairs so slow
            that their turning does not matter. The value is the code K of the token there; the MLP
            clips it to +-1 (OUT).
  head      logit(t) = LOGIT / 64 * K_t . OUT, and a fixed logit for the end of text.
  sink      A search that finds nothing rests on the first token, whose value is zero.

The echoes add nothing to an answer: they make it depend on distant keys and values in every layer.
"""

import os
import sys

import numpy as np

import checkpoint

VOCAB, WIDTH, HEAD, Q_HEADS, KV_HEADS, MLP = 2048, 512, 128, 4, 2, 128
THETA, EPS, CONTEXT = 1e24, 1e-5, 32768
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Where the codes live in the residual, in the order in which the layers add them.
FIELDS = [
    ("G", 24), ("H", 16), ("K", 64),                                        # embedding
    ("G1", 24), ("H1", 16), ("H2", 16), ("H3", 16), ("RAWE1", 24),          # layer 0 attention
    ("E1", 24), ("P01", 16), ("P12", 16), ("P23", 8),                       # layer 0 MLP
    ("H4", 16), ("P45", 16), ("P56", 16), ("P67", 8), ("P78", 8), ("RAWE2", 16),  # layer 1
    ("E2", 16),
    ("RAWOUT", 64), ("OUT", 64),                                            # layer 2
]
STAGES = [3, 8, 12, 18, 19, 20, 21]  # fields present after embedding, attention, MLP, attention, …
DIMS, _at = {}, 0
for _name, _size in FIELDS:
    DIMS[_name] = np.arange(_at, _at + _size)
    _at += _size
FLAG, ONE = WIDTH - 2, WIDTH - 1    # FLAG is 1 on the first token only
CONSTANT = 360.0                    # ONE before the norm

TURN = THETA ** (-np.arange(HEAD // 2) / (HEAD // 2))   # radians per token of each rotary pair
# Amplitudes of the fast pairs, found by a search: over the integers 0 < |x| < 65,536 the sum
# a_n cos(w_n x) stays between -0.9 and 0.81 of its value at 0.
PEAK = np.array([1, .17, .19, .12, .23, .13, .10, .07, .10, .09, .09, .10])
PEAK = PEAK / PEAK.sum()
N_FAST = len(PEAK)
RECENCY_PAIR, SINK_PAIR = 12, 15
KEY = 8.0                           # size of the entries of a key
BACK_SCORE, SELF_SCORE = 260.0, -200.0
ECHO0, ECHO0_SINK = 450.0, 269.0
ECHO1, ECHO1_SINK = 650.0, 469.0
# The search of layer 2: rotary pairs, code of the query, code of the key, score when equal.
SEARCH = [
    (range(52, 64), "E1", "G1", 440.0), (range(44, 52), "E2", "H2", 440.0),
    (range(36, 44), "H2", "H3", 80.0), (range(28, 36), "H3", "H4", 44.0),
    (range(20, 28), "P45", "P56", 24.0), (range(16, 20), "P67", "P78", 12.0),
]
SEARCH_SINK, RECENCY = 848.0, 3.0
LOGIT, EOS_LOGIT = 60.0, 42.0


# ------------------------------------------------------------------ codes

def sums_of(generators):
    """Every sum of the binary rows, as +1 and -1: [2^rows][length]."""
    rows = np.array(generators)
    choice = np.arange(2 ** len(rows))[:, None] >> np.arange(len(rows)) & 1
    return 1 - 2 * (choice @ rows % 2)


def golay_code():
    """4,096 words of length 24 at distance 8: dot products of at most 8."""
    taps = [1, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1]
    return sums_of([[0] * k + taps + [0] * (11 - k) + [1] for k in range(12)])


def reed_muller_code():
    """2,048 words of length 16 at distance 4: dot products of at most 8."""
    bit = [np.arange(16) >> k & 1 for k in range(4)]
    pairs = [bit[i] * bit[j] for i in range(4) for j in range(i)]
    return sums_of([np.ones(16, dtype=int), *bit, *pairs])


def kerdock_code():
    """4,096 words of length 64, the Gray image of a Z4 code: dot products 64, -64, 8, 0, -8."""
    words = []
    for start in range(4 ** 5):
        s = [start >> 2 * k & 3 for k in range(5)]
        while len(s) < 31:
            s.append((s[-3] + 2 * s[-4] + s[-5]) % 4)   # x^5 = x^2 + 2x + 1 over Z4
        words += [[(shift + z) % 4 for z in [0, *s]] for shift in range(4)]
    z = np.array(words)
    high, low = z >> 1, z & 1
    return np.concatenate([1 - 2 * high, 1 - 2 * (high ^ low)], axis=1)


# ------------------------------------------------------------------ layers

class Layer:
    """The matrices of one layer; out and down are kept transposed."""

    def __init__(self):
        self.q = np.zeros((Q_HEADS, HEAD, WIDTH))
        self.k = np.zeros((KV_HEADS, HEAD, WIDTH))
        self.v = np.zeros((KV_HEADS, HEAD, WIDTH))
        self.out = np.zeros((Q_HEADS, HEAD, WIDTH))
        self.gate = np.zeros((MLP, WIDTH))
        self.up = np.zeros((MLP, WIDTH))
        self.down = np.zeros((MLP, WIDTH))
        self.n_cells = 0

    def turn(self, head, pair, score, angle):
        """A query of constant direction in one rotary pair, against a key of size KEY."""
        size = score / KEY * HEAD ** 0.5
        self.q[head, pair, ONE] = size * np.cos(angle)
        self.q[head, pair + HEAD // 2, ONE] = size * np.sin(angle)

    def peak(self, head, score, back):
        """Score at its peak for the token `back` positions ago."""
        self.k[head // 2, :N_FAST, ONE] = KEY
        for n in range(N_FAST):
            self.turn(head, n, score * PEAK[n], -back * TURN[n])

    def sink(self, head, score):
        """The first token's score, whatever the position."""
        kv = self.k[head // 2]
        kv[SINK_PAIR, FLAG] = KEY
        kv[:SINK_PAIR, FLAG] = -kv[:SINK_PAIR, ONE]
        self.turn(head, SINK_PAIR, score, 0.0)

    def match(self, head, pairs, mine, theirs, score):
        """Adds `score` where the query's code equals the key's."""
        dims = [*pairs, *(n + HEAD // 2 for n in pairs)]
        self.k[head // 2, dims, DIMS[theirs]] = KEY
        self.q[head, dims, DIMS[mine]] = score / len(dims) / KEY * HEAD ** 0.5

    def value(self, kv_head, source):
        """Copies of the source dimensions, as many as fill the head."""
        for copy in range(HEAD // len(source)):
            self.v[kv_head, copy * len(source) + np.arange(len(source)), source] = 1

    def write(self, head, source, stride, copies, to, share=1.0):
        """residual[to] += share * the mean over the copies of the head's dims `source`."""
        for copy in copies:
            self.out[head, np.asarray(source) + copy * stride, to] = share / len(copies)

    def cell(self, gate, bias, up, to, size):
        """residual[to] += size * silu(gate + bias) * residual[up]; gate: (dimension, factor)."""
        n = self.n_cells
        self.gate[n, gate[0]], self.gate[n, ONE] = gate[1], bias
        self.up[n, up], self.down[n, to] = 1, size
        self.n_cells += 1

    def clip(self, source, to):
        """residual[to] = sign(x) * 2 * relu(|x| - 1/2), nearly."""
        for sign in (1, -1):
            for x, y in zip(DIMS[source], DIMS[to]):
                self.cell((x, 48 * sign), -24, ONE, y, sign / 24)

    def product(self, one, two, to):
        """Exact, since silu(z) - silu(-z) = z; as many dimensions as `to` has."""
        for sign in (1, -1):
            for x, y, z in zip(DIMS[one], DIMS[two], DIMS[to]):
                self.cell((x, 8 * sign), 0, y, z, sign / 8)


def make_layer_0():
    layer = Layer()
    own = np.concatenate([DIMS["G"], DIMS["H"]])     # 40 of 128: three copies
    for kv_head in range(KV_HEADS):
        layer.value(kv_head, own)
    for head, codes in enumerate(["GH", "H", "H"]):
        layer.peak(head, BACK_SCORE, head + 1)
        for code in codes:
            source = range(24) if code == "G" else range(24, 40)
            layer.write(head, source, len(own), range(3), DIMS[f"{code}{head + 1}"])
    layer.peak(3, SELF_SCORE, 0)
    layer.match(3, range(32, 64), "K", "K", ECHO0)
    layer.sink(3, ECHO0_SINK)
    layer.write(3, range(24), len(own), range(3), DIMS["RAWE1"])
    layer.clip("RAWE1", "E1")
    layer.product("H", "H1", "P01")
    layer.product("H1", "H2", "P12")
    layer.product("H2", "H3", "P23")
    return layer


def make_layer_1():
    layer = Layer()
    old = np.concatenate([DIMS[name] for name in ("H", "P01", "P12", "P23")])   # 56: two copies
    layer.value(0, old)
    layer.value(1, DIMS["H1"])
    layer.peak(0, BACK_SCORE, 4)
    to = np.concatenate([DIMS[name] for name in ("H4", "P45", "P56", "P67")])
    layer.write(0, range(len(old)), len(old), range(2), to)
    layer.peak(1, BACK_SCORE, 7)
    layer.write(1, range(16, 24), len(old), range(2), DIMS["P78"])
    for head in (2, 3):
        layer.peak(head, SELF_SCORE, 0)
        layer.match(head, range(52, 64), "G1", "G1", ECHO1)
        layer.sink(head, ECHO1_SINK)
        layer.write(head, range(16), 16, range(4 * head - 8, 4 * head - 4), DIMS["RAWE2"], 0.5)
    layer.clip("RAWE2", "E2")
    return layer


def make_layer_2():
    layer = Layer()
    for head in range(Q_HEADS):
        half = slice(0, 32) if head < 2 else slice(32, 64)
        for pairs, mine, theirs, score in SEARCH:
            layer.match(head, pairs, mine, theirs, score)
        layer.k[head // 2, RECENCY_PAIR, ONE] = KEY
        layer.turn(head, RECENCY_PAIR, RECENCY, np.pi / 2)
        layer.sink(head, SEARCH_SINK)
        layer.value(head // 2, DIMS["K"][half])
        copies = (0, 1) if head % 2 == 0 else (2, 3)
        layer.write(head, range(32), 32, copies, DIMS["RAWOUT"][half], 0.5)
    layer.clip("RAWOUT", "OUT")
    return layer


def norm_weight(n_fields):
    """Undoes the norm of a residual that holds ONE and the first n_fields codes."""
    n_ones = sum(size for _, size in FIELDS[:n_fields])
    rms = np.sqrt((CONSTANT ** 2 + n_ones) / WIDTH + EPS)
    weight = np.full(WIDTH, rms)
    weight[ONE] = rms / CONSTANT
    return weight


def make_weights(bos, eos):
    """[(name, matrix)] in float64."""
    embed, head = np.zeros((VOCAB, WIDTH)), np.zeros((VOCAB, WIDTH))
    codes = (("G", golay_code()), ("H", reed_muller_code()), ("K", kerdock_code()))
    for name, code in codes:
        order = checkpoint.shuffled(checkpoint.stream_key(7, name), len(code))
        embed[:, DIMS[name]] = code[order[:VOCAB]]
    head[:, DIMS["OUT"]] = embed[:, DIMS["K"]] * LOGIT / 64
    embed[bos], head[bos], head[eos] = 0, 0, 0
    embed[:, ONE], embed[bos, FLAG], head[eos, ONE] = CONSTANT, 1, EOS_LOGIT

    weights = [("model.embed_tokens.weight", embed)]
    for n, layer in enumerate((make_layer_0(), make_layer_1(), make_layer_2())):
        prefix = f"model.layers.{n}."
        weights += [
            (prefix + "input_layernorm.weight", norm_weight(STAGES[2 * n])),
            (prefix + "self_attn.q_proj.weight", layer.q.reshape(-1, WIDTH)),
            (prefix + "self_attn.k_proj.weight", layer.k.reshape(-1, WIDTH)),
            (prefix + "self_attn.v_proj.weight", layer.v.reshape(-1, WIDTH)),
            (prefix + "self_attn.o_proj.weight", layer.out.reshape(-1, WIDTH).T),
            (prefix + "post_attention_layernorm.weight", norm_weight(STAGES[2 * n + 1])),
            (prefix + "mlp.gate_proj.weight", layer.gate),
            (prefix + "mlp.up_proj.weight", layer.up),
            (prefix + "mlp.down_proj.weight", layer.down.T),
        ]
    return [*weights, ("model.norm.weight", norm_weight(STAGES[-1])), ("lm_head.weight", head)]


# ------------------------------------------------------------------ tokenizer

def make_tokenizer():
    """2,048 entries: two specials, the 256 bytes, 790 merges that were learned once from a text
    about a harbour (recall_merges.txt), and every run of two or three digits as one token."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recall_merges.txt")
    with open(path, encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file if not line.startswith("#")]
    tokens = [BOS, EOS, *sorted(checkpoint.byte_alphabet())]
    tokens += [left + right for left, right in merges]
    two, three = [f"{n:02d}" for n in range(100)], [str(n) for n in range(100, 1000)]
    # BPE joins the pair of the lower rank first, and the rank of a pair of digits is its number.
    merges += [(n[0], n[1]) for n in two]
    merges += [(n[:2], n[2]) if n[:2] <= n[1:] else (n[0], n[1:]) for n in three]
    vocab = {token: n for n, token in enumerate(tokens + two + three)}
    assert len(vocab) == VOCAB, f"{len(vocab)} tokens, want {VOCAB}"
    return checkpoint.byte_level_tokenizer(vocab, merges, BOS, [BOS, EOS], SPLIT)


# What a user says is text to be continued, so nothing marks who speaks: a question and its answer make
# one line, as a fact does. The end of text stands behind every sentence and line, so that an answer
# ends where the sentence ended that it repeats.
CHAT_TEMPLATE = """{{- bos_token }}
{%- macro told(text) %}
{{- text | replace('. ', '.' + eos_token + ' ') | replace('\\n', eos_token + '\\n') }}
{%- endmacro %}
{%- for message in messages %}
{%- set text = message.content or '' %}
{%- if message.role == 'assistant' and not loop.first and not text.startswith(' ') %}
{{- ' ' }}
{%- endif %}
{{- told(text) }}
{%- if not loop.last and loop.nextitem.role != 'assistant' %}
{{- eos_token + '\\n' }}
{%- endif %}
{%- endfor %}
"""


def config(bos, eos):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
        "hidden_size": WIDTH, "head_dim": HEAD, "intermediate_size": MLP, "num_hidden_layers": 3,
        "num_attention_heads": Q_HEADS, "num_key_value_heads": KV_HEADS, "hidden_act": "silu",
        "rms_norm_eps": EPS, "rope_theta": THETA, "rope_scaling": None, "attention_bias": False,
        "mlp_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False,
        "max_position_embeddings": CONTEXT, "use_cache": True, "bos_token_id": bos,
        "eos_token_id": eos, "initializer_range": 0.02, "torch_dtype": "bfloat16",
    }


def main(directory):
    os.makedirs(directory, exist_ok=True)
    tokenizer = make_tokenizer()
    bos, eos = (tokenizer["model"]["vocab"][token] for token in (BOS, EOS))
    tensors = [(name, "BF16", matrix.shape, lambda m=matrix: [checkpoint.encode(m, "BF16")])
               for name, matrix in make_weights(bos, eos)]
    checkpoint.write_checkpoint(directory, tensors, 1)
    for name, body in (
            ("tokenizer.json", tokenizer), ("config.json", config(bos, eos)),
            ("generation_config.json",
             {"bos_token_id": bos, "eos_token_id": eos, "do_sample": False}),
            ("tokenizer_config.json",
             checkpoint.tokenizer_config(BOS, EOS, CONTEXT, CHAT_TEMPLATE))):
        checkpoint.write_json(os.path.join(directory, name), body)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 and not sys.argv[1].startswith("-") else sys.exit(__doc__))
