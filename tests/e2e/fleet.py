"""Starts the real binaries and looks at them as an operator does: /cluster, /metrics, signals, logs."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD", ROOT / "build"))
MODELS = BUILD / "models"
START_SECONDS = 90 if os.environ.get("SLUICE_SLOW") else 45
SLOW = 4.0 if os.environ.get("SLUICE_SLOW") else 1.0  # sanitizers: bounds in time are stretched
# What a sanitizer writes to standard error, which every process of a fleet shares.
REPORTS = re.compile(r"ERROR: (?:Address|Leak)Sanitizer|WARNING: ThreadSanitizer|: runtime error: ")


def free_port() -> int:
    """Below the ports that the kernel gives to outgoing connections: none of those takes it before it is used."""
    for _ in range(1000):
        port = random.randrange(10000, 32768)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port between 10000 and 32767")


def check_reports(log: str) -> None:
    """Fails with the first sanitizer report in the log, and what follows it."""
    report = REPORTS.search(log)
    if report:
        start = log.rfind("\n", 0, report.start()) + 1
        raise AssertionError("a sanitizer reports:\n" + log[start:start + 8000])


def wait_until(condition, seconds, what, pause=0.05):
    """Polls `condition` until it is true and returns its value; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)


def parse_metrics(text: str) -> dict:
    """{(name, frozenset of (label, value))}: value of a Prometheus text page."""
    series = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r'([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)', line)
        assert match, f"not Prometheus text: {line!r}"
        labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
        series[(match[1], labels)] = float(match[3])
    return series


def metric(series: dict, name: str, **labels) -> float:
    """Sum of all series of that name that carry these labels."""
    wanted = set(labels.items())
    return sum(v for (n, l), v in series.items() if n == name and wanted <= l)


class Fleet:
    """One coordinator with `--pools local`. Use as a context manager."""

    def __init__(self, model, prefill=1, decode=1, kv_blocks=256, options=(), env=None, slots=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            str(BUILD / "bin" / "sluice-coordinator"), "--model", str(model),
            "--listen", f"127.0.0.1:{self.port}", "--pools", "local", "--prefill", str(prefill),
            "--decode", str(decode), "--kv-blocks", str(kv_blocks), *map(str, options)]
        self.env = {**os.environ, **(env or {})}
        self.n_nodes = prefill + decode
        self.process = None
        self.lines = []
        self.reader = None
        self.client = httpx.Client(base_url=self.url, timeout=120 * SLOW)

    def __enter__(self):
        self.process = subprocess.Popen(self.command, env=self.env, stderr=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, text=True, errors="replace")
        self.reader = threading.Thread(target=self._read_log, daemon=True)
        self.reader.start()
        try:
            wait_until(self.is_ready, START_SECONDS, "coordinator ready")
        except AssertionError:
            self.__exit__(None, None, None)
            raise AssertionError("coordinator not ready; log:\n" + self.log()[-4000:]) from None
        return self

    def __exit__(self, *exc):
        status = None  # of a process that a test has ended itself: its own affair
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                status = self.process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("coordinator did not end on SIGTERM; log:\n" + self.log()[-4000:])
        self.client.close()
        if exc and exc[0] is not None:
            sys.stderr.write("--- log of the fleet ---\n" + self.log()[-12000:] + "\n")
        self.reader.join(timeout=20)  # the end of the pipe: the last process of the fleet is gone
        check_reports(self.log())
        if status and (not exc or exc[0] is None):
            raise AssertionError(f"coordinator ended with {status}; log:\n" + self.log()[-4000:])

    def _read_log(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def log(self) -> str:
        return "".join(self.lines)

    def is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"coordinator exited {self.process.returncode}:\n{self.log()[-4000:]}")
        try:
            if self.client.get("/ready").status_code != 200:
                return False
            nodes = self.nodes()
            return len(nodes) == self.n_nodes and all(n["state"] == "ready" for n in nodes)
        except httpx.TransportError:
            return False

    def nodes(self, role=None) -> list:
        nodes = self.client.get("/cluster").json()["nodes"]
        return [n for n in nodes if role is None or n["role"] == role]

    def node(self, role) -> dict:
        return self.nodes(role)[0]

    def metrics(self) -> dict:
        return parse_metrics(self.client.get("/metrics").text)

    def node_metrics(self, node) -> dict:
        return parse_metrics(httpx.get(f"http://{node['admin']}/metrics", timeout=10).text)

    def complete(self, prompt, **fields) -> dict:
        """One completion, not streamed; the whole body."""
        answer = self.client.post("/v1/completions", json={"prompt": prompt, **fields})
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return answer.json()

    def tokens(self, prompt, n, **fields) -> list:
        """Ids of exactly n generated tokens."""
        fields = {"temperature": 0, **fields}
        body = self.complete(prompt, max_tokens=n, ignore_eos=True,
                             return_token_ids=True, **fields)
        ids = body["choices"][0]["token_ids"]
        assert len(ids) == n == body["usage"]["completion_tokens"]
        return ids

    @contextlib.contextmanager
    def stream(self, prompt, **fields):
        with self.client.stream("POST", "/v1/completions",
                                json={"prompt": prompt, "stream": True, **fields}) as answer:
            yield answer

    def stream_tokens(self, prompt, n, **fields) -> list:
        """Ids of n generated tokens, collected from the events of a stream."""
        fields = {"temperature": 0, **fields}
        ids = []
        with self.stream(prompt, max_tokens=n, ignore_eos=True,
                         return_token_ids=True, **fields) as answer:
            assert answer.status_code == 200, answer.read()
            for event in events(answer):
                assert "error" not in event, event
                if event["choices"]:
                    ids += event["choices"][0].get("token_ids") or []
        assert len(ids) == n
        return ids

    def settled(self, seconds=15) -> None:
        """Every node's blocks are free or cached again."""
        def quiet():
            nodes = self.nodes()
            return len(nodes) == self.n_nodes and all(
                n["blocks"]["free"] + n["blocks"]["cached"] == n["blocks"]["total"] for n in nodes)
        wait_until(quiet, seconds * SLOW, f"free + cached = total: {self.nodes()}", 0.2)


def events(answer):
    """The JSON events of an SSE answer; checks its framing and that [DONE] ends it unless an error does."""
    done = False
    last = None
    for line in answer.iter_lines():
        if not line or line.startswith(":"):
            continue
        assert line.startswith("data: "), line
        assert not done, f"after [DONE]: {line}"
        assert last is None or "error" not in last, f"after an error: {line}"
        if line == "data: [DONE]":
            done = True
            continue
        last = json.loads(line[len("data: "):])
        yield last
    assert done or (last and "error" in last), "a stream ended without [DONE] or an error"


def random_ids(n, seed, vocab=1000):
    """n token ids that no tokenizer marks as special; the same for the same seed."""
    import random
    source = random.Random(seed)
    return [source.randrange(300, vocab) for _ in range(n)]


def varied(answers, least=20) -> list:
    """The answers, which are to be compared: of ids that repeat themselves, equality would say little."""
    assert answers, "nothing to compare"
    for ids in answers:
        assert len(set(ids)) >= least, f"only {len(set(ids))} distinct ids in {len(ids)}"
    return answers


def engine_run(model, requests, **options) -> list:
    """The token ids that one engine computes for each request, driven without any server."""
    arguments = [str(BUILD / "tests" / "engine_run"), "--model", str(model)]
    for name, value in options.items():
        arguments += ["--" + name.replace("_", "-"), str(value)]
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run(arguments, input=lines, capture_output=True, text=True, timeout=300 * SLOW)
    check_reports(done.stderr)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["tokens"] for line in done.stdout.splitlines()]
