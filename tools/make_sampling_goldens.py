#!/usr/bin/env python3
"""Records what transformers' logits processors make of logits: tests/golden/sampling/adjust.json.

    make_sampling_goldens.py

Needs torch and transformers; the test (tests/unit/model/test_adjust.c) needs only the file. A case has
parameters, a prompt, what was generated after it, logits, and what must come of them, both as the bits of
float32. The oracle, in the order in which vLLM applies them:

  words         NoBadWordsLogitsProcessor over what was generated. It asks for one token more before a word
                than the word needs, so it is given one in front that no word has.
  bias          SequenceBiasLogitsProcessor with sequences of one token
  repetition    RepetitionPenaltyLogitsProcessor over prompt and generated tokens
  frequency and presence   no processor has them: the formula of OpenAI's API reference, in float32:
                logit - count * frequency - (count > 0) * presence
"""

import json
import os
import random

import torch
from transformers import (NoBadWordsLogitsProcessor, RepetitionPenaltyLogitsProcessor,
                          SequenceBiasLogitsProcessor)

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "golden", "sampling")
VOCAB, N_CASES = 61, 48


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


def main():
    draw = random.Random(4)
    torch.manual_seed(4)
    rows = []
    for _ in range(N_CASES):
        case = draw_case(draw)
        logits = torch.randn(VOCAB) * 4
        result = expected(case, logits)
        case["biases"] = sorted(case["biases"].items())
        rows.append(json.dumps({**case, "logits": bits(logits), "expected": bits(result)}))
    os.makedirs(OUT, exist_ok=True)
    with open(os.path.join(OUT, "adjust.json"), "w", encoding="utf-8") as file:
        file.write(f'{{"vocab": {VOCAB}, "cases": [\n' + ",\n".join(rows) + "\n]}\n")


if __name__ == "__main__":
    main()
