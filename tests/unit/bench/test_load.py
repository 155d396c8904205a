#!/usr/bin/env python3
"""The load generator against a server whose delays, errors and counters are known."""
import http.server
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BENCH = sys.argv.pop(1)

METRICS = """# HELP sluice_handover_seconds x
# TYPE sluice_handover_seconds histogram
sluice_handover_seconds_bucket{{le="0.01"}} {low}
sluice_handover_seconds_bucket{{le="0.02"}} {n}
sluice_handover_seconds_bucket{{le="+Inf"}} {n}
sluice_handover_seconds_sum {handover}
sluice_handover_seconds_count {n}
sluice_kv_transfer_bytes_total{{src="p0",dst="d0",transport="ucx",side="send"}} {sent}
sluice_kv_transfer_bytes_total{{src="p0",dst="d0",transport="ucx",side="recv"}} {received}
sluice_kv_transfer_busy_seconds_total{{src="p0",dst="d0",transport="ucx",side="send"}} {busy}
sluice_kv_transfer_exposed_seconds_total{{src="p0",dst="d0",transport="ucx",side="send"}} {exposed}
"""


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.bodies, self.starts = [], []
        self.now = self.most = self.scrapes = 0
        self.ttft, self.itl, self.per_event = 0.03, 0.01, 1
        self.fail = lambda n: None
        self.metrics = True
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, address):
        pass  # clients that give up are part of the tests

    def url(self):
        return "http://127.0.0.1:%d" % self.server_address[1]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def page(self, status, text, kind="application/json"):
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        s = self.server
        if self.path != "/metrics" or not s.metrics:
            return self.page(404, "{}")
        k = s.scrapes = s.scrapes + 1
        values = dict(low=0, n=100, handover=5.0, sent=1000, received=1000, busy=1.0, exposed=0.5)
        if k > 1:
            values.update(low=40, n=200, handover=6.5, sent=9001000, received=9001000, busy=4.0,
                          exposed=1.25)
        self.page(200, METRICS.format(**values), "text/plain")

    def do_POST(self):
        s = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            count = 3 * len(body["prompt"].split())
            return self.page(200, json.dumps({"count": count, "tokens": []}))
        with s.lock:
            n = len(s.bodies)
            s.bodies.append(body)
            s.starts.append(time.monotonic())
            s.now += 1
            s.most = max(s.most, s.now)
        try:
            self.answer(n, body)
        finally:
            with s.lock:
                s.now -= 1

    def event(self, obj):
        data = b"data: " + (obj if isinstance(obj, bytes) else json.dumps(obj).encode()) + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def answer(self, n, body):
        s = self.server
        how = s.fail(n)
        if how == "429":
            return self.page(429, '{"error": {"message": "full"}}')
        if how == "page":
            return self.page(502, "<h1>bad</h1>\nof a proxy", "text/html")
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        wanted = body["max_tokens"] - (1 if how == "short" else 0)
        time.sleep(s.ttft)
        sent = 0
        while sent < wanted:
            k = min(s.per_event, wanted - sent)
            if sent > 0:
                time.sleep(s.itl)
            sent += k
            self.event({"choices": [{"index": 0, "text": "a\u0000b", "token_ids": [1] * k}],
                        "usage": None})
            if how == "reset":
                self.close_connection = True
                return
            if how == "error" and sent >= 2:
                self.event({"error": {"message": "node lost"}})
                self.wfile.write(b"0\r\n\r\n")
                return
        self.event({"choices": [], "usage": {
            "prompt_tokens": 100, "completion_tokens": sent,
            "prompt_tokens_details": {"cached_tokens": 64}}})
        if how != "cut":
            self.event(b"[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class Load(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.json = os.path.join(tempfile.mkdtemp(), "out.json")

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()

    def bench(self, *args, status=0, path="/"):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        run = subprocess.run([BENCH, "--url", self.server.url() + path, "--settle", "0", "--json",
                              self.json, *args], capture_output=True, text=True, env=env)
        self.assertEqual(run.returncode, status, run.stderr + run.stdout)
        self.printed = run.stdout
        if status == 2:
            return run.stderr
        with open(self.json) as file:
            return json.load(file)

    def test_closed_loop(self):
        out = self.bench("--requests", "12", "--concurrency", "4", "--prompt-tokens", "7",
                         "--output-tokens", "5", "--vocab", "50", "--model", "m")
        self.assertEqual((out["requests_ok"], out["requests_failed"], out["errors"]), (12, 0, {}))
        self.assertEqual(out["output_tokens"], 60)
        self.assertEqual((out["prompt_tokens"], out["cached_tokens"]), (1200, 768))
        self.assertEqual(self.server.most, 4)
        self.assertEqual(out["itl_ms"]["n"], 48)
        # A busy machine delays events, and a late one is followed by early ones.
        for name, least, most in (("ttft_ms", 30, 500), ("itl_ms", 4, 100), ("tpot_ms", 4, 100),
                                  ("e2e_ms", 70, 900)):
            self.assertGreaterEqual(out[name]["p50"], least, name)
            self.assertLess(out[name]["p50"], most, name)
        for body in self.server.bodies:
            self.assertEqual(len(body["prompt"]), 7)
            self.assertTrue(all(0 <= t < 50 for t in body["prompt"]))
            self.assertEqual((body["max_tokens"], body["min_tokens"]), (5, 5))
            self.assertTrue(body["ignore_eos"] and body["stream"] and body["return_token_ids"])
            self.assertEqual(body["model"], "m")
        self.assertEqual(len({tuple(b["prompt"]) for b in self.server.bodies}), 12)

    def test_address_of_a_client(self):
        for path in ("", "/v1", "/v1/"):
            out = self.bench("--requests", "1", "--output-tokens", "2", path=path)
            self.assertEqual((out["requests_ok"], out["server"] is None), (1, False), path)
            self.assertIn("goodput", self.printed)

    def test_counters_between_two_scrapes(self):
        server = self.bench("--requests", "1", "--output-tokens", "2")["server"]
        self.assertAlmostEqual(server["handovers"], 100)
        self.assertAlmostEqual(server["handover_mean_ms"], 15.0)
        # 40 of 100 up to 10 ms, 60 between 10 and 20: the median is a sixth into the second.
        self.assertAlmostEqual(server["handover_p50_interpolated_ms"], 10 + 10 / 6, places=3)
        self.assertAlmostEqual(server["transfer_bytes_sent"], 9e6)
        self.assertAlmostEqual(server["transfer_bytes_received"], 9e6)
        self.assertAlmostEqual(server["transfer_throughput_mb_s"], 3.0)
        self.assertAlmostEqual(server["transfer_hidden_fraction"], 0.75)

    def test_no_metrics(self):
        self.server.metrics = False
        self.assertIsNone(self.bench("--requests", "1", "--output-tokens", "2")["server"])

    def test_errors_by_kind(self):
        kinds = ["429", "error", "short", "cut", "reset", None]
        self.server.fail = lambda n: kinds[n % len(kinds)]
        out = self.bench("--requests", "12", "--concurrency", "1", "--output-tokens", "4",
                         status=1)
        self.assertEqual((out["requests_ok"], out["requests_failed"]), (2, 10))
        self.assertEqual(out["errors"], {"http_429": 2, "stream_error": 2, "token_count": 2,
                                         "cut_off": 2, "reset": 2})
        self.assertEqual(out["ttft_ms"]["n"], 2)
        said = out["first_messages"]
        self.assertEqual((said["http_429"], said["stream_error"], said["token_count"]), ("full", "node lost", ""))
        self.assertRegex(self.printed, r"failed: http_429 +2\n +the first: full\n")
        self.assertRegex(self.printed, r"failed: token_count +2\n(?! +the first)")

    def test_errors_that_are_no_objects(self):
        self.server.fail = lambda n: "page"
        out = self.bench("--requests", "1", status=1)
        self.assertEqual((out["errors"], out["first_messages"]), ({"http_502": 1}, {"http_502": "<h1>bad</h1>"}))

    def test_figures_that_could_not_be_written(self):
        self.json = "/nonexistent/out.json"
        self.assertIn("--json /nonexistent/out.json: No such file", self.bench("--requests", "1", status=2))
        self.assertEqual(self.server.bodies, [])

    def test_nobody_there_and_timeouts(self):
        self.server.itl = 2.0
        out = self.bench("--requests", "2", "--output-tokens", "3", "--timeout", "0.3", status=1)
        self.assertEqual(out["errors"], {"timeout": 2})
        self.server.shutdown()
        self.server.server_close()
        out = self.bench("--requests", "2", "--output-tokens", "3", status=1)
        self.assertEqual(out["errors"], {"connect": 2})
        self.assertIn("no request succeeded", self.printed)
        self.assertNotIn("goodput", self.printed)
        self.server = Server()

    def test_several_tokens_in_an_event_are_one_gap(self):
        self.server.per_event = 4
        out = self.bench("--requests", "1", "--output-tokens", "12")
        self.assertEqual((out["output_tokens"], out["itl_ms"]["n"]), (12, 2))

    def test_same_seed_same_load(self):
        seen = []
        for seed in ("5", "5", "6"):
            self.server.bodies.clear()
            self.bench("--requests", "6", "--concurrency", "1", "--prompt-tokens", "10..30",
                       "--output-tokens", "lognormal:3:0.5", "--shared-prefix-tokens", "8",
                       "--seed", seed)
            seen.append([(b["prompt"], b["max_tokens"]) for b in self.server.bodies])
        self.assertEqual(seen[0], seen[1])
        self.assertNotEqual(seen[0], seen[2])
        prompts = [p for p, _ in seen[0]]
        self.assertEqual(len({tuple(p[:8]) for p in prompts}), 1)
        self.assertEqual(len({tuple(p[8:]) for p in prompts}), 6)
        self.assertTrue(all(10 <= len(p) <= 30 for p in prompts))
        self.assertGreater(len({len(p) for p in prompts}), 1)

    def test_poisson_arrivals_do_not_wait_for_the_server(self):
        self.server.ttft = 0.4
        out = self.bench("--requests", "30", "--rate", "60", "--output-tokens", "1")
        starts = sorted(self.server.starts)
        span = starts[-1] - starts[0]
        self.assertGreater(self.server.most, 8)
        self.assertTrue(0.15 < span < 2.0, span)  # mean 0.48 s
        gaps = [b - a for a, b in zip(starts, starts[1:])]
        self.assertGreater(max(gaps), 2 * (sum(gaps) / len(gaps)))
        self.assertEqual(out["requests_ok"], 30)

    def test_latency_counts_from_when_a_request_was_due(self):
        self.server.ttft = 0.1
        out = self.bench("--requests", "10", "--rate", "1000", "--concurrency", "1",
                         "--output-tokens", "1")
        self.assertGreater(out["ttft_ms"]["max"], 900)  # the tenth waited for nine others
        self.assertEqual(self.server.most, 1)

    def test_goodput(self):
        self.server.fail = lambda n: time.sleep(2) if n % 2 else None
        out = self.bench("--requests", "4", "--concurrency", "4", "--output-tokens", "2",
                         "--slo-ttft-ms", "1500")
        self.assertAlmostEqual(out["good_fraction"], 0.5)
        out = self.bench("--requests", "2", "--concurrency", "1", "--output-tokens", "3",
                         "--slo-itl-ms", "1")
        self.assertAlmostEqual(out["good_fraction"], 0.0)

    def test_text_prompts(self):
        self.bench("--requests", "2", "--text", "--prompt-tokens", "30", "--output-tokens", "1")
        for body in self.server.bodies:
            self.assertEqual(len(body["prompt"].split()), 10)  # three tokens a word, said /tokenize

    def test_warmup_does_not_count(self):
        out = self.bench("--requests", "3", "--warmup", "2", "--output-tokens", "2")
        self.assertEqual(len(self.server.bodies), 5)
        self.assertEqual((out["requests_ok"], out["itl_ms"]["n"]), (3, 3))

    def test_bad_options(self):
        for args in (["--prompt-tokens", "0"], ["--prompt-tokens", "5..2"],
                     ["--output-tokens", "lognormal:5"], ["--output-tokens", "x"],
                     ["--prompt-tokens", "2000000"]):
            self.assertIn(args[0], self.bench(*args, status=2))
        self.assertIn("exclude", self.bench("--text", "--token-ids", status=2))
        self.assertIn("--vocab", self.bench("--vocab-min", "9", "--vocab", "9", status=2))


if __name__ == "__main__":
    random.seed(1)
    unittest.main()
