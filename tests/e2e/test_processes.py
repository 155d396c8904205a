"""The programs as an operator starts them: by hand on addresses of his own, with options from everywhere, by make."""

import contextlib
import os
import pathlib
import pty
import signal
import subprocess
import threading

import httpx
import pytest

from fleet import (BUILD, ROOT, SLOW, START_SECONDS, Fleet, check_reports, engine_run, events, free_port, metric,
                   parse_metrics, random_ids, varied, wait_until)

PROMPT = random_ids(200, 5)
NODE_KEYS = ["id", "role", "state", "pid", "admin", "transport", "block_tokens", "block_bytes", "blocks"]


@contextlib.contextmanager
def program(name, *arguments, env=None):
    """A process whose end the test waits for; what it wrote is in .log afterwards."""
    process = subprocess.Popen([str(BUILD / "bin" / name), *map(str, arguments)], stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, text=True, env={**os.environ, **(env or {})})
    process.lines = []
    reader = threading.Thread(target=lambda: process.lines.extend(process.stderr), daemon=True)
    reader.start()
    try:
        yield process
    except BaseException:
        print(f"--- {name}, exit {process.poll()}:", *process.lines[-40:], sep="\n")
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(20)
    check_reports("".join(process.lines))


def ends_well(process):
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0, "".join(process.lines)[-4000:]


def listening(pid) -> set:
    """Addresses at which a process listens, as /proc has them: hexadecimal, or 0 for any."""
    inodes = set()
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            link = os.readlink(fd)
            if link.startswith("socket:["):
                inodes.add(link[len("socket:["):-1])
    rows = [line.split() for table in ("tcp", "tcp6")
            for line in pathlib.Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_workers_started_by_hand(tiny):
    api, nodes, admins = free_port(), free_port(), {"pre.1": free_port(), "dec_2": free_port()}
    client = httpx.Client(base_url=f"http://127.0.0.1:{api}", timeout=60)
    worker = ("--model", tiny, "--bind", "127.0.0.1", "--advertise", "localhost", "--threads", 1)

    def ready():
        with contextlib.suppress(httpx.TransportError):
            return client.get("/ready").status_code == 200

    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(program(
            "sluice-coordinator", "--model", tiny, "--listen", f"127.0.0.1:{api}", "--nodes-listen",
            f"127.0.0.1:{nodes}", "--served-model-name", "some/name", "--local-prefill-max-tokens", 0))
        wait_until(lambda: ready() is False, START_SECONDS, "it answers")
        answer = client.post("/v1/completions", json={"prompt": PROMPT})
        assert answer.status_code == 503 and "no node has joined" in answer.text and answer.headers["retry-after"]
        prefill = stack.enter_context(program(
            "sluice-prefill", *worker, "--id", "pre.1", "--admin", f"127.0.0.1:{admins['pre.1']}", "--kv-blocks", 90,
            env={"SLUICE_COORDINATOR": f"127.0.0.1:{nodes}"}))
        decode = stack.enter_context(program(
            "sluice-decode", *worker, "--id", "dec_2", "--admin", f"127.0.0.1:{admins['dec_2']}", "--kv-blocks", 70,
            "--coordinator", f"127.0.0.1:{nodes}"))

        def both():
            states = [node["state"] for node in client.get("/cluster").json()["nodes"]]
            lost = [process for process in (coordinator, prefill, decode) if process.poll() is not None]
            assert not lost, "".join(line for process in lost for line in process.lines)[-4000:]
            return states == ["ready", "ready"]
        wait_until(both, START_SECONDS, "both are ready")

        cluster = {node["id"]: node for node in client.get("/cluster").json()["nodes"]}
        for name, process, role, blocks in (("pre.1", prefill, "prefill", 90), ("dec_2", decode, "decode", 70)):
            node = cluster[name]
            assert list(node)[:len(NODE_KEYS)] == NODE_KEYS
            assert list(node["blocks"]) == ["total", "free", "cached", "used", "landing"]
            assert (node["role"], node["pid"], node["admin"]) == (role, process.pid, f"localhost:{admins[name]}")
            assert (node["transport"], node["block_tokens"], node["blocks"]["total"]) == ("ucx", 64, blocks)
            assert httpx.get(f"http://{node['admin']}/health").json()["node"] == name
            assert listening(process.pid) == {"0100007F"}, "--bind and --admin are loopback"
        answer = client.post("/v1/completions", json={
            "model": "some/name", "prompt": PROMPT, "max_tokens": 20, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}).json()
        assert answer["choices"][0]["token_ids"] == engine_run(tiny, [{"prompt": PROMPT, "max_tokens": 20}])[0]
        assert answer["sluice"] == {"prefill": "pre.1", "decode": "dec_2", "attempts": 1}
        received = parse_metrics(httpx.get(f"http://localhost:{admins['dec_2']}/metrics").text)
        assert metric(received, "sluice_kv_transfer_bytes_total", src="pre.1", dst="dec_2",
                      side="recv") == 4 * cluster["dec_2"]["block_bytes"]

        ends_well(decode)
        wait_until(lambda: [n["id"] for n in client.get("/cluster").json()["nodes"]] == ["pre.1"], 5, "dec_2 left")
        assert client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2}).status_code == 200
        ends_well(prefill)
        wait_until(lambda: ready() is False, 5, "nobody is left")
        ends_well(coordinator)


def test_options_reach_the_workers(tiny):
    """Flag, environment and file of the coordinator; what is not a worker's it is not told."""
    admin = free_port()
    env = {"SLUICE_MAX_SEQS": "5", "SLUICE_QUEUE_SECONDS": "3", "SLUICE_THREADS": "7"}
    options = ("--drain-seconds", 9, "--threads", 1, "--transfer-verify", "--admin", f"127.0.0.1:{admin}",
               "--nodes-listen", "127.0.0.2:0")
    with Fleet(tiny, options=options, env=env) as fleet:
        for i, node in enumerate(fleet.nodes("prefill") + fleet.nodes("decode")):
            line = pathlib.Path(f"/proc/{node['pid']}/cmdline").read_text().split("\0")
            for option in ("--max-seqs=5", "--threads=1", "--drain-seconds=9", "--transfer-verify=true",
                           "--kv-blocks=256"):
                assert option in line, line
            assert node["admin"] == f"127.0.0.1:{admin + i}"
            assert httpx.get(f"http://{node['admin']}/ready").status_code == 200
        assert "environment_unknown" not in fleet.log()


@pytest.mark.parametrize("backend", ["ref", "fake"])
def test_other_backends(tiny, backend):
    prompts = [random_ids(n, n) for n in (1, 64, 130)]
    want = varied(engine_run(tiny, [{"prompt": p, "max_tokens": 24} for p in prompts], backend="ref"))
    with Fleet(tiny, options=("--backend", backend, "--local-prefill-max-tokens", 0)) as fleet:
        assert {node["numerics"] for node in fleet.nodes()} == {"ref-1"}
        for _ in range(2):  # the second time from the prefix caches
            assert [fleet.tokens(p, 24) for p in prompts] == want
        fleet.settled()


def test_ctrl_c_on_make(slow, tmp_path):
    """The stream that is open ends whole, make is content, and no process is left."""
    port = free_port()
    recipe = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "foreground.sh" in line)
    command = f"{BUILD}/bin/sluice-coordinator --model {slow} --listen 127.0.0.1:{port} --pools local --kv-blocks 99"
    (tmp_path / "Makefile").write_text(f"RUN = {command}\nrun:\n{recipe}\n".replace("tools/", f"{ROOT}/tools/"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("make", ["make", "-C", str(tmp_path), "run"])
    output = bytearray()

    def read():
        with contextlib.suppress(OSError):  # the terminal's end
            while part := os.read(terminal, 65536):
                output.extend(part)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        def ready():
            with contextlib.suppress(httpx.TransportError):
                return client.get("/ready").status_code == 200
        wait_until(ready, START_SECONDS, "make serves")
        pids = [node["pid"] for node in client.get("/cluster").json()["nodes"]]
        body = {"prompt": random_ids(100, 3), "max_tokens": 100, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as answer:
            stream = events(answer)
            got = [next(stream)]
            os.write(terminal, b"\x03")
            got += stream
    assert got[-1]["choices"][0]["finish_reason"] == "length" and len(got) > 50
    status = wait_until(lambda: (ended := os.waitpid(pid, os.WNOHANG))[0] and ended, 30 * SLOW, "make ends")
    reader.join(10)
    text = output.decode(errors="replace")
    check_reports(text)
    assert os.waitstatus_to_exitcode(status[1]) == 0, text[-3000:]
    assert "why=SIGINT" in text and "event=stopped" in text and "Error" not in text, text[-3000:]
    for worker in pids:
        assert not pathlib.Path(f"/proc/{worker}").exists()
