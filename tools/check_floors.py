#!/usr/bin/env python3
"""Checks the rules of the house that a compiler does not: floors, banned calls, sizes, last words.

  tools/check_floors.py               checks the tree, prints file:line: message, exits 1 if there is any
  tools/check_floors.py --self-test   shows every rule firing on a bad sample, and none on a good one

The floors are the table of section 3 of the architecture: a folder under src/ includes only itself
and what is named here. Deviations are listed below with their reasons, not in the files.
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLOORS = {
    "base": "",
    "device": "base",
    "proto": "base",
    "text": "base",
    "grammar": "base",
    "kv": "base",
    "kernels": "base device",
    "transfer": "base device",
    "model": "base device kv kernels grammar",
    "serve": "base proto",
    "worker": "base device proto kv transfer model serve",
    "prefill": "base device proto kv transfer model serve worker",
    "decode": "base device proto kv transfer model serve worker",
    "coordinator": "base proto text kv serve",
}
FLOORS = {folder: {folder, *below.split()} for folder, below in FLOORS.items()}

# (pattern, what to say, files it does not count for). Names are matched as whole words before "(".
BANNED = [
    (r"\b(sprintf|vsprintf)\s*\(", "use snprintf or sl_buf", ()),
    (r"\b(strcpy|stpcpy|strcat|gets)\s*\(", "use sl_buf, snprintf or memcpy with a bound", ()),
    (r"\bstrtok(_r)?\s*\(", "use strcspn, strchr", ()),
    (r"\b(atoi|atol|atoll|atof)\s*\(", "use base/options or sl_json_*, which check", ()),
    (r"\b(rand|srand|random|drand48)\s*\(", "use a seeded generator", ()),
    (r"\balloca\s*\(", "use an arena", ()),
    (r"\b(malloc|calloc|realloc|free|strdup|strndup|asprintf|vasprintf|posix_memalign|aligned_alloc)"
     r"\s*\(", "use sl_* of base/mem.h", ("src/base/mem.c",)),
    (r"\b(secure_)?getenv\s*\(", "use an option (base/options)", ("src/base/options.c",)),
    (r"\b(clock_gettime|gettimeofday|time|clock|nanosleep|usleep|sleep|clock_nanosleep)\s*\(",
     "use base/clock.h", ("src/base/clock.c",)),
    (r"__rdtsc\s*\(", "use base/clock.h", ()),
]
# In tests only what is dangerous itself; a test may take the clock or the heap of the C library.
BANNED_IN_TESTS = BANNED[:6]
LAST_WORDS = re.compile(r"\b(FIXME|TODO|XXX|HACK)\b")

LINES_MAX = 1200  # of a source file
HEADER_LINES_MAX = 250
COLUMNS_MAX = 120  # clang-format holds code to 100; it does not see comments
LONGER = {  # path: (lines, reason)
    "src/kernels/cpu/simd.h": (400, "inline helpers of two instruction sets, kept side by side"),
}
FUNCTION_LINES_MAX = 120  # 60 asks for thought, 100 for a reason

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
SOURCE = (".c", ".h", ".cu", ".cuh")


def without_comments(text):
    """The text with comments and literals blanked, line breaks and columns kept."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match.group(0))
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    return token.sub(blank, text)


def check_includes(path, lines):
    folder = path.split("/")[1]
    if folder not in FLOORS:
        yield 1, f"folder src/{folder} is not in the table of floors"
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        name = match.group(1)
        if "/" not in name:
            yield number, f'#include "{name}": name the folder, as in "base/status.h"'
            continue
        below = name.split("/")[0]
        if below not in FLOORS[folder]:
            allowed = " ".join(sorted(FLOORS[folder]))
            yield number, f'#include "{name}": {folder} may include only {allowed}'


def check_banned(path, code_lines, rules):
    for number, line in enumerate(code_lines, 1):
        for pattern, advice, exempt in rules:
            match = re.search(pattern, line)
            if not match or path in exempt:
                continue
            before = line[:match.start()].rstrip()
            if before.endswith((".", "->")):
                continue  # a member of that name
            name = match.group(0).split("(")[0].strip()
            yield number, f"{name}: {advice}"


def check_sizes(path, lines):
    limit = HEADER_LINES_MAX if path.endswith((".h", ".cuh")) else LINES_MAX
    limit = LONGER.get(path, (limit, ""))[0]
    if len(lines) > limit:
        yield len(lines), f"{len(lines)} lines; at most {limit}"
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS_MAX:
            yield number, f"{len(line)} columns; at most {COLUMNS_MAX}"


def check_functions(code_lines):
    start = None
    for number, line in enumerate(code_lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start is not None:
            if number - start - 1 > FUNCTION_LINES_MAX:
                yield start, f"a function of {number - start - 1} lines; at most {FUNCTION_LINES_MAX}"
            start = None


def check_head(path, text):
    if path.endswith((".c", ".cu")) and not text.startswith("/*"):
        yield 1, "a source file opens with a comment that says what it owns"


def check_file(path, text):
    """Messages of one file; `path` is relative to the root, with slashes."""
    lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    code_lines = without_comments(text).split("\n")
    in_src = path.startswith("src/")
    if in_src:
        yield from check_includes(path, lines)
        yield from check_functions(code_lines)
        yield from check_head(path, text)
    yield from check_banned(path, code_lines, BANNED if in_src else BANNED_IN_TESTS)
    yield from check_sizes(path, lines)
    for number, line in enumerate(lines, 1):
        match = LAST_WORDS.search(line)
        if match:
            yield number, f"{match.group(0)}: do it, or write an issue"


def sources(root):
    for top in ("src", "tests", "bench"):
        for folder, folders, files in os.walk(os.path.join(root, top)):
            folders.sort()
            for name in sorted(files):
                if name.endswith(SOURCE):
                    yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def check_tree(root):
    count = 0
    messages = []
    for path in sources(root):
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        count += 1
        messages += [f"{path}:{number}: {message}" for number, message in check_file(path, text)]
    return count, messages


GOOD = """/* A good file: it says free(), sprintf() and /tmp only here. */
#include "kv/pool.h"

#include "base/mem.h"

#include <stdlib.h>

static void good(struct table *t)
{
    t->free(t);
    sl_free(t);
    printf("malloc(1) in a text");
    pool_free(t);
}
"""

# (path, text, part of the message that must come)
BAD = [
    ("src/kv/a.c", '/**/\n#include "device/device.h"\n', "kv may include only base kv"),
    ("src/kv/a.c", '/**/\n#include "pool.h"\n', "name the folder"),
    ("src/base/a.h", '#include "kv/pool.h"\n', "base may include only base"),
    ("src/coordinator/a.c", '/**/\n#include "transfer/stream.h"\n', "coordinator may include only"),
    ("src/extra/a.c", "/**/\n", "not in the table of floors"),
    ("src/kv/a.c", "int a;\n", "opens with a comment"),
    ("src/kv/a.c", "/**/\n" + "\n" * LINES_MAX, f"at most {LINES_MAX}"),
    ("src/kv/a.h", "\n" * (HEADER_LINES_MAX + 1), f"at most {HEADER_LINES_MAX}"),
    ("src/kv/a.c", "/**/\n/* " + "x" * COLUMNS_MAX + " */\n", f"columns; at most {COLUMNS_MAX}"),
    ("src/kv/a.c", "/**/\nvoid f(void)\n{\n" + "    g();\n" * 121 + "}\n", "a function of 121"),
    ("src/kv/a.c", "/**/\n/* FIXME later */\n", "FIXME"),
    ("tests/unit/kv/a.c", "/* TODO */\n", "TODO"),
    ("tests/unit/kv/a.c", "int a = atoi(b);\n", "atoi"),
    ("src/kv/a.c", "/**/\nx = free(y);\n", "use sl_"),
    ("src/serve/a.c", "/**/\nx = getenv(y);\n", "use an option"),
    ("src/kv/a.c", "/**/\nx = time(NULL);\n", "use base/clock.h"),
    ("src/kernels/cpu/a.c", "/**/\nx = __rdtsc();\n", "use base/clock.h"),
] + [("src/kv/a.c", f"/**/\nx = {name}(y);\n", f"{name}: use") for name in
     "sprintf vsprintf strcpy strcat strtok strtok_r atoi atol rand random alloca malloc calloc realloc "
     "strdup asprintf secure_getenv clock_gettime gettimeofday usleep".split()]


def self_test():
    messages = list(check_file("src/kv/good.c", GOOD))
    assert not messages, f"the good sample: {messages}"
    assert not list(check_file("src/base/mem.c", "/**/\nfree(p);\n")), "mem.c may call free"
    for path, text, part in BAD:
        found = [message for _, message in check_file(path, text)]
        assert any(part in message for message in found), f"{path}: {text[:60]!r}: {found}"
    fired = [rule for rule in BANNED if any(re.search(rule[0], without_comments(text))
                                            for _, text, _ in BAD)]
    assert len(fired) == len(BANNED), "a banned call has no bad sample"
    print(f"self-test: {len(BAD)} bad samples refused, 1 good one passed")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    count, messages = check_tree(ROOT)
    for message in messages:
        print(message)
    print(f"floors: {count} files, {len(messages)} messages")
    return 1 if messages or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
