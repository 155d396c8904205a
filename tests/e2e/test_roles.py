"""Either role can do all: a fleet without decode nodes, or without prefill nodes, gives the same tokens."""

import subprocess

from fleet import BUILD, Fleet, engine_run, metric, random_ids


def test_prefill_nodes_alone(tiny):
    prompts = [random_ids(n, seed) for seed, n in enumerate((1, 63, 200))]
    reference = engine_run(tiny, [{"prompt": p, "max_tokens": 24} for p in prompts])
    with Fleet(tiny, prefill=1, decode=0) as fleet:
        assert [fleet.tokens(p, 24) for p in prompts] == reference
        assert [fleet.stream_tokens(p, 24) for p in prompts] == reference
        assert fleet.tokens(prompts[0], 1) == reference[0][:1]
        series = fleet.metrics()
        assert metric(series, "sluice_routing_decisions_total", reason="local_no_decode") == 6
        assert metric(series, "sluice_routing_decisions_total", reason="single_token") == 1
        assert [n["role"] for n in fleet.nodes()] == ["prefill"]
        fleet.settled()


def test_no_worker_at_all(tiny):
    done = subprocess.run([BUILD / "bin" / "sluice-coordinator", "--model", tiny, "--pools", "local", "--prefill", "0",
                           "--decode", "0", "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "--decode 0" in done.stderr, done.stderr
