#!/usr/bin/env python3
"""Tokenizers and chat templates against what models' authors run: the Python packages `tokenizers`, and
jinja2 as `transformers` configures it. Prints Markdown tables; exits 1 if anything differs.

    make tables                                        builds, installs the packages, writes build/text-tables.md
    tools/text_tables.py [--build build] [--count N] [--seed S] [--tokenizers DIR...]

Tokenizers are those of tests/golden/tokenizers (every kind of pipeline that the families ship, trained on
texts of this tree), or directories with a tokenizer.json that are given: a model's own, say. Templates are
those of tools/template_sources.py.
"""
import argparse
import collections
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

from compare_tokenizer import Sluice, Tally, check_ids, check_texts, n_ids_of, open_theirs
from make_template_goldens import CONVERSATIONS, SNIPPET_KWARGS, SPECIALS, TOOLS, chat_cases, snippet_cases
from template_sources import TEMPLATES
from tokenizer_texts import CORPORA, corpus, id_lists, texts

ROOT = pathlib.Path(__file__).resolve().parents[1]


def row(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(cells):
    row(cells)
    row(["---"] + ["---:"] * (len(cells) - 1))


def shown(tally):
    return f"{tally.checks}" if tally.different == 0 else f"**{tally.different} of {tally.checks} differ**"


def tokenizer_row(directory, program, count, seed):
    """One tally for each corpus, for texts with the tokenizer's own added tokens, for random ids."""
    theirs, ours = open_theirs(str(directory)), Sluice(program, str(directory))
    tokens = [t.content for t in theirs.get_added_tokens_decoder().values()]
    tallies = []
    for name in CORPORA:
        tally = Tally(f"{directory.name}, {name}")
        inputs = corpus(name, seed, count)
        check_texts(theirs, ours, inputs, tally)
        check_ids(theirs, ours, [theirs.encode(text).ids for text in inputs], tally)
        tallies.append(tally)
    tallies.append(Tally(f"{directory.name}, added tokens"))
    check_texts(theirs, ours, texts(seed, count, tokens), tallies[-1])
    tallies.append(Tally(f"{directory.name}, random ids"))
    check_ids(theirs, ours, id_lists(seed, count, n_ids_of(theirs)), tallies[-1])
    tallies[-1]("exit status", "", 0, ours.close())
    row([directory.name] + [shown(tally) for tally in tallies])
    return tallies


def tokenizer_table(directories, program, count, seed):
    print("## Tokenizer × corpus\n")
    print(f"Comparisons with `tokenizers` {importlib.metadata.version('tokenizers')} that came out equal: the ids of each of "
          f"{count} texts a corpus (seed {seed}),\nwithout and with special tokens, and the text of those ids, keeping and skipping "
          "special tokens, by the\nwhole and token by token. Added tokens: hard texts with the tokenizer's own added tokens strewn in; "
          "random\nids: lists of ids that no text gave.\n")
    head(["tokenizer", *CORPORA, "added tokens", "random ids"])
    return [tally for directory in directories for tally in tokenizer_row(directory, program, count, seed)]


class Renderer:
    """The filter tests/unit/text/render.c."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        encoding="utf-8")

    def render(self, template, case):
        line = {"template": template, "messages": CONVERSATIONS[case["chat"]], "add": case.get("add", False),
                "continue": case.get("continue", False), "kwargs": {**SPECIALS, **case.get("kwargs", {})}}
        if "tools" in case:
            line["tools"] = TOOLS[:case["tools"]]
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        return self.process.wait()


def check_case(renderer, template, case, tally):
    """Equal text; the same words of raise_exception; an error where jinja2 has another one."""
    have = renderer.render(template, case)
    if "error" not in case:
        want = {"text": case["want"], "code": "OK"}
    elif case["error"] == "raise":
        want = {"error": case["want"], "code": "INVALID"}
    else:
        want, have = "an error: " + case["want"], have if "text" in have else "an error: " + case["want"]
    given = {k: v for k, v in case.items() if k not in ("template", "want", "error")}
    tally("render", given, want, have)


def template_table(program):
    print("\n## Template × conversation\n")
    print(f"Comparisons with jinja2 {importlib.metadata.version('jinja2')} as `transformers` "
          f"{importlib.metadata.version('transformers')} configures it that came out equal: each conversation\nwith and without "
          "the generation prompt, tools, `enable_thinking`, a date, `continue_final_message`. Where a\ntemplate refuses a "
          "conversation (`raise_exception`) the words must be the same.\n")
    renderer = Renderer(program)
    tallies = collections.defaultdict(lambda: Tally("template"))
    for case in chat_cases():
        if case is not None:
            tally = tallies[case["template"], case["chat"]]
            tally.name = case["template"]
            check_case(renderer, TEMPLATES[case["template"]], case, tally)
    head(["template", *(name.replace("_", " ") for name in CONVERSATIONS)])
    for template in TEMPLATES:
        row([template, *(shown(tallies[template, chat]) for chat in CONVERSATIONS)])
    snippets = Tally("snippet")
    for case in snippet_cases():
        check_case(renderer, case["template"], {**case, "chat": "turns", "kwargs": SNIPPET_KWARGS}, snippets)
    snippets("exit status", "", 0, renderer.close())
    print(f"\nExpressions and statements one by one, errors among them: {shown(snippets)}.")
    return [*tallies.values(), snippets]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--count", type=int, default=300, help="texts of each corpus")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizers", nargs="+", type=pathlib.Path,
                        default=sorted((ROOT / "tests/golden/tokenizers").iterdir()))
    args = parser.parse_args()
    programs = [os.path.join(args.build, "tests", name) for name in ("tokenize", "render")]
    print("# Text against its references\n")
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True,
                            check=False).stdout.strip()
    print(f"{datetime.date.today()}, commit {commit}. By `make tables`: `tools/text_tables.py --count {args.count} --seed {args.seed}`. A cell is the number of comparisons, "
          "all equal, or says how\nmany differ.\n")
    tallies = tokenizer_table(args.tokenizers, programs[0], args.count, args.seed) + template_table(programs[1])
    different = sum(tally.different for tally in tallies)
    print(f"\n{sum(tally.checks for tally in tallies)} comparisons, {different} differences.")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
