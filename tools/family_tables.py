#!/usr/bin/env python3
"""Every family against transformers, as Markdown tables: tools/family_tables.py [BUILD] > docs/family-tables.md

What transformers computed is in tests/golden/models (made by make_model_goldens.py). The first table is what
the unit test says of one engine, the second asks the real binaries: prompts through prefill, UCX and decode,
some of which hit what earlier ones left in the caches. Exits 1 if anything differs.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOGITS = re.compile(r"^(\S+) on cpu: logits within (\S+) \(tolerance (\S+)\), greedy decided (\d+) of (\d+)$")
ROUNDED = re.compile(r"^(\S+) on cpu, KV bf16: largest (\S+) of (\S+), rms (\S+) of (\S+)$")


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*cells):
    row(*cells)
    row("---", *["---:"] * (len(cells) - 1))


def engine_table(build):
    """One engine, cpu backend: true if the test passes."""
    done = subprocess.run([str(build / "tests" / "test_golden")], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    lines = (done.stdout + done.stderr).splitlines()
    rounded = {match[1]: match for match in map(ROUNDED.match, lines) if match}
    print("## One engine\n\nLogits of 1,000 positions: the largest difference from transformers in float32, KV in "
          "f32, and what the\ntest allows; with KV in bf16 the root mean square of the differences, ours and that of "
          "transformers with\nits cache rounded. Greedy tokens after 6 prompts: how many of them a rounding "
          "could not turn; these are equal.\n")
    head("model", "largest", "allowed", "bf16 rms", "transformers' own", "greedy")
    for match in filter(None, map(LOGITS.match, lines)):
        name, largest, allowed, decided, of = match.groups()
        row(name, largest, allowed, rounded[name][4], rounded[name][5], f"{decided} of {of}")
    return done.returncode == 0


def fleet_table():
    """Through prefill, UCX and decode: true if all tokens are right."""
    sys.path.insert(0, str(ROOT / "tests" / "e2e"))
    import test_families as families
    from fleet import Fleet, metric
    print("\n## Prefill, UCX, decode\n\nPrompts of " + ", ".join(map(str, families.ORDER)) + " tokens, one after the "
          "other, each a beginning of the longest: tokens that\nare equal to those of transformers, tokens of the "
          "prompts that came from a cache, and what UCX carried.\n")
    head("model", "tokens equal", "of", "from caches", "KiB over UCX")
    right = True
    for name in families.NAMES:
        golden, model = families.load(name)
        runs = {run["prompt_tokens"]: run for run in golden["greedy"]}
        total, equal, hits = 0, 0, 0
        with Fleet(model, kv_blocks=128, options=families.OPTIONS) as fleet:
            for n_prompt in families.ORDER:
                total += len(runs[n_prompt]["tokens"])
                try:
                    cached, n = families.check(fleet, golden, runs[n_prompt])
                except AssertionError as error:
                    print(f"{name}: {error}", file=sys.stderr)
                    right = False
                    continue
                equal, hits = equal + n, hits + cached
            fleet.settled()
            sent = metric(fleet.metrics(), "sluice_kv_transfer_bytes_total", side="recv")
        row(name, equal, total, hits, f"{sent / 1024:.0f}")
    return right


def main(build):
    os.environ["SLUICE_BUILD"] = str(build)
    print("# Families against transformers\n\nBy `tools/family_tables.py`. Models are tiny and random: every part of "
          "a family is in them, and matters.\n")
    sys.exit(not all([engine_table(build), fleet_table()]))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve())
