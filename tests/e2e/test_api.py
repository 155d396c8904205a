"""The OpenAI surface, with the real client and on the wire."""

import json
import socket

import httpx
import openai
import pytest

from fleet import events, metric, parse_metrics, wait_until

PASSAGE = "Berth 17 holds copper.\nBerth 42 holds tea and sugar.\nBerth 99 holds silk.\n"


@pytest.fixture(scope="module")
def client(fleet):
    return openai.OpenAI(base_url=fleet.url + "/v1", api_key="none", max_retries=0)


def test_recall_answers_through_the_openai_client(client, recall):
    answer = client.completions.create(model=recall.name, prompt=PASSAGE + "Berth 42 holds",
                                       max_tokens=20, temperature=0, stop=["."])
    assert answer.choices[0].text == " tea and sugar"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.object == "text_completion" and answer.id and answer.created > 1.7e9


def test_stream_equals_whole(client, recall):
    fields = dict(model=recall.name, prompt=PASSAGE + "Berth 17", max_tokens=30, temperature=0, seed=3)
    whole = client.completions.create(**fields)
    assert len(whole.choices[0].text) > 10
    chunks = list(client.completions.create(**fields, stream=True,
                                            stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details})
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1 and len(chunks) > 5


def test_models(client, fleet, recall):
    models = client.models.list().data
    assert [m.id for m in models] == [recall.name]
    assert fleet.client.get("/v1/models").json()["data"][0]["max_model_len"] == 32768
    assert client.models.retrieve(recall.name).id == recall.name
    for name in ("unknown", "gpt-4o", recall.name + "x", "org/name", "a b%20?", 'q"\\', "ü" * 80):
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve(name)
        assert refused.value.code == "model_not_found" and refused.value.param == "model", name
        assert f"the model `{name[:40]}" in refused.value.message, name
    answer = fleet.client.post("/v1/models/unknown", json={})
    assert answer.status_code == 405 and answer.headers["allow"] == "GET, HEAD"
    assert fleet.client.get("/v1/models/").status_code == 404
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="no-such-model", prompt="x")


def test_logprobs(client, recall):
    answer = client.completions.create(model=recall.name, prompt=PASSAGE + "Berth 17", max_tokens=4,
                                       temperature=0, logprobs=5)
    logprobs = answer.choices[0].logprobs
    assert (len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
            == len(logprobs.text_offset) == 4)
    assert "".join(logprobs.tokens) == answer.choices[0].text
    for token, own, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert len(top) == 5 and top[token] == own == max(top.values()) <= 0
    offsets = [0]
    for token in logprobs.tokens[:-1]:
        offsets.append(offsets[-1] + len(token))
    start = logprobs.text_offset[0]
    assert [o - start for o in logprobs.text_offset] == offsets


def test_stop_strings_across_tokens(fleet):
    whole = fleet.complete(PASSAGE + "Berth 42", max_tokens=12, temperature=0, ignore_eos=True)
    text = whole["choices"][0]["text"]
    assert len(text) > 20, "there is something to cut"
    for start in range(1, len(text) - 4, 3):
        stop = text[start:start + 4]
        cut = fleet.complete(PASSAGE + "Berth 42", max_tokens=12, temperature=0, ignore_eos=True,
                             stop=[stop, "never there"])
        assert cut["choices"][0]["text"] == text[:text.find(stop)]
        assert cut["choices"][0]["finish_reason"] == "stop"


def test_min_tokens_delays_the_end(fleet):
    short = fleet.complete("Nothing known here", max_tokens=40, temperature=0, return_token_ids=True)
    assert short["choices"][0]["finish_reason"] == "stop"
    n = short["usage"]["completion_tokens"]
    longer = fleet.complete("Nothing known here", max_tokens=40, temperature=0, min_tokens=n + 5)
    assert longer["usage"]["completion_tokens"] >= n + 5


def test_seed_and_temperature(random_fleet):
    fleet = random_fleet
    fields = dict(max_tokens=24, temperature=1.5, ignore_eos=True, return_token_ids=True)
    runs = [fleet.complete("Once", seed=s, **fields)["choices"][0]["token_ids"] for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    unseeded = [fleet.complete("Once", **fields)["choices"][0]["token_ids"] for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_token_ids_in_and_out(fleet):
    text = fleet.client.post("/tokenize", json={"prompt": PASSAGE + "Berth 42 holds"}).json()
    assert text["count"] == len(text["tokens"]) and text["max_model_len"] == 32768
    from_ids = fleet.complete(text["tokens"], max_tokens=8, temperature=0, return_token_ids=True)
    from_text = fleet.complete(PASSAGE + "Berth 42 holds", max_tokens=8, temperature=0,
                               return_token_ids=True)
    assert len(from_ids["choices"][0]["token_ids"]) == 8
    assert from_ids["choices"][0]["token_ids"] == from_text["choices"][0]["token_ids"]
    assert from_ids["usage"]["prompt_tokens"] == from_text["usage"]["prompt_tokens"] == text["count"]
    plain = fleet.client.post("/tokenize", json={"prompt": "tea", "add_special_tokens": False}).json()
    back = fleet.client.post("/detokenize", json={"tokens": plain["tokens"]}).json()
    assert back == {"prompt": "tea"}


def test_nul_in_a_prompt(fleet):
    """Valid JSON, and a byte like others for the tokenizer. Names are kept clear of it."""
    text = "tea\0and\0\0silk"
    ids = fleet.client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert fleet.client.post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}
    assert ids != fleet.client.post("/tokenize", json={"prompt": "tea", "add_special_tokens": False}).json()["tokens"]
    from_ids = fleet.complete(ids, max_tokens=4, temperature=0, return_token_ids=True)
    from_text = fleet.complete(text, max_tokens=4, temperature=0, return_token_ids=True, add_special_tokens=False)
    assert from_text["choices"][0]["token_ids"] == from_ids["choices"][0]["token_ids"]
    refused = fleet.client.post("/v1/completions", json={"prompt": "x", "model": "recall\0"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "model"


def test_multibyte_text_streams_whole_characters(random_fleet):
    """Random bytes-level tokens: every event is valid UTF-8 and the parts add up to the whole."""
    fleet = random_fleet
    fields = dict(max_tokens=200, temperature=2.0, seed=5, ignore_eos=True, top_p=1.0)
    whole = fleet.complete("żółć 日本語 🙂", **fields)["choices"][0]["text"]
    with fleet.stream("żółć 日本語 🙂", **fields) as answer:
        parts = [e["choices"][0]["text"] for e in events(answer) if e["choices"]]
    assert "".join(parts) == whole and len(whole) > 20 and len(parts) > 20
    assert any(ord(c) > 127 for c in whole), "no character of several bytes was sampled"


# What operators' dashboards name, whether or not it has happened yet.
FLEET_METRICS = """time_to_first_token_seconds inter_token_latency_seconds e2e_request_latency_seconds
    request_stage_seconds prompt_tokens_total generation_tokens_total prompt_tokens_by_source_total requests_running
    requests_waiting kv_cache_usage_ratio kv_blocks prefix_cache_queries_tokens_total prefix_cache_hits_tokens_total
    kv_transfer_bytes_total kv_transfer_seconds kv_transfer_throughput_bytes_per_second
    kv_transfer_busy_seconds_total kv_transfer_exposed_seconds_total handover_seconds second_token_delay_seconds
    pool_replicas routing_decisions_total requests_rejected_total preemptions_total
    request_migrations_total""".split()
NODE_METRICS = """prompt_tokens_by_source_total generation_tokens_total requests_running requests_waiting
    kv_cache_usage_ratio kv_blocks prefix_cache_queries_tokens_total prefix_cache_hits_tokens_total
    kv_transfer_bytes_total kv_transfer_seconds kv_transfer_throughput_bytes_per_second kv_transfer_busy_seconds_total
    kv_transfer_exposed_seconds_total kv_transfer_failures_total kv_link_limit_bytes_per_second handover_seconds
    requests_rejected_total preemptions_total engine_steps_total engine_step_sequences_total""".split()


def test_pages(fleet):
    fleet.complete("A prompt that is long enough to be sent from node to node. " * 20, max_tokens=2,
                   ignore_eos=True)
    for name in ("sluice_kv_transfer_bytes_total", "sluice_kv_transfer_seconds_count"):
        wait_until(lambda name=name: metric(fleet.metrics(), name) > 0, 5, name)
    assert fleet.client.get("/health").status_code == 200
    assert fleet.client.get("/ready").status_code == 200
    assert fleet.client.get("/version").json()["version"]
    page = fleet.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    names = {name for name, _ in parse_metrics(page.text)}
    for name in FLEET_METRICS:
        assert {f"sluice_{name}", f"sluice_{name}_bucket"} & names, name
    pages = [fleet.node_metrics(node) for node in fleet.nodes()]
    for name in NODE_METRICS:
        assert all({f"sluice_{name}", f"sluice_{name}_bucket"} & {n for n, _ in page} for page in pages), name
    assert metric(fleet.metrics(), "sluice_pool_replicas", state="desired") == fleet.n_nodes
    for node in fleet.nodes():
        base = f"http://{node['admin']}"
        assert httpx.get(base + "/health").status_code == httpx.get(base + "/ready").status_code == 200


def test_neutral_values_of_later_fields(fleet):
    fleet.complete("x", max_tokens=1, n=1, best_of=1, echo=False, presence_penalty=0, suffix=None,
                   frequency_penalty=0.0, repetition_penalty=1.0, logit_bias=None, user="u",
                   unknown_field={"a": 1}, stop=None, stream=None, logprobs=None, stream_options=None)


def test_cached_tokens_in_a_stream_without_options(fleet):
    with fleet.stream("x", max_tokens=2) as answer:
        seen = list(events(answer))
    assert seen and all("usage" not in e or e["usage"] is None for e in seen)
    raw = json.dumps({"prompt": "x", "max_tokens": 1})
    answer = fleet.client.post("/v1/completions", content=raw)  # no content type: still JSON
    assert answer.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_half_closed_client_is_served(fleet, stream):
    """RFC 9112: that a client sends nothing more does not mean that it reads nothing more."""
    body = json.dumps({"prompt": "Berth 17 holds copper. " * 30, "max_tokens": 40, "ignore_eos": True,
                       "stream": stream}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", fleet.port), timeout=60) as s:
        s.sendall(head + body)
        s.shutdown(socket.SHUT_WR)
        answer = b""
        while part := s.recv(65536):  # to the end: the server closes, since nothing can follow
            answer += part
    assert b"HTTP/1.1 200 OK\r\n" in answer, answer[:500]
    assert (b"data: [DONE]" if stream else b'"completion_tokens":40') in answer, answer[-500:]
