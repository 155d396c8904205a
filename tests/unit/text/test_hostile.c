/* Tokenizers and templates that mean harm: each ends in a result, or in an error that names the bound
 * that it passed, and soon.
 *
 * What soon is: where the code counts its steps, a time for each step; where it does not, the time for four
 * times as much is measured beside the time for one, and may not be ten times as long. (The steps of patterns
 * are counted in test_regex.c.) All is time of the processor, and the least of some tries: what else a machine
 * does makes a try longer, never shorter. */
#include "support/support.h"

#include "text/template.h"
#include "text/tokenizer.h"

#include <time.h>

#define SLOW        (TEST_SLOW ? 10 : 1) /* sanitizers */
#define SECONDS_MAX (4.0 * SLOW)         /* of one case */
#define STEPS_MAX   500000               /* of a template: a fortieth of what a server allows */
#define STEP_NS_MAX (1000 * SLOW)        /* a tenth of it is usual */
#define TRIES       5
#define GROWTH_MAX  10.0 /* of the time for four times as much; quadratic work makes it 16 */
#define JSON_MAX    TEXT_FILE_BYTES_MAX
#define TEXT_BYTES  (1u << 18)
#define IDS_MAX     (8u << 20)

static clock_t begun;

static void begin(void)
{
    begun = clock(); /* of the processor: other load does not count */
}

static double seconds_since(void)
{
    return (double)(clock() - begun) / CLOCKS_PER_SEC;
}

static void check_time(const char *what)
{
    double seconds = seconds_since();

    if (seconds > SECONDS_MAX)
        fail_msg("%s took %.1f s", what, seconds);
    if (seconds > 0.3)
        print_message("%s: %.1f s\n", what, seconds);
}

/* `work` does n units of it; in the time of one and of four the same is at the beginning, so that it counts less
 * than the growth. */
static void check_growth(const char *what, void (*work)(size_t n), size_t n)
{
    double times[2] = {1e9, 1e9};

    for (int i = 0; i < TRIES; i++) {
        for (int k = 0; k < 2; k++) {
            begin();
            work(k == 0 ? n : 4 * n);
            double seconds = seconds_since();
            times[k] = seconds < times[k] ? seconds : times[k];
        }
        if (times[1] <= GROWTH_MAX * times[0])
            break;
    }
    if (times[1] > GROWTH_MAX * times[0])
        fail_msg("%s: %.3f s for %zu, %.3f s for %zu", what, times[0], n, times[1], 4 * n);
    print_message("%s: %.3f s for %zu, %.3f s for %zu\n", what, times[0], n, times[1], 4 * n);
}

/* ---- tokenizers ---- */

/* A tokenizer.json with the vocabulary a, b, aa, and the parts that are given, each ending in a comma. */
static sl_status load_with(const char *parts, struct text_tokenizer **tokenizer_out)
{
    char *json = sl_asprintf("{%s\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"aa\":2},"
                             "\"merges\":[[\"a\",\"a\"]]}}",
                             parts);
    sl_status status = text_tokenizer_parse("hostile", json, strlen(json), tokenizer_out);

    sl_free(json);
    return status;
}

static sl_status encode_repeated(const struct text_tokenizer *tokenizer, const char *unit,
                                 size_t bytes)
{
    size_t n = strlen(unit);
    char *text = sl_zalloc(bytes + n, 1);
    struct text_ids ids;

    text_ids_init(&ids, IDS_MAX);
    for (size_t at = 0; at < bytes; at += n)
        memcpy(text + at, unit, n);
    sl_status status = text_tokenizer_encode(tokenizer, text, bytes / n * n, true, &ids);
    text_ids_fini(&ids);
    sl_free(text);
    return status;
}

/* With these parts a quarter of a megabyte of the unit is tokenized, or refused with a word of why. */
struct text_case {
    const char *parts, *unit;
    sl_status code;
    const char *says;
};

#define SPLIT(pattern)                                                                             \
    "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern                      \
    "\"},\"behavior\":\"Isolated\"},"
#define REPLACE(from, to)                                                                          \
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"" from "\"},\"content\":\"" to "\"}"

static const struct text_case text_cases[] = {
    /* every place of the text is hard; more of this kind are in test_regex.c */
    {SPLIT("a(?=(?:a|b|aa)*[xy])|a"), "a", SL_EXHAUSTED, "steps"},
    {"\"normalizer\":" REPLACE("(b|bb)+$", "a") ",", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbba",
     SL_EXHAUSTED, "steps"},
    {SPLIT("a(?=.*x)|a"), "a", SL_EXHAUSTED, "steps"},
    {SPLIT("a*b|a"), "a", SL_EXHAUSTED, "steps"},
    /* hard in one place only: the bound is not for that */
    {SPLIT("\\\\p{Lu}*[\\\\p{Ll}]+|\\\\p{Lu}+"), "A", SL_OK, NULL},
    {SPLIT("(?:ab)+(?!c)"), "ab", SL_OK, NULL},
    /* text that grows */
    {"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" REPLACE("a", "aaaa") "," REPLACE(
         "a", "aaaa") "," REPLACE("a", "aaaa") "," REPLACE("a", "aaaa") "]},",
     "a", SL_EXHAUSTED, "normalizer"},
    {"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" REPLACE(
         "a", "bbbbbbbbbbbbbbbbbbbb") "," REPLACE("b", "") "," REPLACE("$", "a") "]},",
     "a", SL_OK, NULL},
};

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(text_cases) / sizeof(text_cases[0]); i++) {
        const struct text_case *c = &text_cases[i];
        struct text_tokenizer *tokenizer = NULL;
        begin();
        assert_ok(load_with(c->parts, &tokenizer));
        sl_status status = encode_repeated(tokenizer, c->unit, TEXT_BYTES);
        if (status != c->code || (c->says != NULL && strstr(sl_error(), c->says) == NULL))
            fail_msg("%s: %s %s", c->parts, sl_status_name(status), sl_error());
        check_time(c->parts);
        text_tokenizer_destroy(tokenizer);
    }
}

/* A long text in front of each of the stretches between added tokens. */
static void test_long_prepend(void **state)
{
    struct text_tokenizer *tokenizer = NULL;
    struct sl_buf json;

    (void)state;
    begin();
    sl_buf_init(&json, JSON_MAX);
    sl_buf_add_text(&json, "\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"special\":true}],"
                           "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"");
    for (int i = 0; i < 100000; i++)
        sl_buf_add_text(&json, "cc"); /* no token has it */
    sl_buf_add_text(&json, "\"},");
    assert_ok(load_with(json.data, &tokenizer));
    assert_fails(encode_repeated(tokenizer, "xa", TEXT_BYTES), SL_EXHAUSTED, "normalizer");
    check_time("prepend");
    text_tokenizer_destroy(tokenizer);
    sl_buf_fini(&json);
}

static void add_repeated(struct sl_buf *json, const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sl_buf_add_text(json, text);
}

/* Levels of Sequence; patterns and texts that are too large to be compiled. */
static void test_large_parts(void **state)
{
    static const struct {
        const char *open, *inner, *close;
        size_t n;
        const char *says;
    } rows[] = {
        {"{\"type\":\"Sequence\",\"normalizers\":[", "", "]}", 100000, "nested deeper"},
        {"{\"type\":\"Sequence\",\"normalizers\":[", "", "]}", 30, "deep"},
        {"", REPLACE("x", "y"), "", 1, NULL},
        {REPLACE("((((a{9}){9}){9}){9}){9}", ""), "", "", 1, "large"},
        {"{\"type\":\"Replace\",\"content\":\"\",\"pattern\":{\"Regex\":\"", "", "\"}}", 1, NULL},
    };
    struct text_tokenizer *tokenizer = NULL;
    struct sl_buf json;

    (void)state;
    sl_buf_init(&json, JSON_MAX);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        begin();
        sl_buf_reset(&json);
        sl_buf_add_text(&json, "\"normalizer\":");
        add_repeated(&json, rows[i].open, rows[i].n);
        sl_buf_add_text(&json, rows[i].inner);
        add_repeated(&json, rows[i].close, rows[i].n);
        sl_buf_add_text(&json, ",");
        if (rows[i].says == NULL)
            assert_ok(load_with(json.data, &tokenizer));
        else
            assert_fails(load_with(json.data, &tokenizer), SL_INVALID, rows[i].says);
        if (rows[i].says == NULL)
            text_tokenizer_destroy(tokenizer);
        check_time(rows[i].open);
    }
    sl_buf_reset(&json);
    sl_buf_add_text(&json, "\"normalizer\":{\"type\":\"Replace\",\"content\":\"\","
                           "\"pattern\":{\"Regex\":\"");
    add_repeated(&json, "\\\\w\\\\p{L}", 500);
    sl_buf_add_text(&json, "\"}},");
    begin();
    assert_fails(load_with(json.data, &tokenizer), SL_EXHAUSTED, "pattern");
    check_time("many classes");
    sl_buf_fini(&json);
}

/* Characters, every pair of them a token, and a merge ten times. */
static void merge_pairs(size_t n)
{
    struct text_tokenizer *tokenizer = NULL;
    struct sl_buf json;
    const size_t n_pairs = n * n;
    const unsigned first = 0x4E00;

    sl_buf_init(&json, JSON_MAX);
    sl_buf_add_text(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    for (size_t i = 0; i < n; i++)
        sl_buf_add_format(&json, "\"\\u%04zx\":%zu,", first + i, i);
    for (size_t i = 0; i < n_pairs; i++)
        sl_buf_add_format(&json, "%s\"\\u%04zx\\u%04zx\":%zu", i == 0 ? "" : ",", first + i / n,
                          first + i % n, n + i);
    sl_buf_add_text(&json, "},\"merges\":[");
    for (size_t i = 0; i < 10 * n_pairs; i++)
        sl_buf_add_format(&json, "%s\"\\u%04zx \\u%04zx\"", i == 0 ? "" : ",", first + i % n,
                          first + i / n % n);
    sl_buf_add_text(&json, "]}}");
    assert_false(json.failed);
    begin(); /* what is above is ours */
    assert_ok(text_tokenizer_parse("hostile", json.data, json.bytes, &tokenizer));
    assert_int_equal(text_tokenizer_n_ids(tokenizer), n + n_pairs);
    assert_ok(encode_repeated(tokenizer, "\u4e00\u4e01\u4e02\u4e10\u4e20", 4 * n_pairs));
    text_tokenizer_destroy(tokenizer);
    sl_buf_fini(&json);
}

static void merge_squares(size_t n)
{
    merge_pairs(n > 96 ? n / 2 : n); /* twice as many characters: four times the pairs */
}

static void test_many_merges(void **state)
{
    (void)state;
    check_growth("merges of pairs", merge_squares, 96);
}

/* Merges that lead back to where they came from, or take nothing: every merge takes one symbol away, so
 * that they end. */
static void merge_nothing(size_t bytes)
{
    static const char empty[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\":0,\"a\":1,\"aa\":2},"
                                "\"merges\":[[\"\",\"a\"],[\"a\",\"\"],[\"\",\"\"],[\"a\",\"a\"],"
                                "[\"aa\",\"\"],[\"\",\"aa\"]]}}";
    struct text_tokenizer *tokenizer = NULL;

    assert_ok(text_tokenizer_parse("hostile", empty, strlen(empty), &tokenizer));
    assert_ok(encode_repeated(tokenizer, "a", bytes));
    text_tokenizer_destroy(tokenizer);
}

/* Tokens of every length of a power of two, their merges in the order that is worst. */
static void merge_powers(size_t bytes)
{
    struct text_tokenizer *tokenizer = NULL;
    struct sl_buf vocab, merges;

    sl_buf_init(&vocab, JSON_MAX);
    sl_buf_init(&merges, JSON_MAX);
    for (unsigned n = 2048; n >= 1; n /= 2) {
        sl_buf_add_format(&merges, "%s[\"", n == 2048 ? "" : ",");
        add_repeated(&merges, "a", n);
        sl_buf_add_text(&merges, "\",\"");
        add_repeated(&merges, "a", n);
        sl_buf_add_text(&merges, "\"]");
        sl_buf_add_text(&vocab, ",\"");
        add_repeated(&vocab, "a", 2 * n);
        sl_buf_add_format(&vocab, "\":%u", n);
    }
    char *json = sl_asprintf("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0%s},\"merges\":[%s]}}",
                             vocab.data, merges.data);
    assert_ok(text_tokenizer_parse("hostile", json, strlen(json), &tokenizer));
    assert_ok(encode_repeated(tokenizer, "a", bytes));
    text_tokenizer_destroy(tokenizer);
    sl_free(json);
    sl_buf_fini(&vocab);
    sl_buf_fini(&merges);
}

static void test_merges_in_circles(void **state)
{
    (void)state;
    check_growth("merges of nothing", merge_nothing, TEXT_BYTES / 4);
    check_growth("merges of powers of two", merge_powers, TEXT_BYTES / 4);
}

/* As many added tokens as there may be; one more; long ones that begin alike. */
static void test_added_tokens(void **state)
{
    struct text_tokenizer *tokenizer = NULL;
    struct sl_buf json;

    (void)state;
    sl_buf_init(&json, JSON_MAX);
    for (unsigned n = TEXT_ADDED_MAX; n <= TEXT_ADDED_MAX + 1; n++) {
        begin();
        sl_buf_reset(&json);
        sl_buf_add_text(&json, "\"added_tokens\":[");
        for (unsigned i = 0; i < n; i++)
            sl_buf_add_format(&json, "%s{\"id\":%u,\"content\":\"<%u>\",\"lstrip\":true}",
                              i == 0 ? "" : ",", 3 + i, i);
        sl_buf_add_text(&json, "],");
        if (n > TEXT_ADDED_MAX) {
            assert_fails(load_with(json.data, &tokenizer), SL_INVALID, "65536");
        } else {
            assert_ok(load_with(json.data, &tokenizer));
            assert_ok(encode_repeated(tokenizer, "<65535> a <1", TEXT_BYTES));
            text_tokenizer_destroy(tokenizer);
        }
        check_time("added tokens");
    }
    begin();
    sl_buf_reset(&json);
    sl_buf_add_text(&json, "\"added_tokens\":[");
    for (unsigned i = 0; i < 64; i++) {
        sl_buf_add_format(&json, "%s{\"id\":%u,\"content\":\"", i == 0 ? "" : ",", 3 + i);
        add_repeated(&json, "a", TEXT_TOKEN_BYTES_MAX - 1 - i);
        sl_buf_add_text(&json, "b\"}");
    }
    sl_buf_add_text(&json, "],");
    assert_ok(load_with(json.data, &tokenizer));
    assert_fails(encode_repeated(tokenizer, "a", TEXT_BYTES), SL_EXHAUSTED, "added tokens");
    check_time("long added tokens");
    text_tokenizer_destroy(tokenizer);
    sl_buf_fini(&json);
}

/* ---- templates ---- */

static sl_status render(const char *text, size_t bytes)
{
    struct text_template *template = NULL;
    struct sl_buf out;
    sl_status status = text_template_parse("hostile", text, bytes, &template);
    json_t *messages = json_array();

    sl_buf_init(&out, 64u << 20);
    if (status == SL_OK)
        status = text_template_render(
            template,
            &(struct text_template_args){
                .messages = messages, .now = 1, .limits = {.steps_max = STEPS_MAX}},
            &out);
    json_decref(messages);
    text_template_destroy(template);
    sl_buf_fini(&out);
    return status;
}

#define LONG    "{% set x = 'ab' * 4000 * 1000 %}"
#define ENDLESS "{% for i in range(99999) %}"

/* Errors all, of the kind that names a bound; what is in front of a loop is none yet. */
static void test_templates(void **state)
{
    static const char *const rows[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}x{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor "
        "%}",
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor "
        "%}",
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor "
        "%}"
        "{{ n.x }}",
        "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x | replace('a', "
        "'aaaa') "
        "%}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{{ [[]] * 99999999999 }}",
        "{{ 'x'.center(99999999999) }}",
        "{{ 'x'.zfill(99999999999) }}",
        "{{ '\\t'.expandtabs(99999999999) }}",
        "{{ 'x\\ny' | indent(99999999999) }}",
        "{{ '{:99999999999}'.format('x') }}",
        "{{ [1] | batch(99999999999, 1) | list }}",
        "{{ [1] | slice(99999999999) | list }}",
        "{{ range(99999) | list | tojson(indent=99999) }}",
        LONG ENDLESS "{% if 'c' in x %}{% endif %}{% endfor %}",
        LONG ENDLESS "{% if 'cd' in x %}{% endif %}{% endfor %}",
        LONG ENDLESS "{% if x == x ~ '' %}{% endif %}{% endfor %}",
        LONG "{% set y = x ~ '' %}" ENDLESS "{% if x == y %}{% endif %}{% endfor %}",
        "{% set x = range(99999) | list %}{% set y = x + [] %}" ENDLESS
        "{% if x == y %}{% endif %}{% endfor %}",
        LONG ENDLESS "{{ x.rfind('aa') }}{% endfor %}",
        LONG ENDLESS "{{ x.rfind('cd') }}{% endfor %}",
        LONG ENDLESS "{% set y = x | upper %}{% endfor %}",
        /* Shorter: AddressSanitizer looks at all of the text each time that something is searched in it. */
        "{% set x = 'ab' * 40000 %}" ENDLESS "{% set y = x.split('b') %}{% endfor %}",
        LONG ENDLESS "{% set y = x | wordwrap(10) %}{% endfor %}",
        LONG ENDLESS "{% set y = x | urlencode %}{% endfor %}",
        LONG ENDLESS "{% set y = x | truncate(999999) %}{% endfor %}",
        LONG ENDLESS "{% set y = x[3999999] %}{% endfor %}",
        LONG ENDLESS "{% set y = x | length %}{% endfor %}",
        LONG ENDLESS "{% set y = x | trim('c') | list %}{% endfor %}",
        LONG ENDLESS "{% set y = x.casefold() %}{% endfor %}",
        LONG ENDLESS "{% set y = x | tojson %}{% endfor %}",
        "{% set x = '-' * 4000 * 1000 %}" ENDLESS "{% set y = ('a' ~ x) | wordwrap(9) "
        "%}"
        "{% endfor %}",
        "{% set x = range(99999) | list %}" ENDLESS "{% set y = x | sort %}{% "
        "endfor %}",
        "{% set x = range(99999) | list %}" ENDLESS "{% set y = x | unique | list "
        "%}"
        "{% endfor %}",
        "{% set x = ('ab' * 40000) | list %}" ENDLESS "{% set y = x | groupby(0) %}"
        "{% endfor %}",
        "{% set x = range(99999) | list %}" ENDLESS "{% if -1 in x %}{% endif %}"
        "{% endfor %}",
        "{% set x = range(99999) | list %}" ENDLESS "{% if x == x + [] %}{% endif "
        "%}"
        "{% endfor %}",
        "{% set x = range(99999) | list %}" ENDLESS "{{ x | map('string') | join }}"
        "{% endfor %}",
        "{% set x = dict(range(1000) | map('string') | batch(2)) %}" ENDLESS
        "{% if x == x %}{% endif %}{% endfor %}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *loop = strstr(rows[i], ENDLESS);
        if (loop != NULL && render(rows[i], (size_t)(loop - rows[i])) != SL_OK)
            fail_msg("%s: %s before the loop", rows[i], sl_error());
        begin();
        sl_status status = render(rows[i], strlen(rows[i]));
        if (status != SL_EXHAUSTED && status != SL_INVALID)
            fail_msg("%s: %s %s", rows[i], sl_status_name(status), sl_error());
        if (strstr(sl_error(), "more than") == NULL &&
            strstr(sl_error(), "not supported") == NULL && strstr(sl_error(), "too") == NULL &&
            strstr(sl_error(), "undefined") == NULL)
            fail_msg("%s: \"%s\" names no bound", rows[i], sl_error());
        double seconds = seconds_since();
        if (seconds > 0.1 * SLOW + (double)STEPS_MAX * STEP_NS_MAX / 1e9)
            fail_msg("%s: %.2f s for %d steps", rows[i], seconds, STEPS_MAX);
    }
}

/* Sources that are deep, long or never end. */
static void test_sources(void **state)
{
    static const char *const units[] = {"{{ (",
                                        "{{ [",
                                        "{{ {1:",
                                        "{{ -",
                                        "{{ not ",
                                        "{% if x %}",
                                        "{% for a in b %}",
                                        "{{ f(",
                                        "{{ a[",
                                        "{{ a if b else ",
                                        "{% filter upper %}",
                                        "{% macro f() %}",
                                        "{% set x %}",
                                        "{#",
                                        "{{",
                                        "{{ a ** ",
                                        "{{ a.b",
                                        "{{ a|b(",
                                        "{{ '",
                                        "{% raw %}",
                                        "{% call f() %}",
                                        "((((",
                                        "{{ a ~ "};

    (void)state;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        size_t n = strlen(units[i]), bytes = 0;
        char *text = sl_zalloc(TEXT_TEMPLATE_BYTES_MAX + n, 1);
        begin();
        for (; bytes + n <= TEXT_TEMPLATE_BYTES_MAX; bytes += n)
            memcpy(text + bytes, units[i], n);
        sl_status status = render(text, bytes);
        if (status == SL_OK && strcmp(units[i], "((((") != 0)
            fail_msg("a megabyte of %s is rendered", units[i]);
        check_time(units[i]);
        sl_free(text);
    }
    char *text = sl_zalloc(TEXT_TEMPLATE_BYTES_MAX + 1, 1);
    assert_fails(render(text, TEXT_TEMPLATE_BYTES_MAX + 1), SL_INVALID, "1048576");
    sl_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_long_prepend),
        cmocka_unit_test(test_large_parts),
        cmocka_unit_test(test_many_merges),
        cmocka_unit_test(test_merges_in_circles),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_sources),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
