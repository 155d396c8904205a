"""Chat: prompts as transformers makes them, and the openai client's view of the answers."""

import json
import os
import shutil
import signal

import openai
import pytest

from conftest import make
from fleet import MODELS, ROOT, Fleet, events, wait_until

FACTS = "Berth 17 holds copper.\nBerth 42 holds tea and sugar.\nBerth 99 holds silk."
GOLDEN = [json.loads(line) for line in
          (ROOT / "tests" / "golden" / "chat" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
THOUGHT = "Why take it? <think>it may rain, they say</think> An umbrella. Why take it?"


def facts(question):
    return [{"role": "system", "content": FACTS}, {"role": "user", "content": question}]


def chat(fleet, messages, status=200, **fields):
    """One chat, not streamed; the whole body."""
    answer = fleet.client.post("/v1/chat/completions", json={"messages": messages, **fields})
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    return answer.json()


def chat_stream(fleet, messages, **fields):
    """The events of a streamed chat, and the headers of the answer."""
    body = {"messages": messages, "stream": True, **fields}
    with fleet.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        return list(events(answer)), answer.headers


def joined(chunks, field="content"):
    return "".join(c["choices"][0]["delta"].get(field) or "" for c in chunks if c["choices"])


@pytest.fixture(scope="module")
def client(fleet):
    return openai.OpenAI(base_url=fleet.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module", params=sorted({case["template"] for case in GOLDEN}))
def templated(request):
    name = request.param
    with Fleet(make(f"chat-{name}", "make_chat_model.py", name), prefill=0) as running:
        yield running, [case for case in GOLDEN if case["template"] == name]


def altered(recall, name, **files):
    """The recall model with other files."""
    directory = MODELS / name
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(recall, directory)
    for file, text in files.items():
        (directory / file.replace("_json", ".json").replace("_jinja", ".jinja")).write_text(text)
    return directory


# ------------------------------------------------------------------ prompts

def test_prompts_are_those_of_transformers(templated):
    """The ids that the nodes got, of chats and of /tokenize, and the sentence of what is refused."""
    fleet, cases = templated
    assert len(cases) >= 16
    for case in cases:
        if "error" in case:
            refused = chat(fleet, status=400, max_tokens=1, **case["body"])["error"]
            assert case["error"] in refused["message"] and refused["param"] == "messages", case["body"]
            continue
        answer = chat(fleet, max_tokens=1, return_token_ids=True, **case["body"])
        assert answer["prompt_token_ids"] == case["ids"], (case["body"], case["text"])
        assert answer["usage"]["prompt_tokens"] == len(case["ids"])
        tokens = fleet.client.post("/tokenize", json=case["body"]).json()["tokens"]
        assert tokens == case["ids"], case["body"]


def test_a_stream_has_the_prompt_once(fleet):
    whole = chat(fleet, facts("Berth 42 holds"), temperature=0, return_token_ids=True)
    chunks, _ = chat_stream(fleet, facts("Berth 42 holds"), temperature=0, return_token_ids=True)
    assert [c.get("prompt_token_ids") for c in chunks] == [whole["prompt_token_ids"]] + [None] * (len(chunks) - 1)
    ids = [i for c in chunks for i in c["choices"][0]["token_ids"]]
    assert ids == whole["choices"][0]["token_ids"] and len(ids) == whole["usage"]["completion_tokens"]


# ------------------------------------------------------------------ the openai client

def test_whole_answer(client, recall):
    answer = client.chat.completions.create(model=recall.name, messages=facts("Berth 42 holds"),
                                            temperature=0, user="u", n=1)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.created > 1.7e9 and answer.model == recall.name
    choice = answer.choices[0]
    assert choice.index == 0 and choice.finish_reason == "stop" and choice.logprobs is None
    assert choice.message.role == "assistant" and choice.message.content == " tea and sugar."
    assert choice.message.tool_calls is None and choice.message.refusal is None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0


def test_stream_equals_whole(client, recall):
    fields = dict(model=recall.name, messages=facts("Berth 99"), temperature=0, max_completion_tokens=9)
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True,
                                                 stream_options={"include_usage": True}))
    deltas = [c.choices[0].delta for c in chunks[:-1]]
    assert "".join(d.content or "" for d in deltas) == whole.choices[0].message.content != ""
    assert [d.role for d in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(deltas) - 1) + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None and c.object == "chat.completion.chunk" for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


def test_a_conversation_goes_on(client, recall):
    """Answers go back as the client's library has them."""
    messages = [{"role": "system", "content": FACTS}]
    for question, want in (("Berth 42 holds", " tea and sugar."), ("Berth 99 holds", " silk."),
                           ("Berth 17 holds", " copper."), ("Berth 42 holds", " tea and sugar.")):
        messages.append({"role": "user", "content": question})
        answer = client.chat.completions.create(model=recall.name, messages=messages, temperature=0)
        assert answer.choices[0].message.content == want
        messages.append(answer.choices[0].message)


def test_logprobs(client, recall):
    answer = client.chat.completions.create(model=recall.name, messages=facts("Berth 17"), temperature=0,
                                            max_tokens=3, logprobs=True, top_logprobs=5)
    entries = answer.choices[0].logprobs.content
    assert "".join(e.token for e in entries) == answer.choices[0].message.content
    for entry in entries:
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == 5 and entry.top_logprobs[0].token == entry.token
        assert entry.top_logprobs[0].logprob == entry.logprob <= 0
        assert [t.logprob for t in entry.top_logprobs] == sorted((t.logprob for t in entry.top_logprobs), reverse=True)
    plain = client.chat.completions.create(model=recall.name, messages=facts("Berth 17"), temperature=0,
                                           max_tokens=3, logprobs=True)
    assert [e.token for e in plain.choices[0].logprobs.content] == [e.token for e in entries]
    assert all(e.top_logprobs == [] for e in plain.choices[0].logprobs.content)


def test_stops(client, recall):
    def ask(**fields):
        return client.chat.completions.create(model=recall.name, messages=facts("Berth 42 holds"),
                                              temperature=0, **fields).choices[0]

    assert ask(stop=[" and", "never"]).message.content == " tea"
    assert ask(stop=" sugar").finish_reason == "stop"
    assert ask(stop=" and", extra_body={"include_stop_str_in_output": True}).message.content == " tea and"
    cut = ask(max_tokens=2)
    assert cut.finish_reason == "length" and cut.message.content == " tea and"
    assert ask(max_tokens=1, max_completion_tokens=3).message.content == " tea and sugar"
    shown = ask(extra_body={"skip_special_tokens": False, "ignore_eos": True}, max_tokens=5)
    assert shown.message.content == " tea and sugar.<|end_of_text|>"


def test_errors_are_exceptions_of_their_class(client, recall):
    def refused(kind, **fields):
        fields = {"model": recall.name, "messages": facts("x"), **fields}
        with pytest.raises(kind) as error:
            client.chat.completions.create(**fields)
        return error.value

    assert refused(openai.NotFoundError, model="other").code == "model_not_found"
    assert refused(openai.BadRequestError, messages=[]).param == "messages"
    error = refused(openai.BadRequestError, messages=[{"role": "narrator", "content": "x"}])
    assert error.param == "messages[0].role" and "narrator" in error.message and "assistant" in error.message
    assert refused(openai.BadRequestError, temperature=3).param == "temperature"
    assert refused(openai.BadRequestError, max_tokens=10 ** 6).code == "context_length_exceeded"
    long = [{"role": "user", "content": "tea " * 40000}]
    assert refused(openai.BadRequestError, messages=long).code == "context_length_exceeded"
    for fields, param in (
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:"}}]}]}, "messages[0].content[0].type")):
        error = refused(openai.InternalServerError, **fields)
        assert error.status_code == 501 and error.param == param


def test_the_model_by_its_name(client, recall):
    assert client.models.retrieve(recall.name) == client.models.list().data[0]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_what_is_not_served_says_so(client, recall):
    calls = [lambda: client.embeddings.create(model=recall.name, input="x"),
             lambda: client.responses.create(model=recall.name, input="x"),
             lambda: client.moderations.create(input="x"),
             lambda: client.images.generate(prompt="x"),
             lambda: client.audio.speech.create(model=recall.name, input="x", voice="alloy"),
             lambda: client.files.create(file=("a.jsonl", b"{}"), purpose="batch"),
             lambda: client.batches.create(input_file_id="x", endpoint="/v1/chat/completions", completion_window="24h"),
             lambda: client.vector_stores.create()]
    for call in calls:
        with pytest.raises(openai.InternalServerError) as error:
            call()
        assert error.value.status_code == 501 and "/v1/chat/completions" in error.value.message


# ------------------------------------------------------------------ who served it, caches, limits

def test_who_served_it(fleet):
    """A long prompt goes through the prefill node, a short one does not."""
    words = " ".join(f"number {n} is here" for n in range(200))
    chunks, headers = chat_stream(fleet, [{"role": "user", "content": words}], max_tokens=4, ignore_eos=True,
                                  stream_options={"include_usage": True})
    assert (headers["x-sluice-prefill"], headers["x-sluice-decode"]) == ("p0", "d0")
    assert chunks[-1]["sluice"] == {"prefill": "p0", "decode": "d0", "attempts": 1}
    short = fleet.client.post("/v1/chat/completions", json={"messages": facts("Berth"), "max_tokens": 2})
    assert short.headers["x-sluice-prefill"] == "-" and short.headers["x-sluice-decode"] == "d0"
    assert short.json()["sluice"]["prefill"] == "-"


def test_a_chat_goes_on_elsewhere_and_says_so(slow):
    """The decode node dies in mid-stream: the same words, the role once, and usage names the other node."""
    messages = [{"role": "user", "content": "Once upon a time"}]
    fields = dict(max_tokens=60, temperature=0, ignore_eos=True, stream_options={"include_usage": True})
    with Fleet(slow, prefill=0, decode=2, kv_blocks=64, options=["--share-cpus"]) as fleet:
        want, _ = chat_stream(fleet, messages, **fields)
        chunks = []
        body = {"messages": messages, "stream": True, **fields}
        with fleet.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            first = answer.headers["x-sluice-decode"]
            for event in events(answer):
                chunks.append(event)
                if len(chunks) == 5:
                    os.kill(next(n["pid"] for n in fleet.nodes() if n["id"] == first), signal.SIGKILL)
        assert joined(chunks) == joined(want) and len(joined(want)) > 60
        assert sum("role" in c["choices"][0]["delta"] for c in chunks if c["choices"]) == 1
        assert chunks[-1]["usage"]["completion_tokens"] == 60
        served = chunks[-1]["sluice"]
        assert served["attempts"] == 2 and {first, served["decode"]} == {"d0", "d1"}
        assert want[-1]["sluice"]["attempts"] == 1


def test_salts_divide_the_cache(fleet):
    """Blocks are shared among those who give the same salt, and with nobody else."""
    text = " ".join(f"salted {n} times" for n in range(150))

    def cached(**fields):
        body = fleet.complete(text, max_tokens=2, temperature=0, ignore_eos=True, return_token_ids=True, **fields)
        return body["usage"]["prompt_tokens_details"]["cached_tokens"], body["choices"][0]["token_ids"]

    first, plain = cached()
    assert first == 0
    wait_until(lambda: cached()[0] > 0, 10, "a hit without a salt")
    assert cached(cache_salt="one")[0] == 0
    wait_until(lambda: cached(cache_salt="one")[0] > 0, 10, "a hit with the same salt")
    hits, ids = cached(cache_salt="two")
    assert hits == 0 and ids == plain


def test_truncated_prompts_keep_their_end(fleet):
    fields = dict(messages=facts("Berth 42 holds"), max_tokens=1, return_token_ids=True)
    ids = chat(fleet, **fields)["prompt_token_ids"]
    cut = chat(fleet, **fields, truncate_prompt_tokens=7)
    assert cut["prompt_token_ids"] == ids[-7:] and cut["usage"]["prompt_tokens"] == 7
    long = chat(fleet, [{"role": "user", "content": "tea " * 40000 + "\nBerth 1"}], max_tokens=1,
                truncate_prompt_tokens=100)
    assert long["usage"]["prompt_tokens"] == 100
    error = chat(fleet, facts("x"), status=400, truncate_prompt_tokens=32768)["error"]
    assert error["param"] == "truncate_prompt_tokens"


def test_without_a_bound_the_pool_is_one(recall):
    """16 blocks of 64 tokens, a context of 32 times that: the answer may fill the pool, and does."""
    with Fleet(recall, kv_blocks=16) as fleet:
        answer = chat(fleet, facts("Berth 42 holds"), temperature=0)
        assert answer["choices"][0]["message"]["content"] == " tea and sugar."
        error = chat(fleet, facts("Berth 42 holds"), status=400, max_tokens=2048)["error"]
        assert error["code"] == "request_too_large"
        endless = chat(fleet, facts("Berth 42 holds"), temperature=0, ignore_eos=True)
        used = endless["usage"]
        assert endless["choices"][0]["finish_reason"] == "length"
        assert 15 * 64 <= used["total_tokens"] <= 16 * 64 + 1


def test_request_ids_and_unknown_fields(fleet):
    answer = chat(fleet, facts("x"), request_id="mine-7", max_tokens=1, temprature=1, Temprature=2)
    assert answer["id"] == "chatcmpl-mine-7"
    assert fleet.complete("x", max_tokens=1, request_id="mine-8")["id"] == "cmpl-mine-8"
    for _ in range(3):
        chat(fleet, facts("x"), max_tokens=1, temprature=1)
    wait_until(lambda: "Temprature" in fleet.log(), 5, "the warnings")
    lines = [line for line in fleet.log().splitlines() if "unknown_field" in line and "temprature" in line]
    assert len(lines) == 1 and "level=warn" in lines[0]


def test_defaults_of_the_model(recall):
    """temperature 0 in generation_config.json, unless that file is not to be read."""
    model = altered(recall, "cold", generation_config_json='{"temperature": 0, "max_new_tokens": 5}')
    fields = dict(ignore_eos=True, return_token_ids=True)
    messages = [{"role": "user", "content": "Nothing is known here"}]

    def answers(fleet, **more):
        return [chat(fleet, messages, **fields, **more)["choices"][0]["token_ids"] for _ in range(6)]

    with Fleet(model, prefill=0) as fleet:
        assert {len(ids) for ids in answers(fleet)} == {5}
        greedy = answers(fleet, temperature=0)
        assert answers(fleet) == greedy
    with Fleet(model, prefill=0, options=["--generation-config=none"]) as fleet:
        assert answers(fleet, max_tokens=5, temperature=0) == greedy
        assert len(chat(fleet, messages, max_tokens=50, **fields)["choices"][0]["token_ids"]) == 50


# ------------------------------------------------------------------ templates that cannot be used

def test_a_model_without_a_template(recall):
    model = altered(recall, "mute", tokenizer_config_json='{"eos_token": "<|end_of_text|>"}')
    with Fleet(model, prefill=0) as fleet:
        error = chat(fleet, facts("x"), status=400)["error"]
        assert error["code"] == "no_chat_template" and "no chat template" in error["message"]
        assert fleet.complete("Berth", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_a_template_that_does_not_compile(recall):
    model = altered(recall, "broken", chat_template_jinja="{% for m in messages %}\n{{ m.content }")
    with Fleet(model, prefill=0) as fleet:
        error = chat(fleet, facts("x"), status=501)["error"]
        assert error["code"] == "chat_template_broken" and "line 2" in error["message"]
        assert str(MODELS) not in error["message"]
        assert "chat_template_broken" in fleet.log() and "level=warn" in fleet.log()
        assert fleet.complete("Berth", max_tokens=1)["usage"]["completion_tokens"] == 1


def test_a_template_without_end_has_one(recall):
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}"
    with Fleet(altered(recall, "endless", chat_template_jinja=loop), prefill=0) as fleet:
        error = chat(fleet, facts("x"), status=400)["error"]
        assert error["code"] == "chat_template_limit"
        assert fleet.complete("Berth", max_tokens=1)["usage"]["completion_tokens"] == 1


# ------------------------------------------------------------------ reasoning

@pytest.fixture(scope="module", params=["pieces", "special"])
def thinking(request):
    """Marks that are several tokens each; and marks that are tokens without a text."""
    options = ["--special-thinking"] if request.param == "special" else []
    model = make(f"chat-thinking-{request.param}", "make_chat_model.py", "recall", *options)
    with Fleet(model, prefill=0) as running:
        yield running


def test_reasoning_is_told_from_the_answer(thinking):
    messages = [{"role": "user", "content": THOUGHT}]
    whole = chat(thinking, messages, temperature=0, return_token_ids=True)
    message = whole["choices"][0]["message"]
    assert message["reasoning_content"] == "it may rain, they say" and message["content"] == " An umbrella."
    chunks, _ = chat_stream(thinking, messages, temperature=0, stream_options={"include_usage": True})
    assert joined(chunks, "reasoning_content") == message["reasoning_content"]
    assert joined(chunks) == message["content"]
    assert not any(c["choices"][0]["delta"].get("content") and c["choices"][0]["delta"].get("reasoning_content")
                   for c in chunks if c["choices"])
    usage = whole["usage"]
    assert usage["completion_tokens"] == len(whole["choices"][0]["token_ids"])
    answer = thinking.client.post("/tokenize", json={"prompt": " An umbrella.", "add_special_tokens": False})
    n_thought = usage["completion_tokens"] - answer.json()["count"] - 1  # the end token
    assert usage["completion_tokens_details"]["reasoning_tokens"] == n_thought
    assert chunks[-1]["usage"]["completion_tokens_details"] == usage["completion_tokens_details"]


def test_reasoning_may_be_left_out(thinking):
    messages = [{"role": "user", "content": THOUGHT}]
    message = chat(thinking, messages, temperature=0, include_reasoning=False)["choices"][0]["message"]
    assert message["content"] == " An umbrella." and "reasoning_content" not in message
    client = openai.OpenAI(base_url=thinking.url + "/v1", api_key="none", max_retries=0)
    stream = client.chat.completions.create(model=client.models.list().data[0].id, messages=messages,
                                            stream=True, temperature=0)
    parts = [(getattr(c.choices[0].delta, "reasoning_content", None), c.choices[0].delta.content) for c in stream]
    assert "".join(r or "" for r, _ in parts) == "it may rain, they say"
    assert "".join(t or "" for _, t in parts) == " An umbrella."


def test_the_prompt_may_open_the_reasoning(thinking):
    """What continues an unfinished thought is thought."""
    messages = [{"role": "user", "content": THOUGHT},
                {"role": "assistant", "content": " <think>it may"}]
    message = chat(thinking, messages, temperature=0, continue_final_message=True)["choices"][0]["message"]
    assert message["reasoning_content"] == " rain, they say" and message["content"] == " An umbrella."


def test_reasoning_can_be_switched_off():
    model = make("chat-thinking-pieces", "make_chat_model.py", "recall")
    with Fleet(model, prefill=0, options=["--reasoning=none"]) as fleet:
        answer = chat(fleet, [{"role": "user", "content": THOUGHT}], temperature=0)
        message = answer["choices"][0]["message"]
        assert message["content"] == " <think>it may rain, they say</think> An umbrella."
        assert "reasoning_content" not in message and "completion_tokens_details" not in answer["usage"]
