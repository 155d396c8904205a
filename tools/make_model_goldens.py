#!/usr/bin/env python3
"""Records what transformers computes, as golden files for tests/unit/model and the end-to-end tests.

    make_model_goldens.py models [NAME ...]    tests/golden/models/NAME/{golden.json,logits.f32}
    make_model_goldens.py recall               tests/golden/recall/{1k,16k}.json

Needs torch and transformers; the tests need only the files. The oracle is transformers in float32 on
the weights as they are stored, attention "eager", on one thread.

A model's golden.json:
  arguments      of make_random.py
  model          directory name of the made model
  prompt         1,000 token ids; the prompts of the other lengths are its beginnings
  greedy         for each prompt length, what follows: tokens, and the margin of each over the second
  f32_error      the largest difference between float32's logits and float64's (same weights)
  kv_error_max, kv_error_rms   the same between a KV cache in float32 and one rounded to bf16
logits.f32, for each of the 1,000 positions, teacher-forced, 20 numbers (little-endian float32):
  the largest logit, its id, the second largest, log(sum(exp)), then 16 logits: of ids
  (position * 16 + j * 7) mod vocabulary for j = 0..15
"""

import json
import os
import random
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache

import make_random
import make_recall

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden")
LENGTHS = [1, 63, 64, 65, 200, 1000]
N_GREEDY, N_COLUMNS = 28, 16

MODELS = {
    "llama-64": "--family llama --hidden 128 --layers 3 --heads 4 --kv-heads 2 --head-dim 64"
                " --mlp 192 --vocab 320 --seed 11",
    "llama-64-scaled": "--family llama --hidden 96 --layers 3 --heads 6 --kv-heads 2 --head-dim 64"
                       " --mlp 160 --vocab 331 --tied --seed 12 --dtype f32 --rope-theta 500000"
                       " --rope-scaling 8,1,4,256 --spelling new",
    "llama-80": "--family llama --hidden 168 --layers 2 --heads 3 --kv-heads 1 --head-dim 80"
                " --mlp 176 --vocab 300 --seed 13 --dtype f16",
    "llama-96": "--family llama --hidden 136 --layers 4 --heads 2 --kv-heads 2 --head-dim 96"
                " --mlp 128 --vocab 288 --tied --seed 14 --shards 3",
    "llama-128": "--family llama --hidden 128 --layers 2 --heads 4 --kv-heads 1 --head-dim 128"
                 " --mlp 256 --vocab 512 --seed 15 --eps 1e-5 --rope-theta 500000",
    "llama-256": "--family llama --hidden 96 --layers 2 --heads 2 --kv-heads 1 --head-dim 256"
                 " --mlp 128 --vocab 288 --seed 16 --dtype f32 --shards 2",
    "qwen2-64": "--family qwen2 --hidden 112 --layers 3 --heads 7 --kv-heads 1 --head-dim 64"
                " --mlp 160 --vocab 320 --tied --seed 27 --rope-theta 1000000",
    "qwen2-128": "--family qwen2 --hidden 144 --layers 2 --heads 3 --kv-heads 3 --head-dim 128"
                 " --mlp 208 --vocab 304 --seed 28 --dtype f16 --shards 2",
    "qwen3-64": "--family qwen3 --hidden 120 --layers 3 --heads 5 --kv-heads 5 --head-dim 64"
                " --mlp 144 --vocab 300 --tied --seed 19 --dtype f32 --rope-theta 1000000",
    "qwen3-128": "--family qwen3 --hidden 96 --layers 3 --heads 4 --kv-heads 2 --head-dim 128"
                 " --mlp 160 --vocab 352 --seed 20 --spelling new --rope-theta 1000000",
    "qwen3-20": "--family qwen3 --hidden 70 --layers 3 --heads 6 --kv-heads 2 --head-dim 20"
                " --mlp 90 --vocab 304 --seed 48 --rope-theta 1000000",
    "qwen2-window": "--family qwen2 --hidden 128 --layers 3 --heads 4 --kv-heads 2 --head-dim 64"
                    " --mlp 160 --vocab 304 --seed 31 --window 100",
    "mistral-128": "--family mistral --hidden 96 --layers 2 --heads 4 --kv-heads 2 --head-dim 128"
                   " --mlp 160 --vocab 320 --seed 32 --window 70",
    "phi3-96": "--family phi3 --hidden 192 --layers 3 --heads 2 --kv-heads 2 --head-dim 96"
               " --mlp 160 --vocab 320 --seed 33 --window 150",
    "smollm3-64": "--family smollm3 --hidden 128 --layers 4 --heads 4 --kv-heads 1 --head-dim 64"
                  " --mlp 160 --vocab 304 --seed 34 --rope-theta 5000000",
    "granite-64": "--family granite --hidden 128 --layers 3 --heads 4 --kv-heads 2 --head-dim 64"
                  " --mlp 160 --vocab 320 --seed 35",
    "gemma-256": "--family gemma --hidden 96 --layers 2 --heads 2 --kv-heads 1 --head-dim 256"
                 " --mlp 160 --vocab 320 --tied --seed 36",
    "gemma2-128": "--family gemma2 --hidden 96 --layers 4 --heads 4 --kv-heads 2 --head-dim 128"
                  " --mlp 160 --vocab 320 --tied --seed 337 --window 90",
    "gemma3-128": "--family gemma3_text --hidden 96 --layers 4 --heads 2 --kv-heads 1"
                  " --head-dim 128 --mlp 160 --vocab 320 --tied --seed 338 --window 60"
                  " --rope-theta 1000000 --rope-scaling {\"rope_type\":\"linear\",\"factor\":8.0}",
    "gemma3-nested": "--family gemma3_text --nested --hidden 112 --layers 3 --heads 4 --kv-heads 2"
                     " --head-dim 64 --mlp 144 --vocab 304 --tied --seed 539 --window 130"
                     " --rope-theta 500000 --spelling new --dtype f32",
    "olmo2-64": "--family olmo2 --hidden 128 --layers 3 --heads 4 --kv-heads 2 --head-dim 32"
                " --mlp 160 --vocab 320 --seed 40 --rope-theta 500000",
    "llama-linear": "--family llama --hidden 96 --layers 2 --heads 3 --kv-heads 1 --head-dim 64"
                    " --mlp 128 --vocab 300 --seed 41"
                    " --rope-scaling {\"type\":\"linear\",\"rope_type\":\"linear\",\"factor\":4.0}",
    "llama-dynamic": "--family llama --hidden 104 --layers 2 --heads 2 --kv-heads 2 --head-dim 64"
                     " --mlp 128 --vocab 300 --seed 42 --context 1100"
                     " --rope-scaling {\"rope_type\":\"dynamic\",\"factor\":2.0}",
    "qwen2-yarn": "--family qwen2 --hidden 120 --layers 3 --heads 4 --kv-heads 2 --head-dim 64"
                  " --mlp 144 --vocab 304 --seed 43 --spelling new --rope-theta 1000000"
                  " --rope-scaling {\"rope_type\":\"yarn\",\"factor\":4.0,"
                  "\"original_max_position_embeddings\":8192}",
    "phi3-short": "--family phi3 --hidden 128 --layers 2 --heads 2 --kv-heads 1 --head-dim 64"
                  " --mlp 144 --vocab 304 --seed 44 --context 2048"
                  " --rope-scaling {\"rope_type\":\"longrope\",\"factor\":32.0}",
    "phi3-long": "--family phi3 --hidden 192 --layers 3 --heads 2 --kv-heads 1 --head-dim 96"
                 " --mlp 160 --vocab 320 --tied --seed 45 --spelling new"
                 " --set original_max_position_embeddings=1 --set partial_rotary_factor=0.75"
                 " --rope-scaling {\"rope_type\":\"longrope\",\"factor\":32.0,"
                 "\"attention_factor\":1.19,\"partial_rotary_factor\":0.75}",
    "qwen3-moe": "--family qwen3_moe --hidden 96 --layers 4 --heads 4 --kv-heads 2 --head-dim 64"
                 " --mlp 160 --vocab 320 --seed 46 --experts 8,2,56 --rope-theta 1000000"
                 " --set mlp_only_layers=[1]",
    "qwen3-moe-fused": "--family qwen3_moe --hidden 80 --layers 3 --heads 2 --kv-heads 1"
                       " --head-dim 64 --mlp 144 --vocab 304 --tied --seed 447 --experts 12,3,40"
                       " --fused --dtype f32 --spelling new --set norm_topk_prob=false"
                       " --set decoder_sparse_step=2",
}


class Bf16Cache(DynamicCache):
    """Keys and values as a bf16 cache would keep them."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states.bfloat16().to(key_states.dtype),
                              value_states.bfloat16().to(value_states.dtype), *args, **kwargs)


def load(directory, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation="eager",
        experts_implementation="eager").eval()


def logits_of(model, ids, cache=None):
    """[n][vocab] in float64."""
    kept = model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return kept.logits[0].double()


def greedy(model, ids, n):
    """n tokens and each one's margin over the second."""
    tokens, margins, cache, feed = [], [], DynamicCache(), list(ids)
    for _ in range(n):
        top = logits_of(model, feed, cache)[-1].topk(2)
        tokens.append(int(top.indices[0]))
        margins.append(round(float(top.values[0] - top.values[1]), 6))
        feed = [tokens[-1]]
    return {"prompt_tokens": len(ids), "tokens": tokens, "margins": margins}


def sampled_logits(logits):
    """What logits.f32 holds."""
    n, vocab = logits.shape
    top = logits.topk(2)
    columns = (np.arange(n)[:, None] * N_COLUMNS + np.arange(N_COLUMNS) * 7) % vocab
    chosen = logits.gather(1, torch.tensor(columns))
    return torch.cat([top.values[:, :1], top.indices[:, :1].double(), top.values[:, 1:],
                      logits.logsumexp(1, keepdim=True), chosen], 1).numpy().astype("<f4")


def record_model(name, arguments):
    with tempfile.TemporaryDirectory() as directory:
        args = make_random.parse_arguments([directory, *arguments])
        make_random.write_model(args)
        model, exact = load(directory), load(directory, torch.float64)
    draw = random.Random(args.seed)
    prompt = [draw.randrange(2, args.vocab) for _ in range(max(LENGTHS))]
    logits, runs = logits_of(model, prompt), [greedy(model, prompt[:n], N_GREEDY) for n in LENGTHS]
    kv_error = logits_of(model, prompt, Bf16Cache()) - logits
    out = os.path.join(GOLDEN, "models", name)
    os.makedirs(out, exist_ok=True)
    body = {
        "arguments": arguments, "model": f"{name}-{args.seed}", "vocab": args.vocab,
        "prompt": prompt, "greedy": runs,
        "f32_error": float((logits - logits_of(exact, prompt)).abs().max()),
        "kv_error_max": float(kv_error.abs().max()),
        "kv_error_rms": float(kv_error.square().mean().sqrt()),
    }
    distinct = [len(set(run["tokens"])) for run in body["greedy"]]
    if min(distinct) < 20:   # a loop somewhere: the next seed
        seed = arguments.index("--seed") + 1
        print(f"{name}: seed {args.seed} has {distinct} distinct tokens", flush=True)
        record_model(name, [*arguments[:seed], str(args.seed + 100), *arguments[seed + 1:]])
        return
    write(os.path.join(out, "golden.json"), body)
    sampled_logits(logits).tofile(os.path.join(out, "logits.f32"))
    print(f"{name}: distinct {distinct} f32_error {body['f32_error']:.1e} kv_error "
          f"{body['kv_error_max']:.1e} rms {body['kv_error_rms']:.1e}", flush=True)


def write(path, body):
    with open(path, "w", encoding="utf-8") as file:
        file.write("{\n" + ",\n".join(f'"{key}": {json.dumps(value)}'
                                      for key, value in body.items()) + "\n}\n")


# ------------------------------------------------------------------ recall

GOODS = "copper tea salt rice wool iron timber coffee sugar paper glass cotton silver tin".split()
UNITS = "crates barrels sacks bales drums pallets tons".split()
FIRST = "Ada Bram Hugo Ines Jonas Leif Mara Nils Odile Rosa Sven Vera Piet Greta Edda Tova".split()
LAST = "Brandt Jansen Novak Petrov Moreau Castel Grieg Kowal Smith".split()


def make_facts(draw, n):
    """n pairs (what is asked, value of several tokens), no question twice."""
    facts = {}
    while len(facts) < n:
        number, amount = draw.randint(2, 999), draw.randint(2, 999)
        goods = f" {amount} {draw.choice(UNITS)} of {draw.choice(GOODS)}"
        person = f" {draw.choice(FIRST)} {draw.choice(LAST)}"
        question, value = draw.choice([
            (f"Berth {number} holds", goods), (f"Crate {number} holds", goods),
            (f"The code for door {number} is", f" {draw.randint(1000, 999999)}"),
            (f"Room {number} was let to", person), (f"The captain of ship {number} is", person)])
        facts.setdefault(question, value)
    return list(facts.items())


def follow(model, cache, asked, want):
    """Greedy answer of as many tokens as `want`; one pass as long as it is right."""
    n, answer = cache.get_seq_length(), []
    while len(answer) < len(want):
        feed = asked + answer + (want if answer == [] else [])
        logits = model(torch.tensor([feed]), past_key_values=cache, use_cache=True).logits[0]
        cache.crop(n - cache.get_seq_length())
        top = logits.argmax(1).tolist()[len(asked) + len(answer) - 1:]
        n_right = 0
        while answer == [] and n_right < len(want) and top[n_right] == want[n_right]:
            n_right += 1
        answer += top[:n_right] if n_right == len(want) else top[:n_right + 1]
    return answer


@torch.no_grad()
def record_recall(name, n_tokens, n_questions):
    from tokenizers import Tokenizer
    with tempfile.TemporaryDirectory() as directory:
        make_recall.main(directory)
        tokenizer = Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        bos = model.config.bos_token_id

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    context, told = [bos], []
    for question, value in make_facts(random.Random(n_tokens), n_tokens // 8):
        line = encode(f"{question}{value}.\n")
        if len(context) + len(line) > n_tokens:
            break
        told.append((question, value, len(context), len(line)))
        context += line
    cache = DynamicCache()
    for first in range(0, len(context), 2048):
        model(torch.tensor([context[first:first + 2048]]), past_key_values=cache, use_cache=True,
              logits_to_keep=1)
    questions, n_right = [], 0
    for n in range(n_questions):
        question, value, first, length = told[n * len(told) // n_questions]
        asked = encode(question)
        want = encode(f"{question}{value}.\n")[len(asked):]
        answer = follow(model, cache, asked, want)
        n_right += answer == want
        questions.append({"text": question, "fact_position": first, "fact_tokens": length,
                          "tokens": asked, "answer": answer, "right": answer == want})
    os.makedirs(os.path.join(GOLDEN, "recall"), exist_ok=True)
    with open(os.path.join(GOLDEN, "recall", f"{name}.json"), "w", encoding="utf-8") as file:
        rows = ",\n".join(json.dumps(row) for row in questions)
        file.write(f'{{"context": {json.dumps(context)},\n"questions": [\n{rows}\n]}}\n')
    print(f"recall {name}: {len(context)} tokens, {len(told)} facts, {n_right} of {n_questions} "
          "answers right", flush=True)


@torch.no_grad()
def main(what, names):
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)   # the recall model's softmax is full of them: 100 times slower
    if what == "models":
        for name in names or MODELS:
            record_model(name, MODELS[name].split())
    elif what == "recall":
        record_recall("1k", 1024, 20)
        record_recall("16k", 16000, 60)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else sys.exit(__doc__)
