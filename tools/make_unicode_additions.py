#!/usr/bin/env python3
"""Writes src/text/unicode_additions.c: what PCRE2 and utf8proc of Debian 12 (Unicode 14) do not know
and the Python package `tokenizers` does, or the other way about.

    tools/make_unicode_additions.py > src/text/unicode_additions.c

Asks `tokenizers` itself, by splitting every code point with its own regular expressions, so that the
table follows what it does and not what a standard says. Needs a Python whose unicodedata is 14.0.
"""
import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf".split()


def matching(pattern):
    """Code points that a one-character pattern matches."""
    splitter = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    for at in range(0, len(CODES), 4096):
        part = CODES[at:at + 4096]
        kept = set("".join(s for s, _ in splitter.pre_tokenize_str("".join(map(chr, part)))))
        found.update(c for c in part if chr(c) not in kept)
    return found


def digits_beyond(known):
    """Numeric characters of the Digits pre-tokenizer (Rust's own tables) that are not in `known`."""
    found = set()
    digits = pre_tokenizers.Digits(True)
    rest = [c for c in CODES if c not in known]
    for at in range(0, len(rest), 64):
        text = "a" + "a".join(map(chr, rest[at:at + 64])) + "a"
        found.update(ord(s) for s, _ in digits.pre_tokenize_str(text) if len(s) == 1 and s != "a")
    return found


def unlike_punctuation():
    """Where the Punctuation pre-tokenizer (an older table, and ASCII symbols) differs from P*."""
    found = set()
    splitter = pre_tokenizers.Punctuation("removed")
    for at in range(0, len(CODES), 4096):
        part = CODES[at:at + 4096]
        kept = set("".join(s for s, _ in splitter.pre_tokenize_str("".join(map(chr, part)))))
        found.update(c for c in part
                     if (unicodedata.category(chr(c))[0] == "P") == (chr(c) in kept) and c >= 0x80)
    return found


def unknown_to_normalizer(newer):
    """Characters that the normalizer of `tokenizers` takes for inert starters."""
    nfc, nfd = normalizers.NFC(), normalizers.NFD()
    found = set(newer)
    for code in CODES:
        char = chr(code)
        decomposition = unicodedata.decomposition(char)
        if not decomposition:
            for text in ("a" + char + "\u0334", "a\u0345" + char):
                if unicodedata.normalize("NFD", text) != nfd.normalize_str(text):
                    found.add(code)
        elif not decomposition.startswith("<"):
            parts = [int(part, 16) for part in decomposition.split()]
            text = "".join(map(chr, parts))
            if unicodedata.normalize("NFC", text) != nfc.normalize_str(text):
                found.update(parts + [code])
    return found


def unknown_to_compatibility(inert):
    """Characters that have a compatibility decomposition here, and none there."""
    nfkd = normalizers.NFKD()
    return {c for c in CODES
            if c not in inert and unicodedata.normalize("NFKD", chr(c)) != nfkd.normalize_str(chr(c))}


def newer_lower_case():
    lower = normalizers.Lowercase()
    found = []
    for code in CODES:
        theirs = lower.normalize_str(chr(code))
        if theirs != chr(code).lower() and code != 0x3A3: # a final sigma is no matter of one character
            assert len(theirs) == 1, hex(code)
            found.append((code, ord(theirs)))
    return found


def ranges(codes, label=lambda code: None):
    out = []
    for code in sorted(codes):
        if out and out[-1][1] == code - 1 and out[-1][2] == label(code):
            out[-1][1] = code
        else:
            out.append([code, code, label(code)])
    return out


def main():
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    category, changed = {}, {}
    for name in CATEGORIES:
        mine = {c for c in CODES if unicodedata.category(chr(c)) == name}
        theirs = matching(r"\p{%s}" % name)
        changed.update((c, name) for c in mine - theirs)
        category.update((c, name) for c in theirs - mine)
    # Some marks moved between Mn and Mc: no tokenizer's pattern tells these apart, so nothing else may.
    assert all(category[c][0] == name[0] == "M" for c, name in changed.items()), changed
    for code in changed:
        del category[code]
    numeric = {c for c in CODES if unicodedata.category(chr(c))[0] == "N"}
    numeric |= {c for c in category if category[c][0] == "N"}

    inert = unknown_to_normalizer(category)
    out = ['/* Made by tools/make_unicode_additions.py; see there. */',
           '#include "text/unicode_additions.h"', '']
    table = ranges(category, lambda c: category[c])
    out.append("const struct text_category_range text_newer_categories[] = {")
    out += ['    {0x%05x, 0x%05x, "%s"},' % tuple(r) for r in table]
    out += ["};", "const size_t text_n_newer_categories =",
            "    sizeof(text_newer_categories) / sizeof(text_newer_categories[0]);", ""]
    for name, codes in (("newer_digits", digits_beyond(numeric)),
                        ("other_punctuation", unlike_punctuation()),
                        ("inert_starters", inert),
                        ("inert_compatibility", unknown_to_compatibility(inert))):
        out.append("const struct text_range text_%s[] = {" % name)
        out += ["    {0x%05x, 0x%05x}," % tuple(r[:2]) for r in ranges(codes)]
        out += ["};", "const size_t text_n_%s = sizeof(text_%s) / sizeof(text_%s[0]);" %
                (name, name, name), ""]
    pairs = newer_lower_case()
    out += ["const struct text_case_pair text_newer_lower[] = {"]
    out += ["    {0x%05x, 0x%05x}," % pair for pair in pairs]
    out += ["};", "const size_t text_n_newer_lower = sizeof(text_newer_lower) / sizeof(text_newer_lower[0]);", ""]
    sys.stdout.write("\n".join(out[:-1]) + "\n")


if __name__ == "__main__":
    main()
