#!/usr/bin/env python3
"""Records what transformers makes of logits: tests/golden/sampling/{adjust,scores,greedy}.json.

    make_sampling_goldens.py

Needs torch and transformers; the tests need only the files.

adjust.json (tests/unit/model/test_adjust.c): a case has parameters, a prompt, what was generated after it,
logits, and what must come of them, both as the bits of float32. The oracle, in the order in which vLLM applies
them:

  words         NoBadWordsLogitsProcessor over what was generated. It asks for one token more before a word
                than the word needs, so it is given one in front that no word has.
  bias          SequenceBiasLogitsProcessor with sequences of one token
  repetition    RepetitionPenaltyLogitsProcessor over prompt and generated tokens
  frequency and presence   no processor has them: the formula of OpenAI's API reference, in float32:
                logit - count * frequency - (count > 0) * presence

scores.json (tests/unit/model/test_scores.c, tests/e2e/test_sampling.py): log-softmax, in float32, of models of
tests/golden/models over the beginning of their prompt. For each position from the second on: the logprob of the
prompt's own token, its rank, how far its logit is from the nearest other one ("gap"), and the likeliest six
with their logprobs (one more than asked for, to see how far the last one is from the next).

greedy.json (tests/e2e/test_sampling.py): what transformers generates greedily with a repetition penalty, a
bias, and OpenAI's penalties as a processor behind them, and the margin of each token over the second.
"""

import json
import os
import random
import tempfile

import torch
from transformers import (AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList,
                          NoBadWordsLogitsProcessor, RepetitionPenaltyLogitsProcessor,
                          SequenceBiasLogitsProcessor)

import make_random

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden")
OUT = os.path.join(GOLDEN, "sampling")
VOCAB, N_CASES = 61, 48
SCORED_MODELS, N_SCORED, N_TOP = ["llama-64", "qwen3-128"], 150, 6


def draw_case(draw):
    def maybe(value, neutral):
        return value if draw.random() < 0.6 else neutral
    output = [draw.randrange(VOCAB - 1) for _ in range(draw.choice([0, 1, 2, 5, 40]))]
    words = [[draw.randrange(VOCAB - 1) for _ in range(draw.randint(1, 4))] for _ in range(draw.randrange(5))]
    for n in range(1, min(4, len(output) + 1)):   # words that must be found, and one that just misses
        words.append([*output[-n:], draw.randrange(VOCAB - 1)])
        words.append([*output[-n:-1], (output[-1] + 1) % (VOCAB - 1), draw.randrange(VOCAB - 1)])
    return {
        "prompt": [draw.randrange(VOCAB - 1) for _ in range(draw.choice([1, 3, 30]))],
        "output": output,
        "repetition": maybe(draw.choice([1.2, 0.8, 1.05, 2.0]), 1.0),
        "presence": maybe(draw.choice([0.5, -0.5, 2.0, 1.3]), 0.0),
        "frequency": maybe(draw.choice([0.3, -0.1, 2.0, 0.7]), 0.0),
        "biases": maybe({draw.randrange(VOCAB): round(draw.uniform(-100, 100), 3) for _ in range(6)}, {}),
        "words": maybe(words, []),
    }


def expected(case, logits):
    scores = logits.clone().unsqueeze(0)
    output = torch.tensor([case["output"]], dtype=torch.long)
    whole = torch.tensor([case["prompt"] + case["output"]])
    if case["words"]:
        padded = torch.cat([torch.tensor([[VOCAB - 1]]), output], 1)
        scores = NoBadWordsLogitsProcessor(case["words"])(padded, scores)
    if case["biases"]:
        biases = {(token,): bias for token, bias in case["biases"].items()}
        scores = SequenceBiasLogitsProcessor(biases)(output, scores)
    if case["repetition"] != 1:
        scores = RepetitionPenaltyLogitsProcessor(case["repetition"])(whole, scores)
    counts = torch.bincount(output[0], minlength=VOCAB).float()
    scores = scores - case["frequency"] * counts
    return (scores - case["presence"] * (counts > 0))[0]


def bits(values):
    return values.view(torch.int32).bitwise_and(-1).to(torch.int64).remainder(1 << 32).tolist()


def record_adjust():
    draw = random.Random(4)
    torch.manual_seed(4)
    rows = []
    for _ in range(N_CASES):
        case = draw_case(draw)
        logits = torch.randn(VOCAB) * 4
        result = expected(case, logits)
        case["biases"] = sorted(case["biases"].items())
        rows.append(json.dumps({**case, "logits": bits(logits), "expected": bits(result)}))
    with open(os.path.join(OUT, "adjust.json"), "w", encoding="utf-8") as file:
        file.write(f'{{"vocab": {VOCAB}, "cases": [\n' + ",\n".join(rows) + "\n]}\n")


def score(logits, token):
    """What the row says of the token."""
    logprobs = logits.log_softmax(0)
    top = logprobs.topk(N_TOP)
    gaps = (logits - logits[token]).abs()
    gaps[token] = float("inf")
    return {"logprob": round(float(logprobs[token]), 6), "rank": int((logits > logits[token]).sum()) + 1,
            "gap": round(float(gaps.min()), 6), "top_ids": top.indices.tolist(),
            "top": [round(value, 6) for value in top.values.tolist()]}


def load(name):
    """A model of tests/golden/models in float32, and its golden file."""
    with open(os.path.join(GOLDEN, "models", name, "golden.json"), encoding="utf-8") as file:
        golden = json.load(file)
    with tempfile.TemporaryDirectory() as directory:
        make_random.write_model(make_random.parse_arguments([directory, *golden["arguments"]]))
        return golden, AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32,
                                                            attn_implementation="eager").eval()


@torch.no_grad()
def record_scores():
    models = []
    for name in SCORED_MODELS:
        golden, model = load(name)
        prompt = golden["prompt"][:N_SCORED]
        logits = model(torch.tensor([prompt])).logits[0]
        rows = [json.dumps(score(logits[i - 1], prompt[i])) for i in range(1, N_SCORED)]
        models.append(json.dumps({"model": golden["model"], "f32_error": golden["f32_error"],
                                  "prompt": prompt})[:-1] +
                      ', "scores": [\n' + ",\n".join(rows) + "\n]}")
    with open(os.path.join(OUT, "scores.json"), "w", encoding="utf-8") as file:
        file.write('{"models": [\n' + ",\n".join(models) + "\n]}\n")


class OpenAiPenalties(LogitsProcessor):
    def __init__(self, n_prompt, presence, frequency):
        self.n_prompt, self.presence, self.frequency = n_prompt, presence, frequency

    def __call__(self, input_ids, scores):
        counts = torch.bincount(input_ids[0, self.n_prompt:], minlength=scores.shape[1]).float()
        return scores - self.frequency * counts - self.presence * (counts > 0)


GREEDY = [{"repetition": 1.3}, {"repetition": 0.8}, {"presence": 1.5}, {"frequency": 0.9},
          {"repetition": 1.15, "presence": 0.6, "frequency": 0.4, "biases": {"7": 3.0, "40": -100.0}}]


def generate(model, prompt, case):
    args = {"repetition_penalty": case.get("repetition", 1.0)}
    if "biases" in case:
        args["sequence_bias"] = {(int(token),): bias for token, bias in case["biases"].items()}
    penalties = OpenAiPenalties(len(prompt), case.get("presence", 0.0), case.get("frequency", 0.0))
    done = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)),
                          logits_processor=LogitsProcessorList([penalties]), do_sample=False,
                          max_new_tokens=32, output_scores=True, return_dict_in_generate=True,
                          eos_token_id=None, pad_token_id=0, **args)
    tops = [scores[0].topk(2).values for scores in done.scores]
    return {**case, "tokens": done.sequences[0, len(prompt):].tolist(),
            "margins": [round(float(top[0] - top[1]), 6) for top in tops]}


@torch.no_grad()
def record_greedy():
    golden, model = load("llama-64")
    model.generation_config.eos_token_id = None
    prompt = golden["prompt"][:N_SCORED]
    rows = [json.dumps(generate(model, prompt, case)) for case in [{}, *GREEDY]]
    body = {"model": golden["model"], "f32_error": golden["f32_error"], "prompt": prompt}
    with open(os.path.join(OUT, "greedy.json"), "w", encoding="utf-8") as file:
        file.write(json.dumps(body)[:-1] + ', "runs": [\n' + ",\n".join(rows) + "\n]}\n")


def main():
    torch.set_num_threads(1)
    os.makedirs(OUT, exist_ok=True)
    record_adjust()
    record_scores()
    record_greedy()


if __name__ == "__main__":
    main()
