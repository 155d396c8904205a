#!/usr/bin/env python3
"""Writes tests/golden/chat/prompts.jsonl: chat bodies with the prompt that transformers makes of them.

  tools/make_chat_goldens.py [FILE]     needs transformers

One line is {"template", "body", "text", "ids"}: text and ids are apply_chat_template of a
PreTrainedTokenizerFast over the model that tools/make_chat_model.py writes, or "error": what
raise_exception said. What servers do to a body before that is done here too: arguments of tool calls
are parsed, parts of a content are joined by line breaks for a template that prints content as it is,
and "developer" is "system" to a template that does not know it.
"""
import copy
import json
import os
import sys
import tempfile

import jinja2
from transformers import AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import make_chat_model  # noqa: E402

OUT = os.path.join(HERE, "..", "tests", "golden", "chat", "prompts.jsonl")
NAMES = ["qwen3", "llama3_1", "gemma3", "mistral_v3"]
TAKE_PARTS = ["gemma3"]

ADD = {"type": "function", "function": {
    "name": "add", "description": "Adds <two> \"numbers\" & more: Zürich.",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                   "required": ["a", "b"]}}}
CALL = {"id": "abcdefghi", "type": "function",
        "function": {"name": "add", "arguments": "{\"a\": 1, \"b\": [2.5, null, \"x\"]}"}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


HELLO = [say("user", "Hello, which berth holds tea?")]
TURNS = [say("user", "One?"), say("assistant", " First answer.\n"), say("user", "Two? 999 and 12345")]
BODIES = [
    {"messages": HELLO},
    {"messages": [say("system", "You are brief."), *HELLO]},
    {"messages": [say("developer", "You are brief."), *HELLO]},
    {"messages": TURNS},
    {"messages": [say("system", " Be kind.\n"), *TURNS], "add_generation_prompt": False},
    {"messages": [say("user", "ß 日本語 \U0001f600 <b> 'q' \"d\" \\ \t é")]},
    {"messages": [say("user", "<|im_end|> </think> [/INST] <end_of_turn> <|eot_id|>")]},
    {"messages": [say("user", [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}])]},
    {"messages": [*TURNS, say("assistant", "I think that")], "continue_final_message": True},
    {"messages": HELLO, "chat_template_kwargs": {"enable_thinking": False, "date_string": "1 May 2025"}},
    {"messages": HELLO, "tools": [ADD], "tool_choice": "none"},
    {"messages": [say("user", "1+2?"), say("assistant", None, tool_calls=[CALL]),
                  say("tool", "3.5", tool_call_id="abcdefghi", name="add"), say("assistant", "It is 3.5."),
                  say("user", "Sure?")], "tools": [ADD], "tool_choice": "none"},
    {"messages": [say("user", "2+2?"), say("assistant", "4", reasoning_content="add them"), say("user", "3+3?")]},
    {"messages": [say("user", "2+2?"), say("assistant", "<think>\nadd\n</think>\n\n4"), say("user", "3+3?")]},
    {"messages": [say("assistant", "I begin"), say("user", "ok")]},
    {"messages": [say("user", "a"), say("user", "b")]},
]


def shaped(template, name, messages):
    """The messages as a template gets them."""
    messages = copy.deepcopy(messages)
    for message in messages:
        if isinstance(message["content"], list) and name not in TAKE_PARTS:
            message["content"] = "\n".join(part["text"] for part in message["content"])
        if message["role"] == "developer" and "developer" not in template:
            message["role"] = "system"
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return messages


def judge(tokenizer, name, body):
    keep = body.get("continue_final_message", False)
    kwargs = {"tools": body.get("tools"), "continue_final_message": keep,
              "add_generation_prompt": body.get("add_generation_prompt", not keep),
              **body.get("chat_template_kwargs", {})}
    messages = shaped(tokenizer.chat_template, name, body["messages"])
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **kwargs)
    except jinja2.exceptions.TemplateError as error:
        return {"template": name, "body": body, "error": str(error)}
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **kwargs)
    return {"template": name, "body": body, "text": text, "ids": ids}


def main(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file, tempfile.TemporaryDirectory() as temporary:
        for name in NAMES:
            directory = os.path.join(temporary, name)
            make_chat_model.main(directory, name)
            tokenizer = AutoTokenizer.from_pretrained(directory)
            cases = [judge(tokenizer, name, body) for body in BODIES]
            for case in cases:
                file.write(json.dumps(case, ensure_ascii=False) + "\n")
            print(f"{name}: {len(cases)} bodies, {sum('error' in case for case in cases)} refused")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.normpath(OUT))
