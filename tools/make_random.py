#!/usr/bin/env python3
"""Writes a Hugging Face model of any shape with seeded random weights.

    make_random.py DIR --shape llama-3.2-1b
    make_random.py DIR --family qwen3 --hidden 256 --layers 3 --heads 4 --kv-heads 2 --head-dim 64 \\
                       --mlp 384 --vocab 512 --seed 7 --dtype f16 --shards 2

The same arguments give the same bytes. Weights are uniform; their sizes are such that every layer
changes the residual by about its own size, attention is neither flat nor a spike, and greedy text
does not fall into a loop: what comes out depends on all of the weights and on the whole context.
python3 and numpy are all it needs; large models are written as they are drawn.
"""

import argparse
import json
import math
import os

import numpy as np

import checkpoint
import make_recall

DTYPES = {"bf16": "BF16", "f16": "F16", "f32": "F32"}
CHUNK = 1 << 22   # numbers drawn at once
LLAMA3_ROPE = "32,1,4,8192"

# hidden, layers, heads, kv heads, head size, mlp, vocabulary, tied, rope theta, rope scaling, context
SHAPES = {
    "llama-3.2-1b": ("llama", 2048, 16, 32, 8, 64, 8192, 128256, True, 5e5, LLAMA3_ROPE, 131072),
    "llama-3.2-3b": ("llama", 3072, 28, 24, 8, 128, 8192, 128256, True, 5e5, LLAMA3_ROPE, 131072),
    "llama-3.1-8b": ("llama", 4096, 32, 32, 8, 128, 14336, 128256, False, 5e5, "8,1,4,8192",
                     131072),
    "tinyllama-1.1b": ("llama", 2048, 22, 32, 4, 64, 5632, 32000, False, 1e4, None, 2048),
    "smollm2-135m": ("llama", 576, 30, 9, 3, 64, 1536, 49152, True, 1e5, None, 8192),
    "qwen2.5-0.5b": ("qwen2", 896, 24, 14, 2, 64, 4864, 151936, True, 1e6, None, 32768),
    "qwen2.5-1.5b": ("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, True, 1e6, None, 32768),
    "qwen2.5-7b": ("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, False, 1e6, None, 32768),
    "qwen3-0.6b": ("qwen3", 1024, 28, 16, 8, 128, 3072, 151936, True, 1e6, None, 40960),
    "qwen3-1.7b": ("qwen3", 2048, 28, 16, 8, 128, 6144, 151936, True, 1e6, None, 40960),
    "qwen3-4b": ("qwen3", 2560, 36, 32, 8, 128, 9728, 151936, True, 1e6, None, 40960),
    # small enough for a test, large enough to take its time
    "tiny": ("llama", 256, 4, 4, 2, 64, 512, 2048, False, 5e5, None, 32768),
}
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
                 "qwen3": "Qwen3ForCausalLM", "mistral": "MistralForCausalLM",
                 "phi3": "Phi3ForCausalLM", "smollm3": "SmolLM3ForCausalLM",
                 "granite": "GraniteForCausalLM", "gemma": "GemmaForCausalLM",
                 "gemma2": "Gemma2ForCausalLM", "gemma3_text": "Gemma3ForCausalLM",
                 "olmo2": "Olmo2ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
GEMMAS = ("gemma", "gemma2", "gemma3_text")   # norms' weights are stored less 1
# name of each norm of a layer: before and behind attention, before and behind the MLP
LLAMA_NORMS = ("input_layernorm", None, "post_attention_layernorm", None)
GEMMA2_NORMS = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                "post_feedforward_layernorm")
NORMS = {"gemma2": GEMMA2_NORMS, "gemma3_text": GEMMA2_NORMS,
         "olmo2": (None, "post_attention_layernorm", None, "post_feedforward_layernorm")}


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("directory")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="sizes of a published model")
    parser.add_argument("--family", choices=sorted(ARCHITECTURES), default="llama")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--mlp", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--tied", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--rope-theta", type=float, default=1e4)
    parser.add_argument("--rope-scaling", metavar="FACTOR,LOW,HIGH,ORIGINAL",
                        help="Llama 3's scaling; or a JSON object (longrope's lists are added)")
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--eps", type=float, default=1e-6)
    parser.add_argument("--window", type=int,
                        help="sliding window (mistral, phi3, qwen2, gemma2, gemma3_text)")
    parser.add_argument("--experts", default="8,2,64", metavar="N,CHOSEN,MLP", help="of qwen3_moe")
    parser.add_argument("--fused", action="store_true", help="experts in one tensor per layer")
    parser.add_argument("--nested", action="store_true",
                        help="gemma3_text as it lies in a checkpoint with images (without those)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON",
                        help="a field of config.json")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--spelling", choices=("old", "new"), default="old",
                        help="new: rope_parameters and dtype in config.json")
    early, _ = parser.parse_known_args(argv)
    if early.shape:
        names = ("family", "hidden", "layers", "heads", "kv_heads", "head_dim", "mlp", "vocab",
                 "tied", "rope_theta", "rope_scaling", "context")
        parser.set_defaults(**dict(zip(names, SHAPES[early.shape])))
    return parser.parse_args(argv)


# ------------------------------------------------------------------ weights

def random_tensor(args, name, shape, spread, centre=0.0):
    """A tensor of standard deviation `spread` around `centre`, for write_checkpoint."""
    element = DTYPES[args.dtype]
    key = checkpoint.stream_key(args.seed, name)
    levels = (np.arange(65536) - 32767.5) / 32768 * (spread * math.sqrt(3)) + centre
    table = np.frombuffer(checkpoint.encode(levels, element),
                          dtype=f"<u{checkpoint.ELEMENT_BYTES[element]}")
    count = math.prod(shape)

    def chunks():
        for first in range(0, count, CHUNK):
            yield table[checkpoint.random_u16(key, first, min(CHUNK, count - first))].tobytes()

    return name, element, shape, chunks


def stacked(args, prefix, parts, joined):
    """Matrices [n][hidden] of several spreads, which phi3 stores as one."""
    if args.family == "phi3":
        parts = {joined: (sum(n for n, _ in parts.values()), 1.6)}
    return [random_tensor(args, f"{prefix}{name}.weight", (n, args.hidden),
                          spread / math.sqrt(args.hidden)) for name, (n, spread) in parts.items()]


def has_experts(args, config, layer):
    return (args.family == "qwen3_moe" and layer not in config["mlp_only_layers"]
            and (layer + 1) % config["decoder_sparse_step"] == 0)


def make_experts(args, prefix):
    """The router and the experts of a layer."""
    n, _, mlp = (int(x) for x in args.experts.split(","))
    wide, narrow = 1.5 / math.sqrt(args.hidden), 3 / math.sqrt(mlp)
    tensors = [random_tensor(args, prefix + "gate.weight", (n, args.hidden),
                             2 / math.sqrt(args.hidden))]
    if args.fused:
        return tensors + [
            random_tensor(args, prefix + "experts.gate_up_proj", (n, 2 * mlp, args.hidden), wide),
            random_tensor(args, prefix + "experts.down_proj", (n, args.hidden, mlp), narrow)]
    for expert in range(n):
        p = f"{prefix}experts.{expert}."
        tensors += [random_tensor(args, p + "gate_proj.weight", (mlp, args.hidden), wide),
                    random_tensor(args, p + "up_proj.weight", (mlp, args.hidden), wide),
                    random_tensor(args, p + "down_proj.weight", (args.hidden, mlp), narrow)]
    return tensors


def make_tensors(args, config):
    hidden, mlp = args.hidden, args.mlp
    q, kv = args.heads * args.head_dim, args.kv_heads * args.head_dim
    offset = 1.0 if args.family in GEMMAS else 0.0
    top = "language_model.model." if args.nested else "model."

    def tensor(name, shape, spread, centre=0.0):
        return random_tensor(args, name, shape, spread, centre)

    def norm(name, size=hidden, centre=1.0, spread=0.25):
        return tensor(name, (size,), spread, centre - offset)

    # Gemma multiplies its embedding by sqrt(hidden); the layers then have to be larger.
    gain = 8 if args.family == "gemma" else 1
    # … and those behind attention larger than those behind the MLP, or the last token alone decides.
    behind = ((24.0, 6.0), (12.0, 3.0)) if args.family in GEMMAS else ((0.6, 0.25), (0.6, 0.25))
    norms = NORMS.get(args.family, LLAMA_NORMS)
    tensors = [tensor(top + "embed_tokens.weight", (args.vocab, hidden), 4 / math.sqrt(hidden))]
    for n in range(args.layers):
        p = f"{top}layers.{n}."

        def layer_norm(index, p=p):
            name = norms[index]
            centre, spread = behind[index // 2] if index % 2 else (1.0, 0.25)
            return [norm(f"{p}{name}.weight", hidden, centre, spread)] if name else []

        tensors += [
            *layer_norm(0),
            *stacked(args, p + "self_attn.", {"q_proj": (q, 1.5), "k_proj": (kv, 1.5),
                                              "v_proj": (kv, 2)}, "qkv_proj"),
            tensor(p + "self_attn.o_proj.weight", (hidden, q), gain * 2 / math.sqrt(q)),
            *layer_norm(1),
            *layer_norm(2),
        ]
        if has_experts(args, config, n):
            tensors += make_experts(args, p + "mlp.")
        else:
            tensors += [
                *stacked(args, p + "mlp.", {"gate_proj": (mlp, 1.5), "up_proj": (mlp, 1.5)},
                         "gate_up_proj"),
                tensor(p + "mlp.down_proj.weight", (hidden, mlp), gain * 3 / math.sqrt(mlp)),
            ]
        tensors += layer_norm(3)
        if args.family == "qwen2":
            tensors += [tensor(f"{p}self_attn.{x}_proj.bias", (size,), 0.5)
                        for x, size in (("q", q), ("k", kv), ("v", kv))]
        if args.family in ("qwen3", "qwen3_moe", "gemma3_text"):
            tensors += [norm(f"{p}self_attn.{x}_norm.weight", args.head_dim, 1.5) for x in "qk"]
        if args.family == "olmo2":
            tensors += [norm(f"{p}self_attn.{x}_norm.weight", size, 1.5)
                        for x, size in (("q", q), ("k", kv))]
    tensors.append(norm(top + "norm.weight"))
    if not args.tied:
        tensors.append(tensor("lm_head.weight", (args.vocab, hidden), 4 / math.sqrt(hidden)))
    return tensors


# ------------------------------------------------------------------ the other files

def make_tokenizer(n_tokens):
    """The recall model's tokenizer, cut off or lengthened by further pairs to n_tokens."""
    tokenizer = make_recall.make_tokenizer()
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    n_plain = 2 + 256
    if n_tokens < n_plain:
        raise SystemExit(f"--vocab {n_tokens}: want at least {n_plain}, two special tokens and the "
                         "bytes")
    if n_tokens < len(vocab):
        merges = merges[:n_tokens - n_plain]
        vocab = dict(list(vocab.items())[:n_plain])
        for left, right in merges:
            vocab[left + right] = len(vocab)
    words = [left + right for left, right in merges if not (left + right).isdigit()]
    for left in words:
        for right in words:
            if len(vocab) >= n_tokens:
                break
            if left + right not in vocab and not right.startswith("Ġ"):
                vocab[left + right] = len(vocab)
                merges.append([left, right])
    assert len(vocab) == n_tokens, f"{len(vocab)} tokens, want {n_tokens}"
    return checkpoint.byte_level_tokenizer(vocab, merges, make_recall.BOS,
                                           [make_recall.BOS, make_recall.EOS], make_recall.SPLIT)


def family_fields(args, eos):
    """What a family's config.json has beside the common fields."""
    window = args.window
    if args.family in ("qwen2", "qwen3"):
        return {"use_sliding_window": window is not None, "sliding_window": window,
                "max_window_layers": args.layers if window is None else 1}
    if args.family == "mistral":
        return {"sliding_window": window}
    if args.family == "phi3":
        return {"sliding_window": window, "original_max_position_embeddings": args.context,
                "pad_token_id": eos}
    if args.family == "smollm3":
        return {"no_rope_layers": [int((n + 1) % 2 != 0) for n in range(args.layers)],
                "pad_token_id": eos}
    if args.family == "granite":
        return {"embedding_multiplier": 6.0, "attention_multiplier": 0.1,
                "residual_multiplier": 0.3, "logits_scaling": 1.5}
    if args.family == "gemma":
        return {"hidden_act": "gelu_pytorch_tanh"}
    if args.family == "gemma2":
        return {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
                "attn_logit_softcapping": 20.0, "final_logit_softcapping": 8.0,
                "query_pre_attn_scalar": 8, "sliding_window": window}
    if args.family == "gemma3_text":
        return {"hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": None,
                "final_logit_softcapping": None, "query_pre_attn_scalar": 12,
                "sliding_window": window, "sliding_window_pattern": 3}
    if args.family == "qwen3_moe":
        n, chosen, mlp = (int(x) for x in args.experts.split(","))
        return {"num_experts": n, "num_experts_per_tok": chosen, "moe_intermediate_size": mlp,
                "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
                "use_sliding_window": False, "sliding_window": None}
    return {}


def rope_scaling(args):
    if not args.rope_scaling:
        return None
    if not args.rope_scaling.startswith("{"):
        factor, low, high, original = (float(x) for x in args.rope_scaling.split(","))
        return {"rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                "high_freq_factor": high, "original_max_position_embeddings": int(original)}
    scaling = json.loads(args.rope_scaling)
    if scaling["rope_type"] == "longrope":
        pairs = int(args.head_dim * scaling.get("partial_rotary_factor", 1.0)) // 2
        scaling["short_factor"] = [1 + n / 64 for n in range(pairs)]
        scaling["long_factor"] = [1 + n / 4 for n in range(pairs)]
    return scaling


def rope_fields(args, dtype):
    scaling, local = rope_scaling(args), args.family == "gemma3_text"
    if args.spelling == "old":
        fields = {"rope_theta": args.rope_theta, "rope_scaling": scaling, "torch_dtype": dtype}
        return {**fields, "rope_local_base_freq": 5000.0} if local else fields
    rope = {"rope_theta": args.rope_theta, **(scaling or {"rope_type": "default"})}
    if local:
        rope = {"full_attention": rope,
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}
    return {"rope_parameters": rope, "dtype": dtype}


def make_config(args, bos, eos):
    config = {
        "architectures": [ARCHITECTURES[args.family]], "model_type": args.family,
        "vocab_size": args.vocab, "hidden_size": args.hidden, "head_dim": args.head_dim,
        "intermediate_size": args.mlp, "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads, "num_key_value_heads": args.kv_heads,
        "hidden_act": "silu", "rms_norm_eps": args.eps, "attention_dropout": 0.0,
        "max_position_embeddings": args.context, "tie_word_embeddings": args.tied,
        "use_cache": True, "bos_token_id": bos, "eos_token_id": eos,
    }
    if args.family in ("llama", "qwen3"):
        config["attention_bias"] = False
    if args.family == "llama":
        config["mlp_bias"] = False
    config.update(family_fields(args, eos))
    config.update(rope_fields(args, checkpoint.TORCH_NAMES[DTYPES[args.dtype]]))
    for field in args.set:
        name, _, value = field.partition("=")
        config[name] = json.loads(value)
    return config


def nested_config(text, bos, eos):
    """The text model's configuration as a checkpoint with images has it."""
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16,
              "num_attention_heads": 1, "num_hidden_layers": 1, "image_size": 28,
              "patch_size": 14}
    return {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": text, "vision_config": vision, "mm_tokens_per_image": 4,
            "image_token_index": text["vocab_size"] - 1, "bos_token_id": bos, "eos_token_id": eos}


def write_model(args):
    os.makedirs(args.directory, exist_ok=True)
    tokenizer = make_tokenizer(args.vocab)
    bos, eos = (tokenizer["model"]["vocab"][token] for token in (make_recall.BOS, make_recall.EOS))
    config = make_config(args, bos, eos)
    for name, body in (
            ("tokenizer.json", tokenizer),
            ("config.json", nested_config(config, bos, eos) if args.nested else config),
            ("generation_config.json",
             {"bos_token_id": bos, "eos_token_id": eos, "do_sample": False}),
            ("tokenizer_config.json",
             checkpoint.tokenizer_config(make_recall.BOS, make_recall.EOS, args.context))):
        checkpoint.write_json(os.path.join(args.directory, name), body)
    checkpoint.write_checkpoint(args.directory, make_tensors(args, config), args.shards)


if __name__ == "__main__":
    write_model(parse_arguments())
