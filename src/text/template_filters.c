/* Filters of single values: text, numbers, defaults. Those of sequences are in template_sequences.c,
 * those that set a text in columns in template_layout.c.
 *
 * Names, arguments and results are those of jinja2; tojson is the one that transformers puts in its
 * place. Filters of jinja2 that no chat template has a use for (urlize, xmlattr, pprint …) are not
 * here, and are an error with their name when they are reached. */
#include "text/template_natives.h"

#include "base/utf8.h"
#include "text/chars.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

NATIVE(filter_trim)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    return tpl_failed(run) ? text : tpl_strip(run, text, &a[0], true, true);
}

static struct tpl_value case_of(struct tpl_run *run, struct tpl_value self, enum tpl_case_kind kind)
{
    struct tpl_value text = tpl_to_string(run, self);
    return tpl_failed(run) ? text : tpl_case(run, text, kind);
}

NATIVE(filter_upper)
{
    UNUSED();
    return case_of(run, self, TPL_UPPER);
}

NATIVE(filter_lower)
{
    UNUSED();
    return case_of(run, self, TPL_LOWER);
}

NATIVE(filter_capitalize)
{
    UNUSED();
    return case_of(run, self, TPL_CAPITALIZE);
}

/* Words begin behind white space and - ( { [ <; the first character of a word becomes upper case. */
NATIVE(filter_title)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    struct sl_buf out;
    bool in_word = false;

    tpl_buf_init(run, &out);
    for (size_t at = 0; at < text.n && !tpl_failed(run);) {
        uint32_t code = 0;
        int n = sl_utf8_next(text.text + at, text.n - at, &code);
        size_t end = at + (n > 0 ? (size_t)n : 1);
        bool separator =
            tpl_is_space(code) || (code < 0x80 && code > 0 && strchr("-({[<", (int)code));
        if (!separator && in_word) /* the rest of the word at once, for the final sigma */
            while (end < text.n) {
                n = sl_utf8_next(text.text + end, text.n - end, &code);
                if (tpl_is_space(code) || (code < 0x80 && code > 0 && strchr("-({[<", (int)code)))
                    break;
                end += n > 0 ? (size_t)n : 1;
            }
        struct tpl_value part = tpl_string(text.text + at, end - at);
        if (!separator)
            part = tpl_case(run, part, in_word ? TPL_LOWER : TPL_UPPER);
        tpl_print(run, &out, &part);
        in_word = !separator;
        at = end;
    }
    return tpl_string_take(run, &out);
}

NATIVE(filter_string)
{
    UNUSED();
    return tpl_to_string(run, self);
}

NATIVE(filter_safe)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    text.safe = true;
    return text;
}

static struct tpl_value escaped(struct tpl_run *run, struct tpl_value self)
{
    struct tpl_value text = tpl_to_string(run, self);
    struct sl_buf out;

    tpl_buf_init(run, &out);
    if (!tpl_failed(run) && tpl_step(run, text.n / 16))
        tpl_escape(&out, text.text, text.n);
    text = tpl_string_take(run, &out);
    text.safe = true;
    return text;
}

NATIVE(filter_escape)
{
    UNUSED();
    return self.kind == TPL_STRING && self.safe ? self : escaped(run, self);
}

NATIVE(filter_forceescape)
{
    UNUSED();
    return escaped(run, self);
}

NATIVE(filter_replace)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    struct tpl_value old = tpl_to_string(run, a[0]), new = tpl_to_string(run, a[1]);
    int64_t count = tpl_int_arg(run, "replace: count", &a[2], -1);

    return tpl_failed(run) ? tpl_none() : tpl_replace(run, text, old, new, count);
}

NATIVE(filter_default)
{
    UNUSED();
    if (self.kind != TPL_UNDEFINED && (!tpl_truth(&a[1]) || tpl_truth(&self)))
        return self;
    return a[0].kind == TPL_ABSENT ? tpl_string("", 0) : a[0];
}

/* A number in text, by Python's rules for int() and float(): white space around, underscores within.
 * False if it is none. */
static bool digits_of(struct tpl_run *run, const struct tpl_value *text, char *digits, size_t max)
{
    const struct tpl_value absent = {.kind = TPL_ABSENT};
    struct tpl_value part = tpl_strip(run, *text, &absent, true, true);
    size_t n = 0;

    for (size_t i = 0; i < part.n; i++) {
        char c = part.text[i];
        bool between =
            i > 0 && i + 1 < part.n && part.text[i - 1] >= '0' && part.text[i - 1] != '_';
        if (c == '_' && between && part.text[i + 1] >= '0' && part.text[i + 1] != '_')
            continue;
        if (c == '_' || c == '\0' || (unsigned char)c >= 0x80 || n + 1 >= max)
            return false;
        digits[n++] = c;
    }
    digits[n] = '\0';
    return n > 0;
}

static bool parse_float(struct tpl_run *run, const struct tpl_value *v, double *out)
{
    char digits[400], *end;

    if (v->kind == TPL_FLOAT || v->kind == TPL_INT || v->kind == TPL_BOOL) {
        *out = v->kind == TPL_FLOAT ? v->number
               : v->kind == TPL_INT ? (double)v->integer
                                    : v->truth;
        return true;
    }
    if (v->kind != TPL_STRING || !digits_of(run, v, digits, sizeof(digits)) ||
        strpbrk(digits, "xXpP(") != NULL)
        return false;
    *out = strtod(digits, &end);
    return *end == '\0' && (digits[0] > ' ');
}

static bool parse_int(struct tpl_run *run, const struct tpl_value *v, int base, int64_t *out)
{
    char digits[400], *end;

    if (!digits_of(run, v, digits, sizeof(digits)))
        return false;
    const char *number = digits[0] == '-' || digits[0] == '+' ? digits + 1 : digits;
    if (base == 10 && (number[0] < '0' || number[0] > '9'))
        return false;
    errno = 0;
    *out = strtoll(digits, &end, base);
    if (errno == ERANGE)
        tpl_fail(run, "an integer beyond 64 bits");
    return *end == '\0' && end != digits;
}

NATIVE(filter_int)
{
    UNUSED();
    int64_t base = tpl_int_arg(run, "int: base", &a[1], 10), value;
    double number;

    if (self.kind == TPL_INT)
        return self;
    if (self.kind == TPL_UNDEFINED)
        return tpl_type_error(run, "int", &self);
    if (self.kind == TPL_STRING && (base == 0 || (base >= 2 && base <= 36)) &&
        parse_int(run, &self, (int)base, &value))
        return tpl_int(value);
    if (parse_float(run, &self, &number) && isfinite(number)) {
        if (!(number > -9.2e18 && number < 9.2e18))
            return tpl_fail(run, "an integer beyond 64 bits");
        return tpl_int((int64_t)number);
    }
    return a[0].kind == TPL_ABSENT ? tpl_int(0) : a[0];
}

NATIVE(filter_float)
{
    UNUSED();
    double number;

    if (self.kind == TPL_UNDEFINED)
        return tpl_type_error(run, "float", &self);
    if (parse_float(run, &self, &number))
        return tpl_float(number);
    return a[0].kind == TPL_ABSENT ? tpl_float(0) : a[0];
}

NATIVE(filter_abs)
{
    UNUSED();
    if (self.kind == TPL_FLOAT)
        return tpl_float(fabs(self.number));
    if (self.kind == TPL_BOOL)
        return tpl_int(self.truth);
    if (self.kind != TPL_INT || self.integer == INT64_MIN)
        return tpl_type_error(run, "abs", &self);
    return tpl_int(self.integer < 0 ? -self.integer : self.integer);
}

NATIVE(filter_round)
{
    UNUSED();
    char digits[400];
    int64_t precision = tpl_int_arg(run, "round: precision", &a[0], 0);
    bool common = a[1].kind == TPL_ABSENT ||
                  (a[1].kind == TPL_STRING && a[1].n == 6 && memcmp(a[1].text, "common", 6) == 0);

    if (self.kind != TPL_FLOAT && self.kind != TPL_INT && self.kind != TPL_BOOL)
        return tpl_type_error(run, "round", &self);
    if (precision < 0 || precision > 300)
        return tpl_fail(run, "round: a precision of %lld is not supported", (long long)precision);
    bool up = a[1].kind == TPL_STRING && a[1].n == 4 && memcmp(a[1].text, "ceil", 4) == 0;
    bool down = a[1].kind == TPL_STRING && a[1].n == 5 && memcmp(a[1].text, "floor", 5) == 0;
    if (!common && !up && !down)
        return tpl_fail(run, "round: method must be common, ceil or floor");
    if (common && self.kind != TPL_FLOAT)
        return tpl_int(self.kind == TPL_BOOL ? self.truth : self.integer);
    double value = self.kind == TPL_FLOAT ? self.number
                   : self.kind == TPL_INT ? (double)self.integer
                                          : self.truth;
    if (common && fabs(value) < 1e16) { /* beyond it none has a fraction */
        snprintf(digits, sizeof(digits), "%.*f", (int)precision, value);
        return tpl_float(strtod(digits, NULL));
    }
    if (common)
        return self;
    double scale = pow(10, (double)precision);
    return tpl_float((up ? ceil(value * scale) : floor(value * scale)) / scale);
}

/* indent(s, width=4, first=False, blank=False) */
NATIVE(filter_indent)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self), indent = a[0];
    struct sl_buf out;

    if (indent.kind != TPL_STRING)
        indent = tpl_binary(run, TPL_MUL, tpl_string(" ", 1),
                            tpl_int(tpl_int_arg(run, "indent: width", &a[0], 4)));
    const struct tpl_value method = {.kind = TPL_STRING};
    struct tpl_value all = tpl_binary(run, TPL_ADD, text, tpl_string("\n", 1));
    const struct tpl_native *splitlines = tpl_method_find(&method, "splitlines", 10);
    struct tpl_args none = {0};
    struct tpl_value lines = tpl_call_native(run, splitlines, all, &none);
    if (tpl_failed(run))
        return tpl_none();
    tpl_buf_init(run, &out);
    for (size_t i = 0; i < lines.list->n && !tpl_failed(run); i++) {
        const struct tpl_value *line = &lines.list->items[i];
        if (i > 0)
            sl_buf_add_text(&out, "\n");
        if (i == 0 ? tpl_truth(&a[1]) : line->n > 0 || tpl_truth(&a[2]))
            tpl_print(run, &out, &indent);
        tpl_print(run, &out, line);
    }
    return tpl_string_take(run, &out);
}

NATIVE(filter_format)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    struct tpl_list list = {.items = args->items, .n = args->n};
    struct tpl_value values = tpl_of_list(TPL_TUPLE, &list);

    if (args->n > 0 && args->n_keywords > 0)
        return tpl_fail(run, "can't handle positional and keyword arguments at the same time");
    if (args->n_keywords > 0) {
        struct tpl_dict *dict = tpl_dict_new(run, args->n_keywords);
        for (size_t i = 0; i < args->n_keywords; i++)
            tpl_dict_set(run, dict, tpl_string(args->keywords[i].name, args->keywords[i].bytes),
                         args->keywords[i].value);
        values = tpl_of_dict(TPL_DICT, dict);
    }
    return tpl_failed(run) ? text : tpl_percent(run, text, values);
}

/* A method of that name; jinja2 looks at no item here. */
NATIVE(filter_attr)
{
    UNUSED();
    if (!tpl_text_arg(run, "attr", &a[0]))
        return tpl_none();
    if (self.kind == TPL_DICT && tpl_method_find(&self, a[0].text, a[0].n) == NULL)
        return tpl_undefined(a[0].text, a[0].n, TPL_DICT);
    return tpl_attribute(run, self, a[0].text, a[0].n);
}

NATIVE(filter_wordcount)
{
    UNUSED();
    struct tpl_value text = tpl_to_string(run, self);
    int64_t n = 0;
    bool in_word = false;

    for (size_t at = 0; at < text.n && !tpl_failed(run);) {
        uint32_t code = 0;
        int bytes = sl_utf8_next(text.text + at, text.n - at, &code);
        bool word = text_char_is_word(code);
        n += word && !in_word;
        in_word = word;
        at += bytes > 0 ? (size_t)bytes : 1;
    }
    return tpl_int(n);
}

static const struct tpl_native filters[] = {
    {"trim", filter_trim, "chars", 0},
    {"tojson", tpl_tojson, "ensure_ascii indent separators sort_keys", 0},
    {"upper", filter_upper, "", 0},
    {"lower", filter_lower, "", 0},
    {"capitalize", filter_capitalize, "", 0},
    {"title", filter_title, "", 0},
    {"string", filter_string, "", 0},
    {"safe", filter_safe, "", 0},
    {"escape", filter_escape, "", 0},
    {"e", filter_escape, "", 0},
    {"forceescape", filter_forceescape, "", 0},
    {"replace", filter_replace, "old new count", 2},
    {"default", filter_default, "default_value boolean", 0},
    {"d", filter_default, "default_value boolean", 0},
    {"int", filter_int, "default base", 0},
    {"float", filter_float, "default", 0},
    {"abs", filter_abs, "", 0},
    {"round", filter_round, "precision method", 0},
    {"indent", filter_indent, "width first blank", 0},
    {"format", filter_format, "*", 0},
    {"attr", filter_attr, "name", 1},
    {"wordcount", filter_wordcount, "", 0},
    {NULL, NULL, NULL, 0},
};

const struct tpl_native *tpl_filter_find(const char *name, size_t n)
{
    const struct tpl_native *found = tpl_row_find(filters, name, n);

    if (found == NULL)
        found = tpl_layout_filter_find(name, n);
    return found != NULL ? found : tpl_sequence_filter_find(name, n);
}
