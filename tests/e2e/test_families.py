"""Every family through prefill, UCX and decode: the tokens of transformers (tests/golden/models).

The prompts of a golden file are the beginnings of one, so that one hits what was computed for another:
anywhere where all layers see all, at the ends of earlier ones where some have a window. KV in f32, as
the oracle has it; where the two differ, it must be at a token whose margin a rounding could turn, as in
tests/unit/model/test_golden.c."""

import json
import subprocess

import pytest

from fleet import MODELS, ROOT, Fleet, metric, wait_until

GOLDEN = ROOT / "tests" / "golden" / "models"
# Of each family one or more; of each kind of rope, norm, cap and window at least one.
NAMES = ["llama-64-scaled", "llama-dynamic", "qwen2-window", "qwen2-yarn", "qwen3-128", "mistral-128",
         "phi3-96", "phi3-long", "smollm3-64", "granite-64", "olmo2-64", "gemma-256", "gemma2-128",
         "gemma3-128", "gemma3-nested", "qwen3-moe"]
ORDER = (1000, 65, 200, 64, 63, 1, 1000)
OPTIONS = ("--threads", 1, "--kv-type", "f32", "--local-prefill-max-tokens", 0, "--chunk-tokens", 256)
BLOCK = 64
DECIDES = 40   # times f32_error: as in test_golden.c


def load(name):
    subprocess.run(["/usr/bin/python3", str(ROOT / "tools" / "make_golden_models.py"), str(MODELS),
                    name], check=True)
    golden = json.loads((GOLDEN / name / "golden.json").read_text())
    return golden, MODELS / golden["model"]


def check(fleet, golden, run):
    """One prompt's tokens; returns how many of it came from a cache, and how many were compared."""
    prompt, want = golden["prompt"][:run["prompt_tokens"]], run["tokens"]
    body = fleet.complete(prompt, max_tokens=len(want), temperature=0, ignore_eos=True,
                          return_token_ids=True)
    got = body["choices"][0]["token_ids"]
    doubtful = (n for n, margin in enumerate(run["margins"])
                if margin <= DECIDES * golden["f32_error"])
    n_decided = len(want) if got == want else next(doubtful, len(want))
    assert len(got) == len(want)
    assert got[:n_decided] == want[:n_decided], f"after {len(prompt)} tokens"
    return body["usage"]["prompt_tokens_details"]["cached_tokens"], n_decided


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_those_of_transformers(name):
    golden, model = load(name)
    runs = {run["prompt_tokens"]: run for run in golden["greedy"]}
    cached = {}
    with Fleet(model, kv_blocks=128, options=OPTIONS) as fleet:
        n_compared = n_tokens = 0
        for n_prompt in ORDER:
            cached[n_prompt], n = check(fleet, golden, runs[n_prompt])
            n_compared, n_tokens = n_compared + n, n_tokens + len(runs[n_prompt]["tokens"])
        wait_until(lambda: metric(fleet.metrics(), "sluice_kv_transfer_bytes_total", side="recv") > 0,
                   10, "blocks came over UCX")
        assert cached[1000] >= 15 * BLOCK, "the longest prompt again"
        assert cached[200] >= BLOCK, "the end of the prompt of 65 tokens"
        assert n_compared >= 0.9 * n_tokens
        fleet.settled()
