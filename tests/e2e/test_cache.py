"""Prefix hits, what is sent again (nothing), and that both sides count the same bytes."""

from fleet import Fleet, metric, random_ids, wait_until

OPTIONS = ("--threads", 1, "--local-prefill-max-tokens", 0)


def sent_and_received(fleet):
    """Bytes by side from the coordinator's page, which both workers' heartbeats feed."""
    series = fleet.metrics()
    return tuple(metric(series, "sluice_kv_transfer_bytes_total", side=side) for side in ("send", "recv"))


def test_bytes_of_a_prompt_and_of_its_repeat(tiny):
    with Fleet(tiny, options=OPTIONS) as fleet:
        block_bytes = fleet.node("decode")["block_bytes"]
        prompt = random_ids(200, 1)
        fields = dict(max_tokens=4, ignore_eos=True, temperature=0)
        first = fleet.complete(prompt, **fields)
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        want = 4 * block_bytes  # 200 tokens: three full blocks and a part
        wait_until(lambda: sent_and_received(fleet) == (want, want), 5, f"{want} bytes on both sides")

        again = fleet.complete(prompt, **fields)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 192
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
        # The next prompt shares two blocks; its own blocks are all that may travel.
        third = prompt[:128] + random_ids(72, 2)
        answer = fleet.complete(third, **fields)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 128

        def counted():
            sent, received = sent_and_received(fleet)
            return sent == received and (sent - want) in (2 * block_bytes, 3 * block_bytes)
        # Repeat: local or one partial block; third: the third block and the part.
        wait_until(counted, 5, f"{sent_and_received(fleet)} bytes; want {want} and 2 or 3 blocks")
        fleet.settled()


def test_generated_blocks_are_cached_too(tiny):
    with Fleet(tiny, options=("--threads", 1)) as fleet:
        prompt = random_ids(100, 3)
        ids = fleet.tokens(prompt, 100)
        answer = fleet.complete(prompt + ids + random_ids(1, 4), max_tokens=2, ignore_eos=True)
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached == 192, "three full blocks of prompt and generated text"


def test_cluster_page(tiny):
    with Fleet(tiny, 2, 1, kv_blocks=77, options=("--threads", 1)) as fleet:
        fleet.complete(random_ids(300, 5), max_tokens=2)
        fleet.settled()
        nodes = fleet.nodes()
        assert sorted(n["role"] for n in nodes) == ["decode", "prefill", "prefill"]
        assert len({n["id"] for n in nodes}) == len({n["pid"] for n in nodes}) == 3
        for node in nodes:
            blocks = node["blocks"]
            assert node["transport"] == "ucx" and node["block_tokens"] == 64
            # 4 layers x 2 kv heads x (K, V) x 64 tokens x 64 dimensions x 2 bytes
            assert node["block_bytes"] == 4 * 2 * 2 * 64 * 64 * 2
            assert blocks["total"] == 77
            assert sum(blocks[s] for s in ("free", "cached", "used", "landing")) == 77
            assert fleet.node_metrics(node)
