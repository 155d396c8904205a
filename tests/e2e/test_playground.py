"""The page at "/": that it needs nothing from elsewhere, and, in a real browser, that it does what it shows."""

import base64
import hashlib
import json
import re
import shutil

import pytest

import browser
from browser import Browser
from fleet import MODELS, Fleet, wait_until

PASSAGE = "Berth 17 holds copper.\nBerth 42 holds tea and sugar.\nBerth 99 holds silk.\n" * 10
needs_browser = pytest.mark.skipif(browser.PROGRAM is None, reason=browser.MISSING)


@pytest.fixture(scope="module")
def plain(tiny):
    """A model without a chat template."""
    directory = MODELS / "plain"
    if not directory.exists():
        shutil.copytree(tiny, directory)
        path = directory / "tokenizer_config.json"
        config = json.loads(path.read_text())
        config.pop("chat_template", None)
        path.write_text(json.dumps(config))
        (directory / "chat_template.jinja").unlink(missing_ok=True)
    return directory


@pytest.fixture(scope="module")
def window():
    with Browser() as opened:
        yield opened


def open_page(window, fleet):
    window.events.clear()
    window.scheme("light")
    window.resize(*window.size)
    window.open(fleet.url + "/")
    window.wait("document.querySelectorAll('#fleet [data-node]').length == 2", "the nodes of the fleet")
    window.wait("document.getElementById('model').textContent != '…'", "the name of the model")
    window.fleet = fleet
    return window


def check_quiet(window):
    """No exception, nothing that the policy refused, no request to elsewhere."""
    assert window.complaints() == []
    assert {re.match(r"(data|https?)://?[^/,;]*|data", url)[0] for url in window.requests()} <= {window.fleet.url, "data"}


@pytest.fixture
def page(request, window):
    yield open_page(window, request.getfixturevalue(getattr(request, "param", "fleet")))
    check_quiet(window)


def say(page, text):
    page.js("document.getElementById('input').focus()")
    page.type(text)
    page.press("Enter")


def ended(page):
    page.wait("!document.querySelector('.busy') && !document.getElementById('send').hidden", "the end of the answer")


def figure(page, name):
    return page.text(f".assistant:last-child [data-figure={name}]")


def set_field(page, name, value):
    page.js(f"document.getElementById({json.dumps(name)}).value = {json.dumps(str(value))}")


def test_page_is_one_file_under_a_strict_policy(fleet):
    answer = fleet.client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    text = answer.text
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert policy[tag + "-src"] == f"'sha256-{digest}'"
    assert not re.search(r"@import|url\(|<(script|link|img|iframe)[^>]*\s(src|href)=[\"'](?!data:)|innerHTML|\son\w+=", text)
    assert re.findall(r"https?://[^'\"\s]+", text) == ["http://www.w3.org/2000/svg"]  # the name of a namespace
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = fleet.client.head("/")
    assert head.status_code == 200 and head.content == b"" and fleet.client.post("/").status_code == 405


@needs_browser
def test_conversation(page, recall):
    assert page.text("#model") == recall.name and page.js("document.title").startswith(recall.name)
    set_field(page, "temperature", 0)
    say(page, PASSAGE + "Berth 42 holds")
    ended(page)
    messages = [{"role": "user", "content": PASSAGE + "Berth 42 holds"}]
    fields = {"model": recall.name, "temperature": 0, "max_tokens": 512}
    want = page.fleet.client.post("/v1/chat/completions", json={**fields, "messages": messages}).json()
    assert page.js("document.querySelector('.assistant .text.last').textContent") == want["choices"][0]["message"]["content"]
    assert figure(page, "tokens").startswith(str(want["usage"]["completion_tokens"]))
    assert re.fullmatch(r"[\d.]+ m?s", figure(page, "ttft"))
    assert re.fullmatch(r"[\d.]+ m?s last, [\d.]+ m?s median", figure(page, "itl"))
    assert figure(page, "cached") == f"{want['usage']['prompt_tokens']}, 0 of them cached"
    assert figure(page, "nodes") == "p0 read the prompt, d0 wrote the answer"
    page.wait("document.querySelectorAll('#fleet .served').length == 2", "both nodes are marked")
    say(page, "Berth 99 holds")  # the second turn: the first one's blocks are there
    ended(page)
    prompt, cached = map(int, re.fullmatch(r"(\d+), (\d+) of them cached", figure(page, "cached")).groups())
    assert prompt > cached >= 128
    page.click("#clear")
    assert page.js("document.querySelectorAll('.turn').length") == 0


@needs_browser
def test_markup_stays_text(page):
    evil = "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script><b>bold</b> & &lt;"
    say(page, evil)
    ended(page)
    assert page.js("document.querySelector('.user .text').textContent") == evil
    assert page.js("document.querySelectorAll('#log img, #log script, #log b').length") == 0
    assert "gone" not in page.js("document.title")


@needs_browser
def test_errors_are_shown(page):
    set_field(page, "max-tokens", 123456789)
    say(page, "Hello")
    ended(page)
    assert "max_tokens" in page.text("[role=alert]")
    assert page.js("document.getElementById('input').value") == "Hello"  # to be sent again
    set_field(page, "max-tokens", 4)
    page.press("Enter")
    ended(page)
    assert len(page.js("Array.from(document.querySelectorAll('[role=alert]'), e => e.textContent)")) == 1
    page.events = [e for e in page.events if "400" not in json.dumps(e)]  # the browser's own line about the refusal


@needs_browser
@pytest.mark.parametrize("page", ["random_fleet"], indirect=True)
def test_stop_frees_both_nodes(page):
    set_field(page, "max-tokens", 12000)
    say(page, "The harbour was quiet. " * 40)
    page.wait("document.querySelector('.assistant .text.last').textContent.length > 60", "text that streams")
    assert page.js("document.getElementById('send').hidden") is True
    page.click("#stop")
    ended(page)
    assert page.text("#say") == "Stopped."
    n = page.js("document.querySelector('.assistant .text.last').textContent.length")
    wait_until(lambda: all(node["running"] == 0 for node in page.fleet.nodes()), 5, "both nodes stopped")
    page.fleet.settled()
    assert page.js("document.querySelector('.assistant .text.last').textContent.length") == n
    tokens = int(re.match(r"\d+", figure(page, "tokens"))[0])
    assert tokens < 12000


@needs_browser
@pytest.mark.parametrize("page", ["random_fleet"], indirect=True)
def test_settings_are_sent(page):
    def ask():
        page.click("#clear")
        say(page, "Once")
        ended(page)
        return page.js("document.querySelector('.assistant .text.last').textContent"), figure(page, "cached")
    for name, value in (("max-tokens", 12), ("temperature", 1.5), ("seed", 5)):
        set_field(page, name, value)
    first, again = ask(), ask()
    assert first[0] == again[0] != ""
    assert int(re.match(r"\d+", figure(page, "tokens"))[0]) <= 12
    set_field(page, "seed", 6)
    assert ask()[0] != first[0]
    set_field(page, "system", "You answer like a harbour master.")
    assert int(re.match(r"\d+", ask()[1])[0]) > int(re.match(r"\d+", first[1])[0]) + 4


@needs_browser
def test_model_without_a_template(plain, window):
    with Fleet(plain) as fleet:
        page = open_page(window, fleet)
        assert page.text("#model") == "plain"
        set_field(page, "max-tokens", 8)
        say(page, "Once upon a time")
        page.wait("document.querySelector('.assistant [data-figure=tokens]') !== null", "tokens")
        ended(page)
        assert "/v1/completions" in page.text("#note") and page.js("document.getElementById('system-row').hidden")
        text = page.js("document.querySelector('.assistant .text.last').textContent")
        assert text != "" and "No text came" not in text
        say(page, " and then")
        ended(page)
        asked = [url for url in page.requests() if "completions" in url]
        assert [url.removeprefix(fleet.url) for url in asked] == ["/v1/chat/completions", "/v1/completions", "/v1/completions"]


@needs_browser
def test_every_width_and_both_schemes(page):
    say(page, "A_long_word_without_a_space_" * 20)
    ended(page)
    grounds = set()
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        grounds.add(page.js("getComputedStyle(document.body).backgroundColor"))
        for width, height in ((1200, 800), (820, 1000), (360, 640)):
            page.resize(width, height, width < 500)
            assert page.js("document.documentElement.scrollWidth") <= width
            assert page.js("document.documentElement.scrollHeight") <= height
            for part in ("#input", "#send", "#model", "#settings"):
                box = page.js(f"JSON.stringify(document.querySelector('{part}').getBoundingClientRect())")
                box = json.loads(box)
                assert box["width"] > 0 and box["left"] >= 0 and box["right"] <= width and box["bottom"] <= height, (part, width)
            assert page.js("document.getElementById('log').clientHeight") > 100
    assert len(grounds) == 2
    unnamed = page.js("Array.from(document.querySelectorAll('input, textarea, button')).filter("
                      "e => !e.labels?.length && !e.textContent.trim()).map(e => e.id)")
    assert unnamed == []
