"""Models whose layers look back a limited way, on prompts far longer than that: the tokens are transformers',
the blocks that are held are those of the window, and so are the bytes that are sent."""

import concurrent.futures
import json
import os
import signal

import httpx
import pytest

from conftest import make
from fleet import ROOT, SLOW, Fleet, engine_run, events, metric, parse_metrics, wait_until

GOLDEN = ROOT / "tests" / "golden" / "models"
BLOCK = 16
# KV in float32: then every golden token has a margin that decides.
OPTIONS = ("--threads", 1, "--local-prefill-max-tokens", 0, "--kv-type", "f32", "--block-tokens", BLOCK)


def read_golden(name):
    return json.loads((GOLDEN / name / "golden.json").read_text())


NAMES = sorted(path.name for path in GOLDEN.iterdir() if "--window" in read_golden(path.name)["arguments"])


class Model:
    def __init__(self, name):
        self.golden = read_golden(name)
        self.pages = httpx.Client(timeout=10)  # kept: a look takes a millisecond then
        self.directory = make(self.golden["model"], "make_random.py", *self.golden["arguments"])
        config = json.loads((self.directory / "config.json").read_text())
        config = config.get("text_config", config)
        self.window = config["sliding_window"]
        n = config["num_hidden_layers"]
        kind = config["model_type"]
        if "layer_types" in config:
            slides = [kind == "sliding_attention" for kind in config["layer_types"]]
        elif kind == "gemma2":
            slides = [i % 2 == 0 for i in range(n)]
        elif kind.startswith("gemma3"):
            slides = [(i + 1) % config["sliding_window_pattern"] != 0 for i in range(n)]
        else:
            slides = [i >= config.get("max_window_layers", 0) for i in range(n)]
        self.n_sliding, self.n_full = sum(slides), n - sum(slides)
        # K and V of a block of one layer, in float32
        self.layer_bytes = config["num_key_value_heads"] * 2 * BLOCK * config["head_dim"] * 4

    def bytes_of(self, n_tokens):
        """What a prompt's blocks are on the wire, where the destination has none of them."""
        n_blocks = -(-n_tokens // BLOCK)
        passed = max(0, n_tokens + 1 - self.window) // BLOCK
        return self.layer_bytes * (self.n_full * n_blocks + self.n_sliding * (n_blocks - passed))

    def states(self, node):
        """Blocks by state in the class with the window."""
        name = "sluice_kv_window_blocks" if self.n_full else "sluice_kv_blocks"
        series = parse_metrics(self.pages.get(f"http://{node['admin']}/metrics").text)
        return {state: metric(series, name, state=state) for state in ("free", "cached", "used", "landing")}

    def reference(self, requests):
        """One engine that is driven directly: no pool, no prefix cache, no transfer, other blocks."""
        return engine_run(self.directory, requests, kv_type="f32", threads=1)


@pytest.fixture(params=NAMES)
def model(request):
    return Model(request.param)


def test_there_are_both_kinds():
    kinds = {Model(name).n_full > 0 for name in NAMES}
    assert kinds == {False, True}, "one class that slides, and two classes"


def test_tokens_of_transformers_and_bytes_of_the_window(model):
    prompt = model.golden["prompt"]
    with Fleet(model.directory, options=OPTIONS) as fleet:
        assert fleet.node("decode")["block_bytes"] == model.layer_bytes * (model.n_full + model.n_sliding)
        for run in reversed(model.golden["greedy"]):  # the longest first: it finds nothing cached
            n = run["prompt_tokens"]
            assert fleet.tokens(prompt[:n], len(run["tokens"])) == run["tokens"], f"{n} tokens"
            if n == 1000:
                def counted():
                    series = fleet.metrics()
                    return [metric(series, "sluice_kv_transfer_bytes_total", side=side)
                            for side in ("send", "recv")]
                want = [model.bytes_of(n)] * 2
                wait_until(lambda: counted() == want, 5, f"{want} bytes on both sides, not {counted()}")
        body = fleet.complete(prompt, max_tokens=28, ignore_eos=True, temperature=0, return_token_ids=True)
        assert body["choices"][0]["token_ids"] == model.golden["greedy"][-1]["tokens"]
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 992
        # From a boundary in the middle, and on from what was generated.
        other = prompt[:500] + prompt[:300]
        answer = model.golden["greedy"][-1]["tokens"]
        for tokens in (other, prompt + answer + prompt[:40]):
            want, = model.reference([{"prompt": tokens, "max_tokens": 60}])
            assert fleet.tokens(tokens, 60) == want
        fleet.settled()


def test_a_long_decode_holds_the_window(model):
    prompt, n = model.golden["prompt"][:300], 5000
    want, = model.reference([{"prompt": prompt, "max_tokens": n}])
    with Fleet(model.directory, kv_blocks=400, options=OPTIONS) as fleet:
        decode = fleet.node("decode")
        total = sum(model.states(decode).values())
        used = []
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ids = pool.submit(fleet.tokens, prompt, n)
            while not ids.done():
                states = model.states(decode)
                assert sum(states.values()) == total, "the states add up"
                used.append(states["used"] + states["landing"])
        assert ids.result() == want
        assert sum(n > 0 for n in used) > 5, f"seen at work: {used}"
        most = (model.window + BLOCK - 2) // BLOCK + 1
        assert max(used) <= most, f"{max(used)} blocks; window {model.window} covers {most}"
        fleet.settled()
        states = model.states(decode)
        assert states["free"] + states["cached"] == total


def test_a_resumed_stream_goes_on_with_the_same_tokens(model):
    prompt, n = model.golden["prompt"][:400], 6000
    want, = model.reference([{"prompt": prompt, "max_tokens": n}])
    with Fleet(model.directory, 1, 2, kv_blocks=500, options=OPTIONS) as fleet:
        ids, victim = [], None
        with fleet.stream(prompt, max_tokens=n, ignore_eos=True, temperature=0,
                          return_token_ids=True) as answer:
            for event in events(answer):
                assert "error" not in event, event
                ids += event["choices"][0]["token_ids"] if event["choices"] else []
                if len(ids) > 100 and victim is None:
                    used = [d for d in fleet.nodes("decode") if model.states(d)["used"] > 0]
                    victim = used[0]["pid"] if used else None
                    if victim:
                        os.kill(victim, signal.SIGKILL)
        assert victim is not None and ids == want
        wait_until(fleet.is_ready, 30 * SLOW, "the node that died is replaced")
        fleet.settled(30)


def test_preemption_changes_nothing(model):
    n = 600
    prompts = [model.golden["prompt"][7 * i:7 * i + 20 + i] for i in range(10)]
    want = model.reference([{"prompt": p, "max_tokens": n} for p in prompts])
    # They begin small and grow: together far beyond the pools.
    kv_blocks = 60 if model.n_full else 22
    options = (*OPTIONS, "--chunk-tokens", 64)
    with Fleet(model.directory, kv_blocks=kv_blocks, options=options) as fleet:
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            got = list(pool.map(lambda p: fleet.tokens(p, n), prompts))
        for i, (ids, reference) in enumerate(zip(got, want)):
            assert ids == reference, f"request {i}"
        preempted = sum(metric(fleet.node_metrics(node), "sluice_preemptions_total")
                        for node in fleet.nodes())
        assert preempted > 0, "some had to give their blocks back"
        fleet.settled()
