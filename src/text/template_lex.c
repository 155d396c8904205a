/* Tokens of a template, by the rules of jinja2's lexer with trim_blocks and lstrip_blocks.
 *
 * Text between tags is data. A tag is found by its two opening characters; what stands before it may
 * lose white space: all at its end for "{%-", "{{-", "{#-"; what is between the line's start and a
 * block or comment (not a variable) for lstrip_blocks, unless "{%+". Behind a tag, "-%}" takes all
 * white space, and trim_blocks one line break behind a block or a comment. Inside of a tag brackets are
 * balanced, so that "}}" of nested dictionaries does not end it.
 *
 * All tokens are made before parsing starts; they live in the source's arena, as do unescaped
 * strings. Called while a template is opened, by one thread. */
#include "text/template_parts.h"

#include "base/utf8.h"
#include "text/chars.h"
#include "text/template.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct lexer {
    const char *what;
    struct tpl_source *source;
    const char *text; /* line breaks are "\n" */
    size_t bytes, at;
    uint32_t line;
    bool line_starting; /* the last token ended a line */
    size_t capacity;
    char stack[TEXT_TEMPLATE_NESTED_MAX]; /* closing brackets that are wanted */
    uint32_t n_stack;
};

#define LEX_FAIL(l, ...) lex_fail((l)->what, (l)->line, __VA_ARGS__)

static SL_PRINTF(3, 4) sl_status lex_fail(const char *what, uint32_t line, const char *fmt, ...)
{
    char sentence[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(sentence, sizeof(sentence), fmt, args);
    va_end(args);
    return sl_fail(SL_INVALID, "%s, line %u: %s", what, line, sentence);
}

static sl_status no_memory(const struct lexer *l)
{
    return sl_fail(SL_NO_MEMORY, "%s: %zu bytes of template", l->what, l->bytes);
}

static sl_status add(struct lexer *l, struct tpl_token token)
{
    struct tpl_source *source = l->source;

    if (source->n_tokens == l->capacity) {
        size_t capacity = l->capacity == 0 ? 256 : l->capacity * 2;
        struct tpl_token *tokens = sl_arena_try_alloc(&source->arena, capacity, sizeof(token));
        if (tokens == NULL)
            return no_memory(l);
        if (source->n_tokens > 0)
            memcpy(tokens, source->tokens, source->n_tokens * sizeof(token));
        source->tokens = tokens;
        l->capacity = capacity;
    }
    token.line = l->line;
    source->tokens[source->n_tokens++] = token;
    return SL_OK;
}

static void advance(struct lexer *l, size_t to)
{
    for (size_t i = l->at; i < to; i++)
        l->line += l->text[i] == '\n';
    if (to > l->at)
        l->line_starting = l->text[to - 1] == '\n';
    l->at = to;
}

static char peek(const struct lexer *l, size_t at)
{
    return at < l->bytes ? l->text[at] : '\0';
}

static size_t skip_space(const struct lexer *l, size_t at)
{
    while (at < l->bytes) {
        uint32_t code;
        int n = sl_utf8_next(l->text + at, l->bytes - at, &code);
        if (n <= 0 || !tpl_is_space(code))
            break;
        at += (size_t)n;
    }
    return at;
}

/* Start of the white space that ends a text. */
static size_t space_before(const char *text, size_t bytes)
{
    while (bytes > 0) {
        uint32_t code;
        size_t at = text_char_before(text, bytes, &code);
        if (!tpl_is_space(code))
            break;
        bytes = at;
    }
    return bytes;
}

/* Data up to the tag at `end`, whose sign (- + or another) is given. */
static sl_status add_data(struct lexer *l, size_t end, char sign, bool lstrip)
{
    const char *text = l->text + l->at;
    size_t n = end - l->at;
    bool line_starting = l->line_starting;

    if (sign == '-') {
        n = space_before(text, n);
    } else if (sign != '+' && lstrip) {
        size_t from = n;
        while (from > 0 && text[from - 1] != '\n')
            from--;
        if ((from > 0 || line_starting) && space_before(text + from, n - from) == 0)
            n = from;
    }
    sl_status status =
        n == 0 ? SL_OK : add(l, (struct tpl_token){.type = TPL_T_DATA, .text = text, .n = n});
    advance(l, end);
    return status;
}

/* End of a block tag at `at`: behind what it takes; 0 if there is none. */
static size_t block_end(const struct lexer *l, size_t at, char kind)
{
    char sign = peek(l, at);

    if ((sign == '-' || sign == '+') && peek(l, at + 1) == kind && peek(l, at + 2) == '}')
        return sign == '-' ? skip_space(l, at + 3) : at + 3;
    if (sign != kind || peek(l, at + 1) != '}')
        return 0;
    return peek(l, at + 2) == '\n' ? at + 3 : at + 2;
}

static size_t variable_end(const struct lexer *l, size_t at)
{
    if (peek(l, at) == '-' && peek(l, at + 1) == '}' && peek(l, at + 2) == '}')
        return skip_space(l, at + 3);
    return peek(l, at) == '}' && peek(l, at + 1) == '}' ? at + 2 : 0;
}

static bool is_sign(char c)
{
    return c == '-' || c == '+';
}

/* Whether "{% word" stands at `at`; *end_out is behind the word. */
static bool tag_word(const struct lexer *l, size_t at, const char *word, size_t *end_out)
{
    size_t n = strlen(word);

    at = skip_space(l, at + 2 + is_sign(peek(l, at + 2)));
    if (l->bytes - at < n || memcmp(l->text + at, word, n) != 0)
        return false;
    *end_out = skip_space(l, at + n);
    return true;
}

/* {% raw %}…{% endraw %}, when one begins here; *done_out tells. */
static sl_status lex_raw(struct lexer *l, bool *done_out)
{
    size_t end;

    if (!tag_word(l, l->at, "raw", &end))
        return SL_OK;
    if (peek(l, end) == '-' && peek(l, end + 1) == '%' && peek(l, end + 2) == '}')
        end = skip_space(l, end + 3);
    else if (peek(l, end) == '%' && peek(l, end + 1) == '}')
        end += 2;
    else
        return SL_OK;
    *done_out = true;
    advance(l, end);
    for (size_t at = l->at; at + 1 < l->bytes; at++) {
        if (l->text[at] != '{' || l->text[at + 1] != '%' || !tag_word(l, at, "endraw", &end))
            continue;
        end = block_end(l, end, '%');
        if (end == 0)
            continue;
        sl_status status = add_data(l, at, peek(l, at + 2), true);
        advance(l, end);
        return status;
    }
    return LEX_FAIL(l, "a raw block has no end");
}

static bool is_word(uint32_t code)
{
    return code < 0x80 ? (code >= '0' && code <= '9') || (code >= 'a' && code <= 'z') ||
                             (code >= 'A' && code <= 'Z') || code == '_'
                       : text_char_is_word(code);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int digit_of(char c)
{
    if (is_digit(c))
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}

/* Digits with single underscores between them; the end. */
static size_t digits_end(const struct lexer *l, size_t at, int base)
{
    while (digit_of(peek(l, at)) < base || (peek(l, at) == '_' && digit_of(peek(l, at + 1)) < base))
        at++;
    return at;
}

/* Length of a floating point number at `at`, 0 if there is none. */
static size_t float_end(const struct lexer *l, size_t at)
{
    size_t end = digits_end(l, at, 10), exponent;

    if (end == at || (at > 0 && l->text[at - 1] == '.'))
        return 0;
    bool fraction = peek(l, end) == '.' && is_digit(peek(l, end + 1));
    if (fraction)
        end = digits_end(l, end + 1, 10);
    exponent = end + 1 + is_sign(peek(l, end + 1));
    if ((peek(l, end) | 0x20) == 'e' && is_digit(peek(l, exponent)))
        return digits_end(l, exponent, 10);
    return fraction ? end : 0;
}

static sl_status lex_float(struct lexer *l, size_t end)
{
    char digits[400];
    size_t n = 0;

    for (size_t i = l->at; i < end && n < sizeof(digits) - 1; i++)
        if (l->text[i] != '_')
            digits[n++] = l->text[i];
    digits[n] = '\0';
    if (n == sizeof(digits) - 1)
        return LEX_FAIL(l, "a number of more than %zu digits", n);
    sl_status status =
        add(l, (struct tpl_token){.type = TPL_T_FLOAT, .value = tpl_float(strtod(digits, NULL))});
    advance(l, end);
    return status;
}

static sl_status lex_int(struct lexer *l)
{
    static const char letters[] = "box";
    static const int bases[] = {2, 8, 16};
    int base = 10;
    size_t at = l->at, end;
    const char *letter = peek(l, at) == '0' && peek(l, at + 1) != '\0'
                             ? strchr(letters, peek(l, at + 1) | 0x20)
                             : NULL;
    int64_t value = 0;

    if (letter != NULL && *letter != '\0') {
        size_t first = at + 2 + (peek(l, at + 2) == '_');
        if (digit_of(peek(l, first)) < bases[letter - letters]) {
            base = bases[letter - letters];
            at = first;
        }
    }
    end = digits_end(l, at, base);
    if (base == 10 && l->text[at] == '0') /* 0 is no start of a decimal: only zeros go on */
        for (end = at + 1; peek(l, end) == '0' || (peek(l, end) == '_' && peek(l, end + 1) == '0');)
            end++;
    for (size_t i = at; i < end; i++)
        if (l->text[i] != '_' && (__builtin_mul_overflow(value, base, &value) ||
                                  __builtin_add_overflow(value, digit_of(l->text[i]), &value)))
            return LEX_FAIL(l, "an integer beyond 64 bits");
    sl_status status = add(l, (struct tpl_token){.type = TPL_T_INT, .value = tpl_int(value)});
    advance(l, end);
    return status;
}

static sl_status lex_name(struct lexer *l)
{
    size_t end = l->at;
    uint32_t code;

    while (end < l->bytes) {
        int n = sl_utf8_next(l->text + end, l->bytes - end, &code);
        if (n <= 0 || !is_word(code))
            break;
        end += (size_t)n;
    }
    const struct tpl_name *name = tpl_intern(l->source, l->text + l->at, end - l->at);
    if (name == NULL)
        return no_memory(l);
    sl_status status =
        add(l, (struct tpl_token){.type = TPL_T_NAME, .text = name->text, .n = name->n});
    advance(l, end);
    return status;
}

/* Up to `max` digits of a base; -1 where `exact` and there are fewer. */
static int64_t escape_number(const char *text, const char *end, int base, int max, bool exact,
                             const char **next_out)
{
    int64_t code = 0;
    int n = 0;

    for (; n < max && text < end && digit_of(*text) < base; n++)
        code = code * base + digit_of(*text++);
    *next_out = text;
    return exact && n < max ? -1 : code;
}

/* One escape behind a backslash; writes its bytes and moves on. */
static sl_status unescape_one(struct lexer *l, const char **from, const char *end, char **to)
{
    static const char names[] = "abfnrtv\\'\"", values[] = "\a\b\f\n\r\t\v\\'\"";
    const char *at = *from;
    const char *found = strchr(names, *at);
    int64_t code;

    if (*at == '\n') {
        *from = at + 1;
        return SL_OK;
    }
    if (*at != '\0' && found != NULL) {
        *(*to)++ = values[found - names];
        *from = at + 1;
        return SL_OK;
    }
    if (*at == 'x' || *at == 'u' || *at == 'U') {
        code = escape_number(at + 1, end, 16, *at == 'x' ? 2 : *at == 'u' ? 4 : 8, true, from);
        if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
            return LEX_FAIL(l, "\"\\%c\" in a string is followed by no character's number", *at);
    } else if (*at >= '0' && *at < '8') {
        code = escape_number(at, end, 8, 3, false, from);
    } else if (*at == 'N') {
        return LEX_FAIL(l, "\"\\N\" in a string is not supported");
    } else {
        *(*to)++ = '\\';
        return SL_OK;
    }
    *to += text_char_put((uint32_t)code, *to);
    return SL_OK;
}

static sl_status lex_string(struct lexer *l)
{
    char quote = l->text[l->at];
    size_t end = l->at + 1;
    sl_status status = SL_OK;

    while (end < l->bytes && l->text[end] != quote)
        end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->bytes)
        return LEX_FAIL(l, "a string has no end");
    /* no escape is shorter than what it stands for, but for an octal of two digits */
    char *text = sl_arena_try_alloc(&l->source->arena, 2, end - l->at), *to = text;
    if (text == NULL)
        return no_memory(l);
    for (const char *from = l->text + l->at + 1, *stop = l->text + end; from < stop;) {
        if (*from != '\\') {
            *to++ = *from++;
            continue;
        }
        from++;
        status = unescape_one(l, &from, stop, &to);
        if (status != SL_OK)
            return status;
    }
    status =
        add(l, (struct tpl_token){.type = TPL_T_STRING, .text = text, .n = (size_t)(to - text)});
    advance(l, end + 1);
    return status;
}

static sl_status balance(struct lexer *l, char c)
{
    static const char open[] = "{([", close[] = "})]";
    const char *found = strchr(open, c);

    if (found != NULL) {
        if (l->n_stack == TEXT_TEMPLATE_NESTED_MAX)
            return LEX_FAIL(l, "more than %u levels of brackets", TEXT_TEMPLATE_NESTED_MAX);
        l->stack[l->n_stack++] = close[found - open];
    } else if (strchr(close, c) != NULL) {
        if (l->n_stack == 0)
            return LEX_FAIL(l, "unexpected '%c'", c);
        char want = l->stack[--l->n_stack];
        if (want != c)
            return LEX_FAIL(l, "unexpected '%c', expected '%c'", c, want);
    }
    return SL_OK;
}

static sl_status lex_operator(struct lexer *l)
{
    static const char *const twos[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = l->text[l->at];
    size_t n = 1;

    for (size_t i = 0; i < sizeof(twos) / sizeof(twos[0]); i++)
        if (c == twos[i][0] && peek(l, l->at + 1) == twos[i][1])
            n = 2;
    if (n == 1 && (c == '\0' || strchr("+-/*%~[](){}><=.:|,;", c) == NULL))
        return LEX_FAIL(l, "unexpected character '%c'", c >= ' ' && c < 0x7F ? c : '?');
    sl_status status = n == 1 ? balance(l, c) : SL_OK;
    if (status == SL_OK)
        status =
            add(l, (struct tpl_token){.type = TPL_T_OPERATOR, .text = l->text + l->at, .n = n});
    advance(l, l->at + n);
    return status;
}

/* One token inside of a tag. */
static sl_status lex_inside(struct lexer *l)
{
    char c = l->text[l->at];
    uint32_t code = 0;
    size_t end = is_digit(c) ? float_end(l, l->at) : 0;

    if (end > 0)
        return lex_float(l, end);
    if (is_digit(c))
        return lex_int(l);
    if (c == '\'' || c == '"')
        return lex_string(l);
    if (sl_utf8_next(l->text + l->at, l->bytes - l->at, &code) > 0 && is_word(code))
        return lex_name(l);
    return lex_operator(l);
}

/* From behind the opening of a tag to behind its end. */
static sl_status lex_tag(struct lexer *l, bool block)
{
    sl_status status =
        add(l, (struct tpl_token){.type = block ? TPL_T_BLOCK_BEGIN : TPL_T_VARIABLE_BEGIN});

    l->n_stack = 0;
    while (status == SL_OK) {
        size_t end = l->n_stack > 0 ? 0 : block ? block_end(l, l->at, '%') : variable_end(l, l->at);
        if (end > 0) {
            status =
                add(l, (struct tpl_token){.type = block ? TPL_T_BLOCK_END : TPL_T_VARIABLE_END});
            advance(l, end);
            return status;
        }
        end = skip_space(l, l->at);
        if (end > l->at) {
            advance(l, end);
            continue;
        }
        if (l->at >= l->bytes) /* the parser finds its end missing */
            return SL_OK;
        status = lex_inside(l);
    }
    return status;
}

static sl_status lex_comment(struct lexer *l)
{
    for (size_t at = l->at; at < l->bytes; at++) {
        char c = l->text[at];
        size_t end = c == '#' || is_sign(c) ? block_end(l, at, '#') : 0;
        if (end == 0)
            continue;
        advance(l, end);
        return SL_OK;
    }
    return LEX_FAIL(l, "a comment has no end");
}

static sl_status lex_root(struct lexer *l)
{
    size_t at = l->at;

    while (at + 1 < l->bytes &&
           (l->text[at] != '{' || strchr("%{#", l->text[at + 1]) == NULL || l->text[at + 1] == 0))
        at++;
    if (at + 1 >= l->bytes)
        return add_data(l, l->bytes, '+', false);
    char kind = l->text[at + 1], sign = peek(l, at + 2);
    sl_status status = add_data(l, at, sign, kind != '{');
    bool raw = false;
    if (status == SL_OK && kind == '%')
        status = lex_raw(l, &raw);
    if (status != SL_OK || raw)
        return status;
    advance(l, at + 2 + is_sign(sign));
    return kind == '#' ? lex_comment(l) : lex_tag(l, kind == '%');
}

/* The text with line breaks as "\n", without the last one. */
static sl_status normalize(struct lexer *l)
{
    const char *text = l->source->text;
    size_t n = 0;
    char *copy = sl_arena_try_alloc(&l->source->arena, 1, l->source->bytes + 1);

    if (copy == NULL)
        return no_memory(l);
    for (size_t i = 0; i < l->source->bytes; i++) {
        if (text[i] == '\r' && i + 1 < l->source->bytes && text[i + 1] == '\n')
            continue;
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (n > 0 && copy[n - 1] == '\n')
        n--;
    copy[n] = '\0';
    l->text = copy;
    l->bytes = n;
    return SL_OK;
}

sl_status tpl_lex(const char *what, struct tpl_source *source)
{
    struct lexer l = {.what = what, .source = source, .line = 1, .line_starting = true};
    sl_status status = normalize(&l);

    source->n_tokens = 0;
    while (status == SL_OK && l.at < l.bytes)
        status = lex_root(&l);
    if (status == SL_OK)
        status = add(&l, (struct tpl_token){.type = TPL_T_END});
    return status;
}

static uint32_t hash_of(const char *text, size_t n)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (uint8_t)text[i]) * 16777619u;
    return (hash ^ (hash >> 16)) % TPL_BUCKETS;
}

const struct tpl_name *tpl_name_find(const struct tpl_source *source, const char *text, size_t n)
{
    for (const struct tpl_name *name = source->buckets[hash_of(text, n)]; name != NULL;
         name = name->next)
        if (name->n == n && memcmp(name->text, text, n) == 0)
            return name;
    return NULL;
}

const struct tpl_name *tpl_intern(struct tpl_source *source, const char *text, size_t n)
{
    const struct tpl_name *found = tpl_name_find(source, text, n);
    struct tpl_name **bucket = &source->buckets[hash_of(text, n)];

    if (found != NULL)
        return found;
    struct tpl_name *name = sl_arena_try_alloc(&source->arena, 1, sizeof(*name));
    char *copy = sl_arena_try_strndup(&source->arena, text, n);
    if (name == NULL || copy == NULL)
        return NULL;
    *name = (struct tpl_name){.text = copy, .n = n, .next = *bucket};
    *bucket = name;
    return name;
}
