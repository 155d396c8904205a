"""Pieces leave while later layers still compute."""

import concurrent.futures

from fleet import Fleet, metric, random_ids, wait_until


def test_earlier_layers_have_landed_while_later_ones_are_held(tiny, tmp_path):
    """The prefill engine stops before layer 2 of 4; the decode node has landed layers 0 and 1 of every
    block, and nothing of layers 2 and 3."""
    go = tmp_path / "go"
    options = ("--threads", 1, "--transfer-layers", 1, "--local-prefill-max-tokens", 0, "--chunk-tokens",
               1024)
    with Fleet(tiny, options=options, env={"SLUICE_FAULT": f"engine_layer@2=hold:{go}"}) as fleet:
        decode = fleet.node("decode")
        prompt = random_ids(640, 1)
        half = 10 * decode["block_bytes"] // 2

        def landed():
            return metric(fleet.node_metrics(decode), "sluice_kv_transfer_bytes_total", side="recv")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(fleet.tokens, prompt, 4)
            wait_until(lambda: landed() == half, 10, f"{half} bytes landed")
            assert not answer.done()
            wait_until(lambda: fleet.node("decode")["blocks"]["landing"] == 10, 5, "ten blocks land")
            assert landed() == half
            go.touch()
            ids = answer.result(timeout=30)
        assert landed() == 2 * half
        assert ids == fleet.tokens(prompt, 4)
        fleet.settled()
