"""The same request gives the same bytes wherever it is computed.

The reference is one engine driven directly (engine_run); everything else must be identical to it."""

import concurrent.futures

import pytest

from fleet import Fleet, engine_run, metric, random_ids, varied, wait_until

N_TOKENS = 24
SAMPLED = {"temperature": 0.8, "top_p": 0.95, "top_k": 50, "seed": 7}
PROMPTS = [random_ids(n, n) for n in (1, 63, 64, 65, 200, 700)]


@pytest.fixture(scope="module")
def expected(tiny):
    """{(index of prompt, sampled?): ids}"""
    requests = [{"prompt": p, "max_tokens": N_TOKENS, **s} for s in ({}, SAMPLED) for p in PROMPTS]
    answers = varied(engine_run(tiny, requests))
    return {(i % len(PROMPTS), i >= len(PROMPTS)): a for i, a in enumerate(answers)}


def check(fleet, expected):
    for index, prompt in enumerate(PROMPTS):
        for sampled in (False, True):
            fields = SAMPLED if sampled else {}
            want = expected[index, sampled]
            assert fleet.tokens(prompt, N_TOKENS, **fields) == want, (len(prompt), sampled)
    # Again, now with prefix hits at every node, and streamed.
    for index, prompt in enumerate(PROMPTS):
        assert fleet.stream_tokens(prompt, N_TOKENS) == expected[index, False], len(prompt)
        assert fleet.stream_tokens(prompt, N_TOKENS, **SAMPLED) == expected[index, True]


TRANSFERS = ("--local-prefill-max-tokens", 0)  # even the shortest prompt goes through prefill and UCX


@pytest.mark.parametrize("name, sizes, options, env", [
    ("1x1-tcp", (1, 1), TRANSFERS, {"UCX_TLS": "tcp"}),
    ("1x1-shm", (1, 1), TRANSFERS, {"UCX_TLS": "sysv,posix,self"}),
    ("1x1-default-threshold", (1, 1), (), {}),
    ("2x2", (2, 2), TRANSFERS, {}),
    ("0x1", (0, 1), (), {}),
    ("chunk-1", (1, 1), (*TRANSFERS, "--chunk-tokens", 1), {}),
    ("chunk-37", (1, 1), (*TRANSFERS, "--chunk-tokens", 37), {}),
    ("chunk-128", (1, 1), (*TRANSFERS, "--chunk-tokens", 128), {}),
    ("chunk-4096", (1, 1), (*TRANSFERS, "--chunk-tokens", 4096), {}),
    ("threads-2", (1, 1), (*TRANSFERS, "--threads", 2), {}),
    ("one-layer-pieces-verified", (1, 1), (*TRANSFERS, "--transfer-layers", 1, "--transfer-verify"), {}),
])
def test_deployment(tiny, expected, name, sizes, options, env):
    with Fleet(tiny, *sizes, options=("--threads", 1, *options) if "--threads" not in options else options,
               env=env) as fleet:
        check(fleet, expected)

        def moved():
            return metric(fleet.metrics(), "sluice_kv_transfer_bytes_total", side="recv")
        if sizes[0] > 0:
            wait_until(lambda: moved() > 0, 5, "the blocks travelled")
        else:
            assert moved() == 0
        fleet.settled()


def test_sixteen_clients(tiny, expected):
    """Mixed lengths together: the same ids; the decode batch is large; a late arrival joins at once."""
    lengths = [1, 64, 65, 130, 200, 333, 700, 65]
    prompts = [random_ids(n, 100 + i) for i, n in enumerate(lengths * 2)]
    n = 800
    want = varied(engine_run(tiny, [{"prompt": p, "max_tokens": n, "seed": i,
                                     "temperature": 0.8 if i % 2 else 0} for i, p in enumerate(prompts)]))

    def ask(fleet, i):  # most wait for whole answers: who reads streams here delays the late requests
        how = fleet.tokens if i < 12 else fleet.stream_tokens
        return how(prompts[i], n, seed=i, temperature=0.8 if i % 2 else 0)

    with Fleet(tiny, 1, 1, kv_blocks=512, options=("--threads", 1)) as fleet:
        decode = fleet.node("decode")
        before = fleet.node_metrics(decode)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda i: ask(fleet, i), range(16)))
        after = fleet.node_metrics(decode)
        assert answers == want
        steps, sequences = (metric(after, f"sluice_engine_{what}") - metric(before, f"sluice_engine_{what}")
                            for what in ("steps_total", "step_sequences_total"))
        assert sequences / steps >= 8, f"mean batch {sequences / steps:.1f} over {steps} steps"
        fleet.settled()


def test_late_arrival_joins_the_running_batch(tiny):
    """While one stream decodes, a second one is computed in the same steps, not after it."""
    with Fleet(tiny, 0, 1, options=("--threads", 1)) as fleet:
        decode = fleet.node("decode")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            long = pool.submit(fleet.stream_tokens, random_ids(10, 1), 8000)
            wait_until(lambda: metric(fleet.node_metrics(decode), "sluice_requests_running") == 1, 10,
                       "the long request runs")
            before = fleet.node_metrics(decode)
            fleet.tokens(random_ids(10, 2), 50)
            after = fleet.node_metrics(decode)
            assert not long.done(), "the long request must outlast the short one"
            steps = metric(after, "sluice_engine_steps_total") - metric(before, "sluice_engine_steps_total")
            sequences = (metric(after, "sluice_engine_step_sequences_total")
                         - metric(before, "sluice_engine_step_sequences_total"))
            # 50 tokens are 1 step for the prompt and 49 more; each carried two sequences.
            assert sequences - steps >= 50 - 1, "the late arrival did not share the steps"
            long.result()
