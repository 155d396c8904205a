"""Choices, lists of prompts, and what is said about single tokens: with the openai client, through prefill,
transfer and decode."""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys

import openai
import pytest

from fleet import MODELS, ROOT, Fleet, events, metric, random_ids, wait_until

PASSAGE = "Berth 17 holds copper.\nBerth 42 holds tea and sugar.\nBerth 99 holds silk.\n"
PAIR = ("--threads", 1, "--local-prefill-max-tokens", 0)


@pytest.fixture(scope="module")
def client(fleet):
    return openai.OpenAI(base_url=fleet.url + "/v1", api_key="none", max_retries=0)


def golden(name):
    with open(ROOT / "tests" / "golden" / "sampling" / f"{name}.json", encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def golden_fleet():
    """The model that transformers was asked about, in float32, every prompt through the prefill node."""
    directory = MODELS / "golden"
    subprocess.run([sys.executable, str(ROOT / "tools" / "make_golden_models.py"), str(directory),
                    "llama-64"], check=True)
    model = directory / golden("greedy")["model"]
    with Fleet(model, options=(*PAIR, "--kv-type", "f32")) as running:
        yield running


def test_penalties_and_bias_as_transformers(golden_fleet):
    """Greedy tokens are those of transformers' generate(); its margins leave no room for rounding."""
    recorded = golden("greedy")
    assert min(min(run["margins"]) for run in recorded["runs"]) > 100 * recorded["f32_error"]
    for run in recorded["runs"]:
        fields = {"repetition_penalty": run.get("repetition", 1), "presence_penalty": run.get("presence", 0),
                  "frequency_penalty": run.get("frequency", 0), "logit_bias": run.get("biases", {})}
        for take in (golden_fleet.tokens, golden_fleet.stream_tokens):
            assert take(recorded["prompt"], len(run["tokens"]), **fields) == run["tokens"], fields
    assert metric(golden_fleet.metrics(), "sluice_routing_decisions_total", reason="pair") > 0


def test_penalties_survive_a_killed_decode_node(slow):
    """The stream goes on with the tokens of an undisturbed run: penalties know what was sent before."""
    n, prompt = 60, random_ids(300, 7)
    fields = dict(max_tokens=n, ignore_eos=True, return_token_ids=True, temperature=1.0, seed=5,
                  frequency_penalty=0.7, presence_penalty=0.3, repetition_penalty=1.2,
                  logit_bias={"500": 4, "501": 4})
    with Fleet(slow, 1, 2, kv_blocks=200, options=PAIR) as fleet:
        want = fleet.complete(prompt, **fields)["choices"][0]["token_ids"]
        plain = fleet.tokens(prompt, n, temperature=1.0, seed=5)
        assert want != plain
        got, victim = [], None
        with fleet.stream(prompt, **fields) as answer:
            for event in events(answer):
                assert "error" not in event, event
                if event["choices"]:
                    got += event["choices"][0]["token_ids"]
                if len(got) >= 10 and victim is None:
                    busy = [node for node in fleet.nodes("decode") if node["blocks"]["used"] > 0]
                    victim = busy[0]
                    os.kill(victim["pid"], signal.SIGKILL)
        assert victim and got == want
        assert metric(fleet.metrics(), "sluice_request_migrations_total") > 0


def test_alone_and_among_others(slow):
    """Sixteen clients with penalties of their own get what each gets alone."""
    def run(fleet, i):
        return fleet.tokens(random_ids(20 + 15 * i, i), 24, temperature=i % 2, seed=i,
                            frequency_penalty=i % 3, repetition_penalty=1 + i % 4 / 10,
                            logit_bias={str(300 + i): 5.5})
    with Fleet(slow, kv_blocks=200, options=PAIR) as fleet:
        alone = [run(fleet, i) for i in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda i: run(fleet, i), range(8))) == alone


def test_bias_forces_and_bans(client, fleet, recall):
    def ids(text):
        return fleet.client.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    fields = dict(model=recall.name, prompt=PASSAGE + "Berth 42 holds", max_tokens=3, temperature=0)
    tea, = ids(" tea")
    assert client.completions.create(**fields).choices[0].text.startswith(" tea")
    banned = client.completions.create(**fields, logit_bias={str(tea): -100})
    assert " tea" not in banned.choices[0].text
    x = ids("x")[0]
    forced = client.chat.completions.create(model=recall.name, max_tokens=3, temperature=0,
                                            messages=[{"role": "user", "content": "anything"}],
                                            logit_bias={str(x): 100})
    assert forced.choices[0].message.content == "xxx"
    with pytest.raises(openai.BadRequestError, match="token id 9999999"):
        client.completions.create(**fields, logit_bias={"9999999": 1})


def test_bad_words(fleet):
    fields = dict(prompt=PASSAGE + "Berth 42 holds", max_tokens=12, temperature=0)
    plain = fleet.complete(**fields)["choices"][0]["text"]
    assert plain.startswith(" tea and sugar")
    assert "tea" not in fleet.complete(**fields, bad_words=["tea"])["choices"][0]["text"]
    two = fleet.complete(**fields, bad_words=["and sugar"])["choices"][0]["text"]
    assert two.startswith(" tea and") and "and sugar" not in two


def test_choices_of_a_chat(client, recall):
    fields = dict(model=recall.name, messages=[{"role": "user", "content": PASSAGE + "Berth 42 holds"}],
                  max_tokens=12, temperature=1.0, seed=3, n=3)
    whole = client.chat.completions.create(**fields, logprobs=True, top_logprobs=20)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    for choice in whole.choices:
        assert choice.finish_reason in ("stop", "length") and choice.message.role == "assistant"
        assert all(len(entry.top_logprobs) == 20 for entry in choice.logprobs.content)
    one = client.chat.completions.create(**{**fields, "n": 1})
    assert one.choices[0].message.content == whole.choices[0].message.content
    assert one.usage.prompt_tokens == whole.usage.prompt_tokens
    texts, finished = [""] * 3, [None] * 3
    chunks = list(client.chat.completions.create(**fields, stream=True,
                                                 stream_options={"include_usage": True}))
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finished[choice.index] = choice.finish_reason or finished[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert finished == [choice.finish_reason for choice in whole.choices]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_seeds_of_choices(random_fleet):
    fields = dict(max_tokens=16, temperature=1.5, ignore_eos=True, return_token_ids=True)
    def ids(**more):
        return [choice["token_ids"] for choice in random_fleet.complete("Once", **fields, **more)["choices"]]
    three = ids(n=3, seed=7)
    assert three[0] != three[1] != three[2]
    assert len({ids[0] for ids in three}) > 1   # each has its own first token
    assert [ids(seed=7 + i)[0] for i in range(3)] == three   # each choice has the next seed
    greedy = [choice["token_ids"] for choice in random_fleet.complete(
        "Once", max_tokens=8, temperature=0, n=3, return_token_ids=True)["choices"]]
    assert greedy[0] == greedy[1] == greedy[2]


def test_lists_of_prompts(client, fleet, recall):
    prompts = [PASSAGE + "Berth 42 holds", PASSAGE + "Berth 17 holds", "Something else. Something"]
    fields = dict(model=recall.name, max_tokens=6, temperature=0)
    alone = [client.completions.create(prompt=prompt, **fields) for prompt in prompts]
    both = client.completions.create(prompt=prompts, n=2, **fields)
    assert [choice.index for choice in both.choices] == list(range(6))
    assert [choice.text for choice in both.choices] == [
        answer.choices[0].text for answer in alone for _ in range(2)]
    assert both.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in alone)
    assert both.usage.completion_tokens == 2 * sum(answer.usage.completion_tokens for answer in alone)
    ids = [fleet.client.post("/tokenize", json={"prompt": prompt}).json()["tokens"] for prompt in prompts]
    from_ids = client.completions.create(prompt=ids, **fields)
    assert [choice.text for choice in from_ids.choices] == [answer.choices[0].text for answer in alone]
    texts = [""] * 3
    for chunk in client.completions.create(prompt=prompts, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [answer.choices[0].text for answer in alone]


def test_choices_share_the_prompts_blocks(slow):
    """No prompt is computed n times: one choice goes through prefill, the others hit every full block."""
    n, tokens, block = 6, 700, 64
    with Fleet(slow, 1, 2, kv_blocks=200, options=("--threads", 1)) as fleet:
        def computed():
            return sum(metric(fleet.node_metrics(node), "sluice_prompt_tokens_by_source_total", source="computed")
                       for node in fleet.nodes())
        before = computed()
        with fleet.stream(random_ids(tokens, 3), n=n, max_tokens=24, ignore_eos=True, temperature=1.0,
                          return_token_ids=True) as answer:
            counts, used = [0] * n, 0
            for event in events(answer):
                assert "error" not in event, event
                for choice in event["choices"]:
                    counts[choice["index"]] += len(choice["token_ids"])
                if min(counts) >= 4 and not used:   # all of them decode
                    used = sum(node["blocks"]["used"] for node in fleet.nodes("decode"))
        assert counts == [24] * n
        rest = tokens - (tokens - 1) // block * block
        assert computed() - before == tokens + (n - 1) * rest
        full = tokens // block
        assert 0 < used <= full + 3 * n, f"{used} blocks for {n} choices of {full} full blocks each"
        fleet.settled()


def test_a_client_that_leaves_ends_all_choices(slow):
    with Fleet(slow, kv_blocks=200, options=("--threads", 1)) as fleet:
        with fleet.stream(random_ids(200, 4), n=4, max_tokens=2000, ignore_eos=True) as answer:
            running = events(answer)   # let go, it would close the stream
            next(running)
            wait_until(lambda: metric(fleet.metrics(), "sluice_requests_running") == 4, 20, "four choices run")
        wait_until(lambda: metric(fleet.metrics(), "sluice_requests_running") == 0, 5, "none runs")
        fleet.settled()


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_prompt_logprobs_as_transformers(golden_fleet, max_tokens):
    """Log-softmax of every prompt token, at the prefill node and at the decode node, cached or not."""
    recorded = golden("scores")["models"][0]
    tolerance = 8 * recorded["f32_error"]
    prompt, scores = recorded["prompt"], recorded["scores"]
    golden_fleet.complete(prompt, max_tokens=2)
    for _ in range(2):
        body = golden_fleet.complete(prompt, max_tokens=max_tokens, echo=True, logprobs=5, temperature=0,
                                     prompt_logprobs=5, ignore_eos=True)
        choice = body["choices"][0]
        logprobs = choice["logprobs"]
        assert body["usage"]["completion_tokens"] == max_tokens
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert all(len(values) == len(prompt) + max_tokens for values in logprobs.values())
        assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
        assert len(choice["prompt_logprobs"]) == len(prompt) and choice["prompt_logprobs"][0] is None
        for i, want in enumerate(scores, 1):
            assert abs(logprobs["token_logprobs"][i] - want["logprob"]) <= tolerance
            got = sorted(logprobs["top_logprobs"][i].values(), reverse=True)
            assert all(abs(a - b) <= tolerance for a, b in zip(got, want["top"][:5], strict=True))
            own = choice["prompt_logprobs"][i][str(prompt[i])]
            assert abs(own["logprob"] - want["logprob"]) <= tolerance
            assert own["rank"] == want["rank"] or want["gap"] <= tolerance
            assert len(choice["prompt_logprobs"][i]) in (5, 6)


def test_echo_with_the_openai_client(client, fleet, recall):
    prompt = PASSAGE + "Berth 42 holds"
    fields = dict(model=recall.name, max_tokens=6, temperature=0)
    plain = client.completions.create(prompt=prompt, **fields)
    text = prompt + plain.choices[0].text
    assert client.completions.create(prompt=prompt, echo=True, **fields).choices[0].text == text
    both = client.completions.create(prompt=prompt, echo=True, n=2, logprobs=1, **fields)
    for choice in both.choices:
        assert choice.text == text and choice.logprobs.token_logprobs[0] is None
        assert len(choice.logprobs.tokens) == plain.usage.total_tokens
        for token, offset in list(zip(choice.logprobs.tokens, choice.logprobs.text_offset))[1:]:
            assert text[offset:offset + len(token)] == token
    chunks = client.completions.create(prompt=prompt, echo=True, stream=True, logprobs=1, **fields)
    texts, tokens = "", []
    for chunk in chunks:
        texts += chunk.choices[0].text
        tokens += chunk.choices[0].logprobs.tokens
    assert texts == text and tokens == both.choices[0].logprobs.tokens
    only = client.completions.create(prompt=[prompt, "tea"], echo=True, logprobs=1, model=recall.name, max_tokens=0)
    assert [choice.text for choice in only.choices] == [prompt, "tea"]
    assert only.usage.completion_tokens == 0
    fleet.settled()


def test_refusals(fleet):
    for body, part in [
        ({"n": 0}, "`n`"), ({"n": 129}, "`n`"), ({"n": 2, "best_of": 1}, "`best_of`"),
        ({"prompt": ["x"] * 129}, "`prompt`"), ({"prompt": ["x"] * 65, "n": 2}, "at most 128 choices"),
        ({"prompt": ["x", []]}, "`prompt[1]`"), ({"presence_penalty": 3}, "`presence_penalty`"),
        ({"repetition_penalty": 0}, "`repetition_penalty`"), ({"frequency_penalty": "1"}, "`frequency_penalty`"),
        ({"logit_bias": {"1": 101}}, "`logit_bias[1]`"), ({"logit_bias": {"a": 1}}, "a token id"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "at most 1024"),
        ({"max_tokens": 0}, "`max_tokens`"), ({"prompt_logprobs": 21}, "`prompt_logprobs`"),
        ({"prompt_logprobs": 1, "stream": True}, "`prompt_logprobs`"),
        ({"bad_words": ["x"] * 129}, "at most 128"), ({"bad_words": ["  "]}, "without a token"), ({"bad_words": "x"}, "`bad_words`"),
    ]:
        answer = fleet.client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, **body})
        assert answer.status_code == 400 and part in answer.json()["error"]["message"], (body, answer.text)
