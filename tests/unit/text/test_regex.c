/* The translation of patterns: what passes finds what Oniguruma finds, the rest is refused. */
#include "support/support.h"
#include "text/chars.h"
#include "text/regex.h"
#include "text/unicode_additions.h"

static const struct {
    const char *pattern;
    sl_status code;
} patterns[] = {
    {"a+?b*+c?+d{2,3}?e{,4}f{5,}", SL_OK},
    {"(?:a|b)(?=c)(?!d)(?<=e)(?<!f)(?>g)(h)", SL_OK},
    {"[^\\s\\p{L}\\p{N}]|\\S+|[\\s\\S]|\\P{L}|\\p{^L}", SL_OK},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)", SL_OK},
    {"\\x{4e00}-\\u9fa5|[一-龥]", SL_OK},
    {"\\p{Han}|\\w\\W\\d\\D|\\.\\-\\/\\'", SL_OK},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+", SL_OK}, /* DeepSeek */
    {"[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\s++$|\\s*[\\r\\n]", SL_OK},   /* GPT-4 */
    {"é+x|漢*字{2,}!|[一-龥]+y", SL_OK},
    {"\\h", SL_UNSUPPORTED}, /* hexadecimal to one, blank to the other */
    {"\\R", SL_UNSUPPORTED},
    {"\\b", SL_UNSUPPORTED},
    {"\\1", SL_UNSUPPORTED},
    {"\\pL", SL_UNSUPPORTED},
    {"\\p{Greek}", SL_UNSUPPORTED},
    {"\\p{Cn}", SL_UNSUPPORTED},
    {"[a[bc]]", SL_UNSUPPORTED}, /* a union to one, characters to the other */
    {"[a&&b]", SL_UNSUPPORTED},
    {"[\\W]", SL_UNSUPPORTED},
    {"[\\P{L}]", SL_UNSUPPORTED},
    {"[+-\\s]", SL_UNSUPPORTED},
    {"[]a]", SL_UNSUPPORTED},
    {"a{2}+", SL_UNSUPPORTED}, /* possessive to one, repeated to the other */
    {"a{2}?", SL_UNSUPPORTED},
    {"a{x", SL_UNSUPPORTED},
    {"a**", SL_UNSUPPORTED},
    {"(?i)a", SL_UNSUPPORTED},
    {"(?m:.)", SL_UNSUPPORTED},
    {"(?<n>a)", SL_UNSUPPORTED},
    {"(?i:ss)", SL_UNSUPPORTED}, /* folds to one character */
    {"(?i:é)", SL_UNSUPPORTED},
    {"(?i:\\p{Lu})", SL_UNSUPPORTED},
    {"\\xe9", SL_UNSUPPORTED}, /* a byte to one, a character to the other */
    {"(", SL_INVALID},
    {")", SL_INVALID},
    {"[a", SL_INVALID},
    {"*a", SL_UNSUPPORTED},
    {"\\", SL_UNSUPPORTED},
};

static void test_patterns(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(patterns) / sizeof(patterns[0]); i++) {
        struct text_regex *regex = NULL;
        sl_status status = text_regex_compile("file", "field", patterns[i].pattern, &regex);
        if (status != patterns[i].code)
            fail_msg("%s: %s %s", patterns[i].pattern, sl_status_name(status), sl_error());
        if (status != SL_OK)
            assert_non_null(strstr(sl_error(), "file: field"));
        text_regex_destroy(regex);
    }
}

/* How many code points a one-character pattern matches. */
static uint32_t count(const char *pattern)
{
    struct text_regex *regex = NULL;
    struct text_regex_match *match = NULL;
    uint32_t n = 0;

    assert_ok(text_regex_compile("file", "field", pattern, &regex));
    assert_ok(text_regex_match_create(TEXT_HARD_STEPS_MAX, &match));
    for (uint32_t code = 0; code < 0x110000; code++) {
        char utf8[4];
        bool found;
        size_t start, end;
        if (code >= 0xd800 && code < 0xe000)
            continue;
        unsigned bytes = text_char_put(code, utf8);
        assert_ok(text_regex_find(regex, match, utf8, bytes, 0, &found, &start, &end));
        n += found && start == 0 && end == bytes;
    }
    text_regex_match_destroy(match);
    text_regex_destroy(regex);
    return n;
}

/* Sizes of Oniguruma's classes, as the Python package `tokenizers` 0.23 has them. */
static void test_classes(void **state)
{
    (void)state;
    assert_int_equal(count("\\s"), 25);
    assert_int_equal(count("\\S"), 0x110000 - 0x800 - 25);
    assert_int_equal(count("[\\s]"), 25);
    assert_int_equal(count("\\p{L}"), 141028);
    assert_int_equal(count("\\P{L}"), 0x110000 - 0x800 - 141028);
    assert_int_equal(count("[^\\p{L}]"), 0x110000 - 0x800 - 141028);
    assert_int_equal(count("\\p{N}"), 1911);
    assert_int_equal(count("\\d"), 760);
    assert_int_equal(count("\\w"), 144671);
    assert_int_equal(count("\\W"), 0x110000 - 0x800 - 144671);
    assert_int_equal(count("[\\w]"), 144665); /* yes */
    assert_int_equal(count("[^\\w]"), 0x110000 - 0x800 - 144665);
    assert_int_equal(count("\\p{M}"), 2501);
    assert_int_equal(count("\\p{P}"), 855);
    assert_int_equal(count("\\p{S}"), 8514);
    assert_int_equal(count("\\p{Lu}"), 1858);
    assert_int_equal(count("\\p{Ll}"), 2258);
    assert_int_equal(count("\\p{Lo}"), 136477);
    assert_int_equal(count("\\p{Han}"), 99030);
    assert_int_equal(count("(?i:s)"), 3);
    assert_int_equal(count("(?i:[sdmt])"), 9);
    assert_int_equal(count("\\v"), 1);
    assert_int_equal(count("."), 0x110000 - 0x800 - 1);
}

/* The properties outside of patterns. */
static void test_properties(void **state)
{
    uint32_t spaces = 0, numeric = 0, words = 0;

    (void)state;
    for (uint32_t code = 0; code < 0x110000; code++) {
        spaces += text_char_is_space(code);
        numeric += text_char_is_numeric(code);
        words += text_char_is_word(code);
    }
    assert_int_equal(spaces, 25);
    assert_int_equal(numeric, 1924);
    assert_int_equal(words, 144665 + 2); /* and the joiners */
    for (uint32_t byte = 0; byte < 256; byte++)
        assert_int_equal(text_char_to_byte(text_byte_to_char((uint8_t)byte)), byte);
    assert_int_equal(text_byte_to_char(' '), 0x120);
    assert_int_equal(text_byte_to_char('\n'), 0x10a);
    assert_int_equal(text_byte_to_char(0xad), 0x143);
    assert_int_equal(text_char_to_byte(0x144), -1);
    assert_int_equal(text_char_to_byte(0xad), -1);
}

/* ---- work ---- */

#define STEPS_MAX 20000u

struct cost {
    uint64_t steps, scanned;
};

/* Of all matches of the pattern in `bytes` of the unit, which ends in `code`. */
static struct cost cost_of(const char *pattern, const char *unit, size_t bytes, sl_status code)
{
    size_t n = strlen(unit), from = 0, start = 0, end = 0;
    char *text = sl_zalloc(bytes + n, 1);
    struct text_regex *regex;
    struct text_regex_match *match;
    sl_status status = SL_OK;
    bool found = true;

    for (size_t at = 0; at < bytes; at += n)
        memcpy(text + at, unit, n);
    bytes = bytes / n * n;
    assert_ok(text_regex_compile("test", "pattern", pattern, &regex));
    assert_ok(text_regex_match_create(STEPS_MAX, &match));
    while (found && from < bytes && status == SL_OK) {
        status = text_regex_find(regex, match, text, bytes, from, &found, &start, &end);
        from = end > from ? end : from + 1;
    }
    if (status != code)
        fail_msg("%s: %s", pattern, sl_status_name(status));
    const struct cost cost = {text_regex_match_steps(match), text_regex_match_scanned(match)};
    text_regex_match_destroy(match);
    text_regex_destroy(regex);
    sl_free(text);
    return cost;
}

/* What many places need is added up, over the places of a search and over searches, to a bound in proportion
 * to the text: a run that goes beyond it has twice as many at the most. */
static void test_hard_everywhere(void **state)
{
    static const struct {
        const char *pattern, *unit;
    } rows[] = {
        /* none matches */
        {"(?:a?){24}[xy]", "a"},
        {"(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"},
        {"(b|bb)+$", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbba"},
        /* each place is hard, none is too hard */
        {"(?:a?){13}[xy]", "a"},
        {"a(?=(?:a?){13}[xy])|a", "a"},
        /* each search matches, after much work */
        {"(?:a?){20}a{20}", "aaaaaaaaaaaaaaaaaaaab"},
        {"a(?=(?:a|b|aa)*[xy])|a", "a"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t bytes = 1 << 12; bytes <= 1 << 14; bytes *= 2) {
            uint64_t steps = cost_of(rows[i].pattern, rows[i].unit, bytes, SL_EXHAUSTED).steps;
            uint64_t steps_max = STEPS_MAX + bytes * TEXT_HARD_STEPS_PER_BYTE;
            assert_in_range(steps, steps_max - 64 * TEXT_HARD_STEPS_PER_BYTE, 2 * steps_max);
        }
}

/* What one repeat scans is no step: it is counted by itself. */
static void test_scans_everywhere(void **state)
{
    static const char *const rows[][2] = {
        {"a(?=.*x)|a", "a"},  {"a(?=[ab]*+x)|a", "ab"},   {"a*b|a", "a"},
        {"a(?!a{2,}b)", "a"}, {"(?:\\w+,|\\w+;|.)", "a"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t bytes = 1 << 12; bytes <= 1 << 16; bytes *= 4) {
            uint64_t scanned = cost_of(rows[i][0], rows[i][1], bytes, SL_EXHAUSTED).scanned;
            uint64_t scanned_max = STEPS_MAX + bytes * TEXT_SCANNED_PER_BYTE;
            assert_in_range(scanned, scanned_max, scanned_max + bytes);
        }
}

/* Hard in one place only: the bound is not for that, and the steps are a few for each byte. */
static void test_hard_once(void **state)
{
    static const char *const rows[][2] = {
        {"\\p{Lu}*[\\p{Ll}]+|\\p{Lu}+", "A"},
        {"(?:ab)+(?!c)", "ab"},
        {"\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", " "},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t bytes = 1 << 15; bytes <= 1 << 19; bytes *= 4) {
            struct cost cost = cost_of(rows[i][0], rows[i][1], bytes, SL_OK);
            assert_true(cost.steps <= 8 * bytes);
            assert_true(cost.scanned <= TEXT_SCANNED_PER_BYTE / 3 * bytes);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),         cmocka_unit_test(test_classes),
        cmocka_unit_test(test_properties),       cmocka_unit_test(test_hard_everywhere),
        cmocka_unit_test(test_scans_everywhere), cmocka_unit_test(test_hard_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
