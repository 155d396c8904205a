#!/usr/bin/env python3
"""Writes tests/golden/templates: chat templates, conversations and snippets with jinja2's output.

  tools/make_template_goldens.py [DIR]     needs transformers and jinja2

The templates (tools/template_sources.py) are written after the published ones of the model families;
the oracle is jinja2 as transformers configures it: transformers.utils.chat_template_utils. Each case is
one line of JSON in chats.jsonl (templates by name) or snippets.jsonl (by text); conversations and tools
are in inputs.json:

  {"template": …, "chat": name, "tools": how many, "add": bool, "continue": bool, "kwargs": {…}, "want": text}
  "error": "raise": want is raise_exception's text; "error": "any": want is what Python said
"""
import json
import os
import sys

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template, _normalize_chat_messages
from transformers.utils.chat_template_utils import render_jinja_template

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from template_sources import SNIPPETS, TEMPLATES  # noqa: E402

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Current weather at a place, in \"°C\" & <b>wind</b>.",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Name of a city"},
        "unit": {"type": "string", "enum": ["C", "F"], "default": None},
        "days": {"type": "integer", "minimum": 1}, "scale": {"type": "number", "maximum": 1.5e-7}},
        "required": ["city"]}}}
ADD = {"type": "function", "function": {
    "name": "add", "description": "Adds two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                   "required": ["a", "b"]},
    "return": {"type": "number", "description": "the sum"}}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "ok": True}}}
CALL_TEXT = {"id": "abcdefghj", "type": "function",
             "function": {"name": "add", "arguments": "{\"a\": 1, \"b\": 2.5}"}}
CHAT = [say("user", "Hello, how are you?")]
SYSTEM = [say("system", "You are brief."), *CHAT]
TURNS = [say("user", "One?"), say("assistant", "  First answer.\n"), say("user", " Two? "),
         say("assistant", "Second\n\nanswer"), say("user", "Three?")]
CONVERSATIONS = {
    "chat": CHAT,
    "system": SYSTEM,
    "turns": TURNS,
    "system_turns": [say("system", " Be kind.\n"), *TURNS],
    "ends_with_assistant": [*CHAT, say("assistant", "I am fine ")],
    "unicode": [say("system", "ß Σίσυφος 日本語 \U0001f600"), say("user", "'quotes' \"double\" <tag> & \\back\ttab é\u0301 \u200d\u2028")],
    "empty": [say("user", ""), say("assistant", ""), say("user", "")],
    "parts": [say("user", [{"type": "text", "text": "Look:"}, {"type": "image"}, {"type": "text", "text": " what?"}])],
    "thinking": [say("user", "2+2?"), say("assistant", "<think>\nadd them\n</think>\n\n4"), say("user", "3+3?")],
    "reasoning": [say("user", "2+2?"), say("assistant", "4", reasoning_content="add them"), say("user", "3+3?"),
                  say("assistant", "6", reasoning_content="\nagain\n")],
    "tool": [say("system", "Use tools."), say("user", "Weather?"), say("assistant", "", tool_calls=[CALL]),
             say("tool", "{\"t\": 21}", name="get_weather", tool_call_id="abcdefghi"), say("assistant", "21 degrees."),
             say("user", "Thanks. And 1+2.5?")],
    "tools": [say("user", "Both"), say("assistant", None, tool_calls=[CALL, CALL_TEXT]),
              say("tool", "rain", name="get_weather", tool_call_id="abcdefghi"),
              say("tool", {"sum": 3.5, "list": [1, None, True]}, name="add", tool_call_id="abcdefghj")],
    "tool_text": [say("user", "Add"), say("assistant", "Well.", tool_calls=[CALL_TEXT]),
                  say("tool", "3.5", name="add", tool_call_id="abcdefghj")],
    "wrong_order": [say("assistant", "I begin"), say("user", "ok")],
    "two_users": [say("user", "a"), say("user", "b")],
    "odd_role": [say("user", "a"), say("narrator", "b")],
    "late_system": [say("user", "a"), say("system", "b"), say("user", "c")],
    "documents_role": [say("developer", "dev"), say("user", "a")],
    "none": [],
    "lines": [say("user", "line one\nline two\r\n\n  indented\n")],
}
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TOOLS = [WEATHER, ADD]
SNIPPET_KWARGS = {
        "s": "Hello World", "u": "äöü ß 日本", "n": 7, "f": 2.5, "t": True, "x": None, "l": [3, 1, 2],
        "d": {"b": 1, "a": [1, {"c": "z"}], "items": 5}, "e": [], "w": "  pad \n", "rows": [
            {"name": "b", "v": 2}, {"name": "A", "v": 1}, {"name": "c", "v": 2, "z": {"y": 1}}]}
KWARGS = [{}, {"enable_thinking": False}, {"enable_thinking": True, "date_string": "26 Jul 2024"}]


def render(template, case):
    kwargs = {**SPECIALS, **case.get("kwargs", {})}
    messages = _normalize_chat_messages(CONVERSATIONS[case["chat"]])
    done, _ = render_jinja_template([messages], tools=TOOLS[:case["tools"]] if "tools" in case else None, chat_template=template,
                                    add_generation_prompt=case.get("add", False),
                                    continue_final_message=case.get("continue", False), **kwargs)
    return done[0]


def judge(name, template, case):
    """The case with what jinja2 says of it; None if it cannot be compared."""
    try:
        want = render(template, case)
        if any(mark in want for mark in ("<generator", " object at 0x", "<function", "<bound", "<built-in")):
            return None
        want.encode()
    except UnicodeEncodeError:
        return None
    except jinja2.exceptions.TemplateError as e:
        if type(e) is jinja2.exceptions.TemplateError:  # of raise_exception
            return {"template": name, **case, "error": "raise", "want": str(e)}
        return {"template": name, **case, "error": "any", "want": f"{type(e).__name__}: {e}"}
    except Exception as e:  # noqa: BLE001
        return {"template": name, **case, "error": "any", "want": f"{type(e).__name__}: {e}"}
    return {"template": name, **case, "want": want}


def chat_cases():
    for name, template in TEMPLATES.items():
        for i, label in enumerate(CONVERSATIONS):
            variants = [{"add": i % 2 == 0}, {"add": i % 2 == 1, "tools": 1 + i // 2 % 2}]
            variants += [{"add": True, "kwargs": KWARGS[1 + i % 2]}]
            if label in ("ends_with_assistant", "empty", "parts", "turns"):
                variants.append({"continue": True})
            for variant in variants:
                yield judge(name, template, {"chat": label, **variant})


def snippet_cases():
    context = {"chat": "turns", "kwargs": SNIPPET_KWARGS}
    for text in SNIPPETS:
        case = judge(text, text, context)
        if case is not None:
            yield {k: v for k, v in case.items() if k not in ("chat", "kwargs")}


def main():
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(HERE), "tests/golden/templates")
    os.makedirs(out, exist_ok=True)
    for name, template in TEMPLATES.items():
        _compile_jinja_template(template)
        with open(os.path.join(out, f"{name}.jinja"), "w", encoding="utf-8", newline="") as f:
            f.write(template)
    with open(os.path.join(out, "inputs.json"), "w", encoding="utf-8", newline="") as f:
        json.dump({"tools": TOOLS, "conversations": CONVERSATIONS, "snippet_kwargs": SNIPPET_KWARGS,
                   "specials": SPECIALS}, f, ensure_ascii=False, indent=1)
        f.write("\n")
    for file, cases in (("chats.jsonl", chat_cases()), ("snippets.jsonl", snippet_cases())):
        cases = [c for c in cases if c is not None]
        with open(os.path.join(out, file), "w", encoding="utf-8", newline="") as f:
            for case in cases:
                f.write(json.dumps(case, ensure_ascii=False) + "\n")
        errors = sum("error" in c for c in cases)
        print(f"{file}: {len(cases)} cases, {errors} of them errors")


if __name__ == "__main__":
    main()
