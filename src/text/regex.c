/* Regular expressions.
 *
 * tokenizer.json has patterns in Oniguruma's syntax with Oniguruma's meaning. PCRE2 differs in
 * places that matter: \s has U+180E, \w lacks marks, \v is a class, \p{Han} means script
 * extensions, `^` needs a flag, and its Unicode is older, so that \p{L} lacks letters. So a pattern
 * is not handed on but translated, construct by construct, and what the translation does not know
 * is refused: a pattern that almost means the same would give other tokens on some input, and
 * nobody would see it. The patterns of GPT-2, GPT-4, GPT-4o, Llama 3, Qwen and DeepSeek pass.
 *
 * Compiled with JIT where the machine has it. A match that outgrows the JIT's stack runs again in
 * the interpreter, whose frames are on the heap.
 *
 * A pattern of a file may backtrack without end. PCRE2 bounds the steps at one place of the text, not
 * those of a search over many places, nor of many searches. So the bound of a search is low, lower than
 * a place could matter for the whole; where it is hit the places are tried one by one, each with as many
 * steps as it needs, and what that costs is added up over all searches that share a text_regex_match,
 * up to a number in proportion to the text. What the repeat of one character scans at one go PCRE2 does not
 * count at all (`a(?=.*x)|a` takes time in the square of the text, in few steps). So the translation sets
 * callouts before and behind such a repeat, unless what is matched ends with it, and they count the bytes.
 *
 * A regex is immutable, any thread; the match data is one call's. */
#include "text/regex.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chars.h"
#include "text/unicode_additions.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <string.h>

#define TRANSLATION_BYTES_MAX (1u << 20)
#define EASY_STEPS            4000u /* at one place; patterns of models need some ten */
#define HEAP_KIB_MAX          (256u << 10)
#define JIT_STACK_BYTES_MIN   (32u << 10)
#define JIT_STACK_BYTES_MAX   (1u << 20)
#define CALLOUT_BEFORE        "(?C1)" /* a repeat */
#define CALLOUT_BEHIND        "(?C2)"
#define CALLOUT_BEHIND_NUMBER 2

struct text_regex {
    pcre2_code *code;
    bool jit;
};

struct text_regex_match {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    uint64_t steps_max;
    uint64_t hard_steps; /* spent on places that needed more than EASY_STEPS */
    uint64_t scanned;    /* bytes, by repeats */
    size_t scan_from;    /* where the repeat began whose bytes the next callout counts */
};

/* ---- translation ---- */

#define SPACE_ITEMS "\\t-\\r\\x{85}\\p{Z}"
#define WORD_ITEMS                                                                                 \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"                    \
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"

/* Characters of the script Han that Unicode 14 does not have. */
static const struct text_range newer_han[] = {
    {0x2b739, 0x2b739}, {0x2ebf0, 0x2ee5d}, {0x31350, 0x323af}};

struct translation {
    const char *what, *field;
    const char *at; /* next byte of the pattern */
    struct sl_buf *out;
    bool caseless;    /* inside (?i: */
    uint32_t i_depth; /* group depth at which caseless ends */
    uint32_t depth;   /* open groups */
    size_t item_at;   /* in out: where the last item begins … */
    bool is_group;    /* … which is a group */
    char previous;    /* caseless: the literal before, lower case; 0: none */
    bool can_repeat;  /* the last item may take a quantifier */
};

static sl_status refuse(const struct translation *t, const char *construct, int n)
{
    return sl_fail(SL_UNSUPPORTED, "%s: %s: \"%.*s\" in a pattern is not supported", t->what,
                   t->field, n, construct);
}

/* Adds the ranges of what is newer than PCRE2's tables and of this category ("L" or "Lu"). */
static void add_newer(struct sl_buf *out, const char *category)
{
    for (size_t i = 0; i < text_n_newer_categories; i++) {
        const struct text_category_range *range = &text_newer_categories[i];
        if (strncmp(range->category, category, strlen(category)) == 0)
            sl_buf_add_format(out, "\\x{%x}-\\x{%x}", range->first, range->last);
    }
}

static bool has_newer(const char *category)
{
    for (size_t i = 0; i < text_n_newer_categories; i++)
        if (strncmp(text_newer_categories[i].category, category, strlen(category)) == 0)
            return true;
    return false;
}

/* \w inside a class. */
static void add_word_items(struct sl_buf *out)
{
    static const char *const categories[] = {"L", "M", "Nd", "Nl", "Pc"};

    sl_buf_add_text(out, WORD_ITEMS);
    for (size_t i = 0; i < sizeof(categories) / sizeof(categories[0]); i++)
        add_newer(out, categories[i]);
}

static bool is_category(const char *name)
{
    static const char *const known[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "N",  "Nd", "Nl",
                                        "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",
                                        "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf"};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(name, known[i]) == 0)
            return true;
    return false;
}

/* \p{…} or \P{…}; t->at is behind the letter. */
static sl_status property(struct translation *t, bool negated, bool in_class)
{
    const char *start = t->at;
    const char *end = start[0] == '{' ? strchr(start, '}') : NULL;
    char name[16];

    if (end == NULL || end - start < 2 || (size_t)(end - start) > sizeof(name))
        return refuse(t, start - 2, 3);
    const char *first = start + 1;
    if (*first == '^') {
        negated = !negated;
        first++;
    }
    memcpy(name, first, (size_t)(end - first));
    name[end - first] = '\0';
    t->at = end + 1;

    bool han = strcmp(name, "Han") == 0;
    if ((!han && !is_category(name)) || t->caseless)
        return refuse(t, start - 2, (int)(t->at - start) + 2);
    if (in_class && negated && (han || has_newer(name)))
        return refuse(t, start - 2, (int)(t->at - start) + 2);
    if (!in_class)
        sl_buf_add_text(t->out, negated ? "[^" : "[");
    sl_buf_add_format(t->out, "\\%c{%s%s}", in_class && negated ? 'P' : 'p', han ? "sc:" : "",
                      name);
    if (han) {
        for (size_t i = 0; i < sizeof(newer_han) / sizeof(newer_han[0]); i++)
            sl_buf_add_format(t->out, "\\x{%x}-\\x{%x}", newer_han[i].first, newer_han[i].last);
    } else if (!(in_class && negated)) {
        add_newer(t->out, name);
    }
    if (!in_class)
        sl_buf_add_text(t->out, "]");
    return SL_OK;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* \xHH, \x{H…}, \uHHHH; t->at is behind the letter. */
static sl_status code_point(struct translation *t, char letter)
{
    const char *start = t->at - 2;
    bool braces = letter == 'x' && *t->at == '{';
    int n_max = braces ? 8 : letter == 'u' ? 4 : 2, n = 0;
    uint32_t code = 0;

    if (braces)
        t->at++;
    for (; n < n_max && hex_value(*t->at) >= 0; n++)
        code = code << 4 | (uint32_t)hex_value(*t->at++);
    /* \xHH from 80 on is a byte of UTF-8 to Oniguruma */
    if (n == 0 || (letter == 'u' && n != 4) || (letter == 'x' && !braces && code >= 0x80) ||
        code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) || (braces && *t->at != '}') ||
        t->caseless)
        return refuse(t, start, (int)(t->at - start));
    if (braces)
        t->at++;
    sl_buf_add_format(t->out, "\\x{%x}", code);
    return SL_OK;
}

/* A backslash and what follows; t->at is at the backslash. */
static sl_status escape(struct translation *t, bool in_class)
{
    const char *start = t->at;
    char c = start[1];

    t->at += 2;
    t->previous = 0;
    t->can_repeat = true;
    switch (c) {
    case 'p':
    case 'P':
        return property(t, c == 'P', in_class);
    case 'x':
    case 'u':
        return code_point(t, c);
    case 's':
        sl_buf_add_text(t->out, in_class ? SPACE_ITEMS : "[" SPACE_ITEMS "]");
        return SL_OK;
    case 'S':
        if (in_class)
            return refuse(t, start, 2);
        sl_buf_add_text(t->out, "[^" SPACE_ITEMS "]");
        return SL_OK;
    case 'd':
    case 'D':
        if (in_class && c == 'D')
            return refuse(t, start, 2);
        if (!in_class)
            sl_buf_add_text(t->out, c == 'D' ? "[^" : "[");
        sl_buf_add_text(t->out, "\\p{Nd}");
        add_newer(t->out, "Nd");
        if (!in_class)
            sl_buf_add_text(t->out, "]");
        return SL_OK;
    case 'w':
    case 'W':
        if (in_class && c == 'W')
            return refuse(t, start, 2);
        if (!in_class)
            sl_buf_add_text(t->out, c == 'W' ? "[^" : "[");
        add_word_items(t->out);
        if (!in_class) /* Oniguruma's \w outside of a class has these as well: ²³¹¼½¾ */
            sl_buf_add_text(t->out, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}]");
        return SL_OK;
    case 'r':
    case 'n':
    case 't':
    case 'f':
        sl_buf_add_format(t->out, "\\%c", c);
        return SL_OK;
    case 'v':
        sl_buf_add_text(t->out, "\\x{b}");
        return SL_OK;
    case 'A':
    case 'z':
        if (in_class)
            return refuse(t, start, 2);
        t->can_repeat = false;
        sl_buf_add_format(t->out, "\\%c", c);
        return SL_OK;
    default:
        /* a letter or digit means something that is not known here; the rest is literal */
        if (c <= 0x20 || c >= 0x7f || (c >= '0' && c <= '9') ||
            ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'))
            return refuse(t, start, c == '\0' ? 1 : 2);
        sl_buf_add_format(t->out, "\\%c", c);
        return SL_OK;
    }
}

/* A class; t->at is at the bracket. */
static sl_status class(struct translation *t)
{
    if (strncmp(t->at, "[\\s\\S]", 6) == 0 || strncmp(t->at, "[\\S\\s]", 6) == 0) {
        t->at += 6;
        t->can_repeat = true;
        sl_buf_add_text(t->out, "(?s:.)");
        return SL_OK;
    }
    sl_buf_add(t->out, t->at++, 1);
    if (*t->at == '^')
        sl_buf_add(t->out, t->at++, 1);
    if (*t->at == ']') /* a literal to one, an error or a warning to the other */
        return refuse(t, t->at - 1, 2);
    while (*t->at != ']') {
        sl_status status = SL_OK;
        if (*t->at == '\0')
            return sl_fail(SL_INVALID, "%s: %s: a class is not closed", t->what, t->field);
        if (*t->at == '[') /* a nested class, or a POSIX one */
            return refuse(t, t->at, 2);
        if (t->at[0] == '&' && t->at[1] == '&')
            return refuse(t, t->at, 2);
        if (t->caseless && (uint8_t)*t->at >= 0x80) /* may fold to two characters */
            return refuse(t, "(?i:", 4);
        if (t->at[0] == '-' && t->at[1] == '\\' && strchr("sSdDwWpP", t->at[2]) != NULL)
            return refuse(t, t->at, 3); /* a range that ends in a set */
        if (*t->at == '\\')
            status = escape(t, true);
        else
            sl_buf_add(t->out, t->at++, 1);
        if (status != SL_OK)
            return status;
    }
    sl_buf_add(t->out, t->at++, 1);
    t->previous = 0;
    t->can_repeat = true;
    return SL_OK;
}

/* An opening parenthesis. Only groups without a name or number. */
static sl_status group(struct translation *t)
{
    static const char *const plain[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};

    t->previous = 0;
    t->can_repeat = false;
    t->depth++;
    if (t->at[1] != '?') {
        sl_buf_add_text(t->out, "(?:"); /* no captures: nobody asks for them */
        t->at++;
        return SL_OK;
    }
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (strncmp(t->at, plain[i], strlen(plain[i])) == 0) {
            sl_buf_add_text(t->out, plain[i]);
            t->at += strlen(plain[i]);
            return SL_OK;
        }
    }
    if (strncmp(t->at, "(?i:", 4) == 0) {
        if (!t->caseless) {
            t->caseless = true;
            t->i_depth = t->depth;
        }
        sl_buf_add_text(t->out, "(?i:");
        t->at += 4;
        return SL_OK;
    }
    return refuse(t, t->at, 4);
}

/* {n}, {n,}, {n,m}, {,m}; t->at is at the brace. */
static sl_status repeat(struct translation *t)
{
    const char *start = t->at, *p = start + 1;
    bool low = false, high = false, comma = false;

    for (; *p >= '0' && *p <= '9'; p++)
        low = true;
    if (*p == ',') {
        comma = true;
        for (p++; *p >= '0' && *p <= '9'; p++)
            high = true;
    }
    /* a brace that counts nothing is a literal, in ways that differ; {n}? and {…}+ differ too */
    if (*p != '}' || p - start > 12 || !(low || high) || p[1] == '+' || (p[1] == '?' && !comma))
        return refuse(t, start, 3);
    sl_buf_add_text(t->out, low ? "{" : "{0");
    sl_buf_add(t->out, start + 1, (size_t)(p - start));
    t->at = p + 1;
    return SL_OK;
}

static void insert_text(struct sl_buf *out, size_t at, const char *text)
{
    size_t n = strlen(text), tail = out->bytes - at;

    sl_buf_add(out, text, n);
    if (out->failed)
        return;
    memmove(out->data + at + n, out->data + at, tail);
    memcpy(out->data + at, text, n);
}

/* Callouts around the repeat that was just written, if something can fail behind it. The iterations of a group
 * are steps to PCRE2. */
static void count_repeat(struct translation *t)
{
    bool is_last = t->depth == 0 && (*t->at == '\0' || *t->at == '|');

    if (t->is_group || is_last)
        return;
    insert_text(t->out, t->item_at, CALLOUT_BEFORE);
    sl_buf_add_text(t->out, CALLOUT_BEHIND);
}

/* A quantifier with what may follow it: `?` (reluctant) or `+` (possessive). */
static sl_status quantifier(struct translation *t)
{
    const char *start = t->at;

    if (!t->can_repeat)
        return refuse(t, start, 1);
    if (*start == '{') {
        sl_status status = repeat(t);
        if (status != SL_OK)
            return status;
    } else {
        sl_buf_add(t->out, t->at++, 1);
    }
    if (*t->at == '?' || (*t->at == '+' && *start != '{'))
        sl_buf_add(t->out, t->at++, 1);
    if (*start != '?')
        count_repeat(t);
    /* a quantifier of a quantifier nests in one and is an error in the other */
    t->can_repeat = false;
    t->previous = 0;
    return SL_OK;
}

/* A plain character. Caseless, Oniguruma also matches one character that folds to two: refused. */
static sl_status literal(struct translation *t)
{
    static const char *const pairs[] = {"ss", "ff", "fi", "fl", "st"};
    char c = *t->at;

    if (t->caseless) {
        if ((uint8_t)c >= 0x80)
            return refuse(t, "(?i:", 4);
        char lower = (c >= 'A' && c <= 'Z') ? (char)(c | 0x20) : c;
        for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
            if (t->previous == pairs[i][0] && lower == pairs[i][1])
                return refuse(t, t->at - 1, 2);
        t->previous = lower;
    }
    sl_buf_add(t->out, t->at++, 1);
    t->can_repeat = true;
    return SL_OK;
}

static sl_status item(struct translation *t)
{
    bool is_inside = ((uint8_t)*t->at & 0xc0u) == 0x80u; /* of a character */

    if (strchr("*+?{", *t->at) == NULL && !is_inside) {
        t->item_at = t->out->bytes;
        t->is_group = *t->at == ')';
    }
    switch (*t->at) {
    case '\\':
        return escape(t, false);
    case '[':
        return class(t);
    case '(':
        return group(t);
    case ')':
        if (t->depth == 0)
            return sl_fail(SL_INVALID, "%s: %s: a parenthesis too many", t->what, t->field);
        if (t->caseless && t->depth == t->i_depth)
            t->caseless = false;
        t->depth--;
        t->previous = 0;
        t->can_repeat = true;
        break;
    case '|':
    case '^':
    case '$':
        t->previous = 0;
        t->can_repeat = false;
        break;
    case '.':
        t->previous = 0;
        t->can_repeat = true;
        break;
    case '*':
    case '+':
    case '?':
    case '{':
        return quantifier(t);
    default:
        return literal(t);
    }
    sl_buf_add(t->out, t->at++, 1);
    return SL_OK;
}

sl_status text_regex_translate(const char *what, const char *field, const char *pattern,
                               struct sl_buf *out)
{
    struct translation t = {.what = what, .field = field, .at = pattern, .out = out};

    if (strlen(pattern) > TEXT_PATTERN_BYTES_MAX)
        return sl_fail(SL_INVALID, "%s: %s: a pattern of %zu bytes; at most %u", what, field,
                       strlen(pattern), TEXT_PATTERN_BYTES_MAX);
    while (*t.at != '\0') {
        sl_status status = item(&t);
        if (status != SL_OK)
            return status;
    }
    return sl_buf_status(out, "pattern");
}

/* ---- compile ---- */

static sl_status compile(const char *what, const char *field, const char *pattern, size_t bytes,
                         uint32_t options, struct text_regex **regex_out)
{
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    struct text_regex *regex = sl_zalloc(1, sizeof(*regex));

    if (context != NULL) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        regex->code = pcre2_compile((PCRE2_SPTR)pattern, bytes, options, &code, &at, context);
        pcre2_compile_context_free(context);
        if (regex->code == NULL) {
            PCRE2_UCHAR message[128];
            text_regex_destroy(regex);
            pcre2_get_error_message(code, message, sizeof(message));
            return sl_fail(SL_INVALID, "%s: %s: %s", what, field, (const char *)message);
        }
    }
    if (regex->code == NULL) {
        text_regex_destroy(regex);
        return sl_fail(SL_NO_MEMORY, "%s: %s: pattern", what, field);
    }
    regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    *regex_out = regex;
    return SL_OK;
}

sl_status text_regex_compile(const char *what, const char *field, const char *pattern,
                             struct text_regex **regex_out)
{
    struct sl_buf out;
    sl_buf_init(&out, TRANSLATION_BYTES_MAX);
    sl_status status = text_regex_translate(what, field, pattern, &out);

    if (status == SL_OK)
        status = compile(what, field, out.data != NULL ? out.data : "", out.bytes,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE |
                             PCRE2_NEVER_BACKSLASH_C,
                         regex_out);
    sl_buf_fini(&out);
    return status;
}

sl_status text_regex_literal(const char *what, const char *field, const char *text,
                             struct text_regex **regex_out)
{
    if (text[0] == '\0')
        return sl_fail(SL_UNSUPPORTED, "%s: %s: an empty pattern is not supported", what, field);
    return compile(what, field, text, strlen(text), PCRE2_UTF | PCRE2_LITERAL, regex_out);
}

void text_regex_destroy(struct text_regex *regex)
{
    if (regex == NULL)
        return;
    pcre2_code_free(regex->code);
    sl_free(regex);
}

/* ---- match ---- */

static bool is_exhausted(const struct text_regex_match *match, size_t bytes)
{
    return match->hard_steps >= match->steps_max + (uint64_t)bytes * TEXT_HARD_STEPS_PER_BYTE ||
           match->scanned >= match->steps_max + (uint64_t)bytes * TEXT_SCANNED_PER_BYTE;
}

/* Called by PCRE2 before a repeat and behind it, there again after each step back. */
static int count_scanned(pcre2_callout_block *block, void *arg)
{
    struct text_regex_match *match = arg;
    size_t at = block->current_position, from = match->scan_from;

    if (block->callout_number == CALLOUT_BEHIND_NUMBER)
        match->scanned += at > from ? at - from : from - at;
    match->scan_from = at;
    return is_exhausted(match, block->subject_length) ? PCRE2_ERROR_CALLOUT : 0;
}

sl_status text_regex_match_create(uint64_t steps_max, struct text_regex_match **match_out)
{
    struct text_regex_match *match = sl_zalloc(1, sizeof(*match));

    match->steps_max = steps_max;
    match->data = pcre2_match_data_create(1, NULL);
    match->context = pcre2_match_context_create(NULL);
    if (match->data == NULL || match->context == NULL) {
        text_regex_match_destroy(match);
        return sl_fail(SL_NO_MEMORY, "tokenizer: match data");
    }
    pcre2_set_match_limit(match->context, EASY_STEPS);
    pcre2_set_heap_limit(match->context, HEAP_KIB_MAX);
    pcre2_set_callout(match->context, count_scanned, match);
    *match_out = match;
    return SL_OK;
}

void text_regex_match_destroy(struct text_regex_match *match)
{
    if (match == NULL)
        return;
    pcre2_match_data_free(match->data);
    pcre2_match_context_free(match->context);
    if (match->stack != NULL)
        pcre2_jit_stack_free(match->stack);
    sl_free(match);
}

uint64_t text_regex_match_steps(const struct text_regex_match *match)
{
    return match->hard_steps;
}

uint64_t text_regex_match_scanned(const struct text_regex_match *match)
{
    return match->scanned;
}

/* The JIT runs on this thread's stack until that is too small, then on one of our own, then the
 * interpreter takes over. */
static int run(const struct text_regex *regex, struct text_regex_match *match, PCRE2_SPTR text,
               size_t bytes, size_t from)
{
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;

    if (regex->jit) {
        rc = pcre2_jit_match(regex->code, text, bytes, from, 0, match->data, match->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT && match->stack == NULL) {
            match->stack = pcre2_jit_stack_create(JIT_STACK_BYTES_MIN, JIT_STACK_BYTES_MAX, NULL);
            if (match->stack != NULL) {
                pcre2_jit_stack_assign(match->context, NULL, match->stack);
                rc =
                    pcre2_jit_match(regex->code, text, bytes, from, 0, match->data, match->context);
            }
        }
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(regex->code, text, bytes, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         match->data, match->context);
    return rc;
}

/* At one place, with as many steps as it takes; *hard_out: more than EASY_STEPS. */
static int run_at(const struct text_regex *regex, struct text_regex_match *match, PCRE2_SPTR text,
                  size_t bytes, size_t at, bool *hard_out)
{
    uint32_t steps = EASY_STEPS;
    int rc;

    for (;; steps *= 2) {
        pcre2_set_match_limit(match->context, steps);
        rc = pcre2_match(regex->code, text, bytes, at,
                         PCRE2_ANCHORED | PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match->data,
                         match->context);
        if (rc != PCRE2_ERROR_MATCHLIMIT || is_exhausted(match, bytes) || steps > UINT32_MAX / 2)
            break;
        match->hard_steps += steps;
    }
    pcre2_set_match_limit(match->context, EASY_STEPS);
    *hard_out = steps > EASY_STEPS;
    return rc;
}

/* After a search from `at` that met a hard place: the places one by one up to that one, then a search
 * from behind it. */
static int run_slowly(const struct text_regex *regex, struct text_regex_match *match,
                      PCRE2_SPTR text, size_t bytes, size_t *at)
{
    for (bool hard = false; !hard;) {
        uint32_t code;
        int rc = run_at(regex, match, text, bytes, *at, &hard);
        if (rc != PCRE2_ERROR_NOMATCH || *at == bytes)
            return rc;
        *at += (size_t)sl_utf8_next((const char *)text + *at, bytes - *at, &code);
    }
    return run(regex, match, text, bytes, *at);
}

sl_status text_regex_find(const struct text_regex *regex, struct text_regex_match *match,
                          const char *text, size_t bytes, size_t from, bool *found_out,
                          size_t *start_out, size_t *end_out)
{
    size_t at = from;
    int rc = run(regex, match, (PCRE2_SPTR)text, bytes, from);

    while (rc == PCRE2_ERROR_MATCHLIMIT && !is_exhausted(match, bytes))
        rc = run_slowly(regex, match, (PCRE2_SPTR)text, bytes, &at);
    *found_out = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH)
        return SL_OK;
    if (rc < 0)
        return sl_fail(SL_EXHAUSTED,
                       "tokenizer: a pattern needs too many steps on this text (PCRE2 error %d)",
                       rc);
    const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(match->data);
    *start_out = offsets[0];
    *end_out = offsets[1];
    return SL_OK;
}
