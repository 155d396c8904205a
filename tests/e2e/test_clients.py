"""Chats through the libraries that people put in front: LiteLLM and LangChain, as PyPI has them.

They are large, so `make clients` installs them beside; without them this module is skipped."""

import os

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network while it is imported
litellm = pytest.importorskip("litellm", reason="litellm is not installed (make clients)")
langchain_openai = pytest.importorskip("langchain_openai",
                                       reason="langchain_openai is not installed (make clients)")

FACTS = "Berth 17 holds copper.\nBerth 42 holds tea and sugar.\nBerth 99 holds silk."


def messages(question):
    return [{"role": "system", "content": FACTS}, {"role": "user", "content": question}]


@pytest.fixture(scope="module")
def ask(fleet, recall):
    """litellm.completion of this fleet's model."""
    def call(question, **fields):
        return litellm.completion(model=f"openai/{recall.name}", api_base=fleet.url + "/v1", api_key="none",
                                  messages=messages(question), max_retries=0, **fields)
    return call


@pytest.fixture(scope="module")
def model(fleet, recall):
    def make(**fields):
        return langchain_openai.ChatOpenAI(model=recall.name, base_url=fleet.url + "/v1", api_key="none",
                                           temperature=0, max_retries=0, **fields)
    return make


def test_litellm_whole_and_stream(ask):
    whole = ask("Berth 42 holds", temperature=0)
    assert whole.choices[0].message.content == " tea and sugar."
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(ask("Berth 42 holds", temperature=0, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == " tea and sugar."
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_litellm_stops_logprobs_and_errors(ask):
    assert ask("Berth 42 holds", temperature=0, stop=[" and"]).choices[0].message.content == " tea"
    entries = ask("Berth 99 holds", temperature=0, max_tokens=2, logprobs=True,
                  top_logprobs=2).choices[0].logprobs.content
    assert [e.token for e in entries] == [" silk", "."] and all(len(e.top_logprobs) == 2 for e in entries)
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask("x", temperature=9)
    with pytest.raises(litellm.ContextWindowExceededError):
        ask("tea " * 40000)


def test_langchain_whole_and_stream(model):
    answer = model().invoke([("system", FACTS), ("human", "Berth 99 holds")])
    assert answer.content == " silk." and answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata["output_tokens"] == 3
    chunks = list(model(stream_usage=True).stream([("system", FACTS), ("human", "Berth 99 holds")]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == answer.content and whole.usage_metadata["output_tokens"] == 3


def test_langchain_goes_on_and_shows_logprobs(model):
    first = model().invoke([("system", FACTS), ("human", "Berth 42 holds")])
    again = model(logprobs=True, top_logprobs=1).invoke(
        [("system", FACTS), ("human", "Berth 42 holds"), first, ("human", "Berth 17 holds")])
    assert again.content == " copper."
    tokens = [e["token"] for e in again.response_metadata["logprobs"]["content"]]
    assert "".join(tokens[:-1]) == again.content


def test_langchain_is_told_that_tools_come_later(model):
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    with pytest.raises(Exception, match="tool calling is not served yet"):
        model().bind_tools([tool]).invoke("x")
