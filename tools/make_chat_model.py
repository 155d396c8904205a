#!/usr/bin/env python3
"""Writes a model for tests of chats: the recall model, with a template and the marks that it needs.

    make_chat_model.py DIR TEMPLATE [--special-thinking]

TEMPLATE is a name in tests/golden/templates, or "recall" for the model's own. With such a template the
marks of the families are tokens: they take the places of the highest numbers, whose weights they get.
"recall" writes <think> in a comment only, so that those marks are several tokens; with
--special-thinking they are tokens that a detokenizer leaves out.
"""
import os
import sys

import checkpoint
import make_recall

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPLATES = os.path.join(HERE, "..", "tests", "golden", "templates")
THINKING = ["<think>", "</think>"]
MARKS = [*THINKING, "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
         "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]


def with_marks(tokenizer, marks, special):
    """The tokenizer with `marks` as added tokens in the places of the numbers 999, 998, …"""
    vocab = tokenizer["model"]["vocab"]
    numbers = [str(999 - n) for n in range(len(marks))]
    tokenizer["model"]["merges"] = [m for m in tokenizer["model"]["merges"] if "".join(m) not in numbers]
    for mark, number in zip(marks, numbers):
        vocab[mark] = vocab.pop(number)
        tokenizer["added_tokens"].append({
            "id": vocab[mark], "content": mark, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": special or mark not in THINKING})
    tokenizer["added_tokens"].sort(key=lambda token: token["id"])
    return tokenizer


def main(directory, name, *options):
    special = "--special-thinking" in options
    make_recall.main(directory)
    tokenizer = make_recall.make_tokenizer()
    if name == "recall":
        template = make_recall.CHAT_TEMPLATE.rstrip("\n") + "{# <think> … </think> #}\n"
        tokenizer = with_marks(tokenizer, THINKING, True) if special else tokenizer
    else:
        with open(os.path.join(TEMPLATES, name + ".jinja"), encoding="utf-8") as file:
            template = file.read()
        tokenizer = with_marks(tokenizer, MARKS, special)
    config = checkpoint.tokenizer_config(make_recall.BOS, make_recall.EOS, make_recall.CONTEXT)
    del config["chat_template"]
    checkpoint.write_json(os.path.join(directory, "tokenizer.json"), tokenizer)
    checkpoint.write_json(os.path.join(directory, "tokenizer_config.json"), config)
    with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(template)


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) >= 3 else sys.exit(__doc__)
