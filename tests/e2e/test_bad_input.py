"""Every wrong request gets an error object that names the field, the value and the limit, fast."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time

import pytest

from fleet import BUILD, SLOW, Fleet, check_reports, free_port, metric, wait_until

LONG = [300] * 40000

CASES = [
    # body, status, words that the message must have, param
    (b"{", 400, ["JSON"], None),
    (b"[1, 2]", 400, ["object"], None),
    (b'{"prompt": "a", "prompt": "b"}', 400, ["prompt"], None),
    (b'\xff\xfe', 400, [], None),
    ({}, 400, ["prompt"], "prompt"),
    ({"prompt": ""}, 200, [], None),  # a BOS is added: one token
    ({"prompt": []}, 400, ["prompt"], "prompt"),
    ({"prompt": {"a": 1}}, 400, ["prompt"], "prompt"),
    ({"prompt": [1, "a"]}, 400, ["prompt"], "prompt"),
    ({"prompt": [-1]}, 400, ["prompt", "-1"], "prompt"),
    ({"prompt": [99999999]}, 400, ["prompt", "99999999", "2048"], "prompt"),
    ({"prompt": [1.5]}, 400, ["prompt"], "prompt"),
    ({"prompt": "x", "max_tokens": 0}, 400, ["max_tokens", "0"], "max_tokens"),
    ({"prompt": "x", "max_tokens": -5}, 400, ["max_tokens", "-5"], "max_tokens"),
    ({"prompt": "x", "max_tokens": "7"}, 400, ["max_tokens"], "max_tokens"),
    ({"prompt": "x", "max_tokens": 10**23 - 1}, 400, ["max_tokens", "1e+23", "16777216"], "max_tokens"),
    ({"prompt": [5.0, 6], "max_tokens": 1.0, "later": 10**20}, 200, [], None),
    ({"prompt": "x", "max_tokens": 4, "min_tokens": 5}, 400, ["min_tokens", "5", "4"], "min_tokens"),
    ({"prompt": "x", "logprobs": 6}, 400, ["logprobs", "6", "5"], "logprobs"),
    ({"prompt": "x", "temperature": -1}, 400, ["temperature", "-1"], "temperature"),
    ({"prompt": "x", "temperature": 1e9}, 400, ["temperature"], "temperature"),
    ({"prompt": "x", "top_p": 1.5}, 400, ["top_p", "1.5"], "top_p"),
    ({"prompt": "x", "max_tokens": 1, "top_p": 1e-300}, 200, [], None),  # 0 as a float: the likeliest only
    ({"prompt": "x", "top_p": -0.1}, 400, ["top_p", "-0.1"], "top_p"),
    ({"prompt": "x", "min_p": 2}, 400, ["min_p", "2"], "min_p"),
    ({"prompt": "x", "top_k": -7}, 400, ["top_k", "-7"], "top_k"),
    ({"prompt": "x", "seed": "s"}, 400, ["seed"], "seed"),
    ({"prompt": "x", "stream": "yes"}, 400, ["stream"], "stream"),
    ({"prompt": "x", "stop": ["a"] * 17}, 400, ["stop", "17", "16"], "stop"),
    ({"prompt": "x", "stop": [1]}, 400, ["stop"], "stop"),
    ({"prompt": "x", "stop": [""]}, 400, ["stop"], "stop"),
    ({"prompt": "x", "model": 3}, 400, ["model"], "model"),
    ({"prompt": "x", "model": "nope"}, 404, ["nope"], "model"),
    ({"prompt": "x", "later": [[]] * 5000}, 400, ["5001 lists", "4096"], None),
    ({"prompt": LONG}, 400, ["40000", "32768"], "prompt"),
    ({"prompt": "x", "max_tokens": 100000}, 400, ["max_tokens", "100000", "32768"], "max_tokens"),
    ({"prompt": "x", "n": 129}, 400, ["n", "128"], "n"),
    ({"prompt": ["a", 5]}, 400, ["prompt[1]"], "prompt[1]"),
    ({"prompt": "x", "echo": "yes"}, 400, ["echo"], "echo"),
    ({"prompt": "x", "presence_penalty": 2.5}, 400, ["presence_penalty", "2"], "presence_penalty"),
    ({"prompt": "x", "logit_bias": {"5": 101}}, 400, ["logit_bias", "100"], "logit_bias"),
    ({"prompt": "x", "stream_options": {"include_usage": True}}, 400, ["stream_options"], "stream_options"),
]


@pytest.mark.parametrize("body, status, words, param", CASES, ids=lambda v: str(v)[:40])
def test_field(fleet, body, status, words, param):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = fleet.client.post("/v1/completions", content=content,
                               headers={"content-type": "application/json"})
    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text
    if answer.status_code == 200:
        return
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    for word in words:
        assert word in error["message"], error["message"]
    assert fleet.complete("still there", max_tokens=1)


def test_answer_too_large(fleet):
    """128 times the same 500 tokens' likeliest are some 90 MB: refused before they are put together."""
    answer = fleet.client.post("/v1/completions", json={
        "prompt": list(range(300, 800)), "n": 128, "max_tokens": 1, "prompt_logprobs": 20})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "answer_too_large"
    assert str(64 << 20) in answer.json()["error"]["message"]
    wait_until(lambda: metric(fleet.metrics(), "sluice_requests_running") == 0, 20, "its choices ended")


def test_context_length_code(fleet):
    for body in ({"prompt": LONG}, {"prompt": "x", "max_tokens": 100000}):
        error = fleet.client.post("/v1/completions", json=body).json()["error"]
        assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path, method, status", [
    ("/nothing", "GET", 404), ("/v1/completions", "GET", 405), ("/v1/responses", "POST", 501),
    ("/v1/embeddings", "POST", 501), ("/health", "DELETE", 405), ("/../etc/passwd", "GET", 404)])
def test_routes(fleet, path, method, status):
    answer = fleet.client.request(method, path, json={"model": "x"} if method == "POST" else None)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def raw(fleet, data, seconds=5.0):
    """Sends bytes as they are; returns (status, seconds it took, whether the peer closed)."""
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=seconds) as s:
        start = time.monotonic()
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it had read everything
        answer = b""
        try:
            while b"\r\n\r\n" not in answer:
                part = s.recv(65536)
                if not part:
                    break
                answer += part
        except ConnectionResetError:
            pass
        took = time.monotonic() - start
        assert answer, "no answer at all"
        return int(answer.split(b" ", 2)[1]), took


BODY = b'{"prompt":"x","max_tokens":1}'
POST = b"POST /v1/completions HTTP/1.1\r\n"


@pytest.mark.parametrize("name, data, status", [
    ("both lengths", POST + b"Host: localhost\r\nContent-Length: 29\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("two lengths", POST + b"Host: localhost\r\nContent-Length: 29\r\nContent-Length: 30\r\n\r\n" + BODY, 400),
    ("two equal lengths", POST + b"Host: localhost\r\nContent-Length: 29\r\nContent-Length: 29\r\n\r\n" + BODY, 400),
    ("no host", POST + b"Content-Length: 29\r\n\r\n" + BODY, 400),
    ("two hosts", POST + b"Host: localhost\r\nHost: b\r\nContent-Length: 29\r\n\r\n" + BODY, 400),
    ("announced huge", POST + b"Host: localhost\r\nContent-Length: 99999999999\r\n\r\n", 413),
    ("chunked huge", POST + b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
     + (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 6, 413),
])
def test_framing(fleet, name, data, status):
    got, took = raw(fleet, data)
    assert got == status
    assert took < 1.0 * SLOW, f"{name}: a refusal took {took:.2f} s"
    assert fleet.complete("still there", max_tokens=1)


def to_the_end(s):
    """All that comes until the server closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(65536):
            answer += part
    return answer


CHUNKED = POST + b"Host: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("name, data, status", [
    ("negative length", POST + b"Host: localhost\r\nContent-Length: -5\r\n\r\n", 400),
    ("no version", b"GET /health\r\n\r\n", 400),
    ("bad chunk", CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", 400),
    ("chunk longer than said", CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    ("chunk of 17 digits", CHUNKED + b"1ffffffffffffffff\r\nabc", 413),
    ("long target", b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    ("long header", POST + b"Host: localhost\r\nX: " + b"y" * 70000 + b"\r\n\r\n", 431),
    ("http/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("no request line", b"garbage\r\n\r\n", None),
])
def test_refused_by_the_library(fleet, name, data, status):
    """docs/decisions/0031-http-library.md: the right status, the end of the connection, no delay, nothing kept."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=10) as s:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(data)
        answer = to_the_end(s)
    assert time.monotonic() - start < 1.0 * SLOW
    assert (int(answer.split(b" ", 2)[1]) if answer else None) == status, answer[:200]
    assert fleet.complete("still there", max_tokens=1)


def open_connections(fleet):
    return metric(fleet.metrics(), "sluice_process_open_fds")


def test_announced_chunk(fleet):
    """The size that a chunk announces is enforced as its bytes come; one without bytes holds its socket only."""
    before = open_connections(fleet)
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=20) as s:
        s.sendall(CHUNKED + b"ffffffffffffffff\r\n")
        assert fleet.complete("others are served", max_tokens=1)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            s.sendall(b"x" * ((4 << 20) + 1))
        answer = to_the_end(s)
        assert answer.startswith(b"HTTP/1.1 413 ") and b'"code":"body_too_large"' in answer, answer[:300]
    for waits in (CHUNKED + b"ffffffffffffffff\r\nabc", bytes.fromhex("16030100a5010000a10303")):  # a TLS hello
        with socket.create_connection(("127.0.0.1", fleet.port)) as s:
            s.sendall(waits)
            assert fleet.complete("others are served", max_tokens=1)
    wait_until(lambda: open_connections(fleet) <= before, 10 * SLOW, "the sockets are closed")


def test_body_limit_is_exact(fleet):
    limit = 4 << 20
    for size, status in ((limit, 400), (limit + 1, 413)):
        head = POST + b"Host: localhost\r\nContent-Length: %d\r\n\r\n" % size
        got, _ = raw(fleet, head + b'"' + b"a" * (size - 2) + b'"', 20)
        assert got == status  # at the limit it is read, and found to be no object


def run_worker(*arguments, seconds=20):
    return run("sluice-decode", *arguments, seconds=seconds)


def run(program, *arguments, seconds=20):
    """A program that is to refuse its input: by itself, and not because a sanitizer ends it."""
    done = subprocess.run([str(BUILD / "bin" / program), *map(str, arguments)],
                          capture_output=True, text=True, timeout=seconds * SLOW)
    check_reports(done.stderr)
    return done


def spoil_truncate(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def spoil_header_length(directory):
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[:8] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(data)


def spoil_offsets(directory):
    path = directory / "model.safetensors"
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    name = next(k for k in header if k != "__metadata__")
    header[name]["data_offsets"][1] += 64
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + n:])


def spoil_config(directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["num_attention_heads"] = 7
    path.write_text(json.dumps(config))


def spoil_family(directory):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["architectures"], config["model_type"] = ["MambaForCausalLM"], "mamba"
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("spoil, words", [
    (spoil_truncate, ["model.safetensors"]), (spoil_header_length, ["model.safetensors", "header"]),
    (spoil_offsets, ["model.safetensors", "offsets"]), (spoil_config, ["config.json", "heads"]),
    (spoil_family, ["mamba"])])
def test_spoilt_model(tiny, tmp_path, spoil, words):
    directory = tmp_path / "model"
    shutil.copytree(tiny, directory)
    spoil(directory)
    done = run_worker("--model", directory, "--coordinator", f"127.0.0.1:{free_port()}", "--id", "d0")
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("spoil", ["truncated", "bad id", "unknown kind"])
def test_spoilt_tokenizer(tiny, tmp_path, spoil):
    directory = tmp_path / "model"
    shutil.copytree(tiny, directory)
    path = directory / "tokenizer.json"
    if spoil == "truncated":
        path.write_text(path.read_text()[:-2000])
    else:
        tokenizer = json.loads(path.read_text())
        if spoil == "bad id":
            tokenizer["model"]["vocab"][next(iter(tokenizer["model"]["vocab"]))] = -3
        else:
            tokenizer["model"]["type"] = "Unigram"
        path.write_text(json.dumps(tokenizer))
    done = run("sluice-coordinator", "--model", directory, "--listen", f"127.0.0.1:{free_port()}",
               "--pools", "none")
    assert done.returncode != 0 and "tokenizer.json" in done.stderr, done.stderr


@pytest.mark.parametrize("arguments, words", [
    (["--kv-blocks", "0"], ["--kv-blocks", "0", "1"]),
    (["--kv-blocks", "many"], ["--kv-blocks", "many"]),
    (["--kv-block", "5"], ["--kv-block", "--kv-blocks"]),
    (["--backend", "tpu"], ["--backend", "tpu", "cpu"]),
    (["--coordinator", "nowhere"], ["--coordinator", "nowhere"]),
    (["--model", "/no/such/dir"], ["/no/such/dir"]),
])
def test_bad_option(tiny, arguments, words):
    base = {"--model": str(tiny), "--coordinator": "127.0.0.1:1", "--id": "d0"}
    base.update({arguments[0]: arguments[1]})
    done = run_worker(*[x for pair in base.items() for x in pair])
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("program, option", [("sluice-decode", "--kv-blocks"), ("sluice-prefill", "--drain-seconds"),
                                             ("sluice-coordinator", "--max-seqs")])
def test_help_says_what_is_taken(tiny, program, option):
    shown = " ".join(run(program, "--help").stdout.split())
    entry = re.search(rf" {option} [A-Z]+ .*?(?= --\w)", shown)[0]
    low, high = re.search(r"\((\d+)\.\.(\d+)", entry).groups()
    base = ["--model", tiny] + ([] if program == "sluice-coordinator" else ["--coordinator", "127.0.0.1:1", "--id", "x"])
    for value in (int(low) - 1, int(high) + 1):
        done = run(program, *base, option, value)
        assert done.returncode == 2 and option in done.stderr and f"{low}..{high}" in done.stderr, done.stderr


@pytest.mark.parametrize("program, option", [
    ("sluice-coordinator", "--listen"), ("sluice-coordinator", "--nodes-listen"),
    ("sluice-decode", "--coordinator"), ("sluice-decode", "--admin"), ("sluice-prefill", "--admin")])
@pytest.mark.parametrize("value, words", [
    ("127.0.0.1:65536", ["65535"]), ("127.0.0.1:99999", ["65535"]), ("127.0.0.1:", ["port"]),
    (":8000", ["host", "missing"]), ("8000", ["HOST:PORT"]), ("http://a:80", ["HOST:PORT"]), ("::1:80", ["[::1]"])])
def test_bad_address(tiny, program, option, value, words):
    base = {"--model": str(tiny)}
    if program != "sluice-coordinator":
        base.update({"--coordinator": "127.0.0.1:1", "--id": "d0"})
    base[option] = value
    done = run(program, *[x for pair in base.items() for x in pair])
    assert done.returncode == 2
    for word in [option, value, *words]:
        assert word in done.stderr, done.stderr


def coordinator(directory):
    return run("sluice-coordinator", "--model", directory, "--pools", "local", "--listen", "127.0.0.1:0")


def test_local_pools_want_a_whole_model(recall, tmp_path):
    """Else every worker would end with the same sentence, and be started again, for ever."""
    done = coordinator(tmp_path / "nowhere")
    assert done.returncode == 2 and "no such directory" in done.stderr, done.stderr
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("tokenizer.json", "config.json"):
        done = coordinator(directory)
        assert done.returncode == 2 and "no config.json in it" in done.stderr, done.stderr
        shutil.copy(recall / name, directory)
    done = coordinator(directory)
    assert done.returncode == 2 and "no model.safetensors in it" in done.stderr, done.stderr


def test_node_with_another_model_is_no_partner(recall, tiny, other):
    """It joins its own cohort: requests go on to the first, and nothing ever goes between the two."""
    with Fleet(tiny, 0, 1, options=("--nodes-listen", f"127.0.0.1:{(nodes := free_port())}")) as fleet:
        stranger = subprocess.Popen([str(BUILD / "bin" / "sluice-prefill"), "--model", str(other),
                                     "--coordinator", f"127.0.0.1:{nodes}", "--id", "stranger",
                                     "--kv-blocks", "64"], stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: len(fleet.nodes()) == 2, 20 * SLOW, "the stranger is listed")
            before = fleet.tokens([400, 401, 402] * 40, 4)
            assert fleet.tokens([400, 401, 402] * 40, 4) == before
            strange = next(n for n in fleet.nodes() if n["id"] == "stranger")
            assert strange["blocks"]["free"] == strange["blocks"]["total"]
            assert "identity" in fleet.log()
        finally:
            stranger.terminate()
            status = stranger.wait()
        assert status == 0
        gone = ("event=node_left node=coordinator id=stranger", "event=node_lost node=coordinator id=stranger")
        wait_until(lambda: any(event in fleet.log() for event in gone), 20 * SLOW, "it has left")
        lines = fleet.log().splitlines()
        assert len([line for line in lines if "event=node_foreign" in line]) == 1  # not again when it drains
        assert [line for line in lines if "event=ready node=d0" in line]
