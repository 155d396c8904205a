"""Where the time of requests went: the stages of each one add up to the whole, whatever way it took."""

import os
import re
import signal
import time

import pytest

from fleet import SLOW, Fleet, events, metric, random_ids, wait_until

STAGES = {"tokenize", "route", "prefill_queue", "prefill", "transfer", "decode_queue", "decode"}


def ended(fleet, event):
    """(whole, {stage: time}) in ms of each request that the coordinator's log says ended in this way."""
    lines = [line for line in fleet.log().splitlines() if f"event={event} " in line and "e2e_ms=" in line]
    times = [dict(re.findall(r"(\w+)_ms=([\d.]+)", line)) for line in lines]
    return [(float(t.pop("e2e")), {k: float(v) for k, v in t.items() if k != "ttft"}) for t in times]


def check(fleet):
    """Of the page and of each line; a line's eight numbers are rounded to 0.1 ms."""
    series = fleet.metrics()
    whole = metric(series, "sluice_e2e_request_latency_seconds_sum")
    parts = metric(series, "sluice_request_stage_seconds_sum")
    assert parts == pytest.approx(whole, rel=0.01), (whole, parts)
    n = metric(series, "sluice_e2e_request_latency_seconds_count")
    wait_until(lambda: len(ended(fleet, "request_done")) >= n, 10 * SLOW, "a line for each")  # the log comes by a pipe
    assert n == len(ended(fleet, "request_done"))
    for event in ("request_done", "request_failed", "request_cancelled"):
        for total, stages in ended(fleet, event):
            assert set(stages) == STAGES
            assert sum(stages.values()) == pytest.approx(total, rel=0.01, abs=0.4)
    return series


def test_stages_of_every_way(tiny):
    with Fleet(tiny, 1, 2, options=("--local-prefill-max-tokens", 64, "--share-cpus")) as fleet:
        began = time.monotonic()
        for seed in range(4):
            fleet.tokens(random_ids(500, seed), 30)  # prefill, transfer, decode
            fleet.stream_tokens(random_ids(20, seed), 20)  # local
            fleet.tokens(random_ids(300, 50 + seed), 1)  # one token only
        waited = 1000 * (time.monotonic() - began)
        fleet.complete(random_ids(200, 99), max_tokens=8, n=3, temperature=1.0, ignore_eos=True, seed=5)
        series = check(fleet)
        done = ended(fleet, "request_done")
        assert len(done) == 12 + 3
        # One after the other: none took longer than its client waited. A line is rounded to 0.1 ms.
        assert sum(total for total, _ in done[:12]) <= waited + 12 * 0.05
        for stage in ("tokenize", "route", "prefill", "decode"):  # a transfer may be hidden altogether
            assert metric(series, "sluice_request_stage_seconds_sum", stage=stage) > 0, stage
        for stage in ("tokenize", "route", "prefill_queue", "prefill", "decode"):
            assert metric(series, "sluice_request_stage_seconds_count", stage=stage) == 15, stage
        # The destination's first word may overtake the source's token: then nobody waited for a transfer.
        assert metric(series, "sluice_request_stage_seconds_count", stage="transfer") <= 5

        with fleet.stream(random_ids(100, 7), max_tokens=1500, ignore_eos=True) as answer:  # resumed
            reader = events(answer)
            for _ in range(5):
                next(reader)
            node = wait_until(lambda: next((n for n in fleet.nodes("decode") if n["running"]), None),
                              10 * SLOW, "a decode node runs it")
            os.kill(node["pid"], signal.SIGKILL)
            assert all("error" not in event for event in reader)
        check(fleet)
        assert len(ended(fleet, "request_done")) == 16

        with fleet.stream(random_ids(100, 8), max_tokens=1500, ignore_eos=True) as answer:
            next(events(answer))  # and the client leaves
        wait_until(lambda: ended(fleet, "request_cancelled"), 10 * SLOW, "the client's leaving is seen")
        check(fleet)


def test_stages_of_an_error(slow):
    """A request that runs out of time fails in mid-stream; its time is in the log, and in no metric."""
    with Fleet(slow, 0, 1, kv_blocks=64, options=("--request-seconds", 2)) as fleet:
        with fleet.stream(random_ids(30, 1), max_tokens=3000, ignore_eos=True) as answer:
            last = list(events(answer))[-1]
        assert last["error"]["code"] == "deadline"
        (total, stages), = wait_until(lambda: ended(fleet, "request_failed"), 10 * SLOW, "the line")
        assert total > 1900 and stages["decode"] > 500 and stages["transfer"] == 0
        check(fleet)
