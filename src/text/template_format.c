/* Formatting: the "%" operator, str.format and strftime_now.
 *
 * A specification is [[fill]align][sign][#][0][width][,][.precision][type], for text, integers and
 * floats; what else Python knows (attributes of arguments, nested fields, "e" of integers …) is an
 * error that says so. */
#include "text/template_parts.h"

#include "base/utf8.h"
#include "text/chars.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#define WIDTH_MAX 10000

struct spec {
    char fill[4];
    size_t fill_bytes;
    char align, sign, type;
    bool given, alternate, thousands; /* given: it says anything */
    int width, precision;             /* precision -1: none */
};

static void pad(struct sl_buf *out, const struct spec *spec, const char *text, size_t bytes,
                char align)
{
    size_t chars = tpl_count_chars(text, bytes);
    size_t width = (size_t)spec->width, missing = width > chars ? width - chars : 0;
    size_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;

    if (align == '=' && bytes > 0 && (text[0] == '-' || text[0] == '+' || text[0] == ' ')) {
        sl_buf_add(out, text++, 1);
        bytes--;
    }
    if (align == '=')
        left = missing;
    for (size_t i = 0; i < left; i++)
        sl_buf_add(out, spec->fill, spec->fill_bytes);
    sl_buf_add(out, text, bytes);
    for (size_t i = left; i < missing; i++)
        sl_buf_add(out, spec->fill, spec->fill_bytes);
}

/* Digits of a number with a comma between groups of three before the point. */
static void group(struct sl_buf *out, const char *digits)
{
    size_t whole = strspn(digits, "0123456789");

    for (size_t i = 0; i < whole; i++) {
        if (i > 0 && (whole - i) % 3 == 0)
            sl_buf_add_text(out, ",");
        sl_buf_add(out, digits + i, 1);
    }
    sl_buf_add_text(out, digits + whole);
}

static bool format_number(struct tpl_run *run, struct sl_buf *out, const struct spec *spec,
                          const struct tpl_value *v)
{
    char digits[512];
    struct sl_buf number;
    int64_t i = v->kind == TPL_BOOL ? v->truth : v->integer;
    uint64_t magnitude = i < 0 ? -(uint64_t)i : (uint64_t)i;
    bool negative = v->kind == TPL_FLOAT ? v->number < 0 : i < 0;
    int precision = spec->precision < 0 ? 6 : spec->precision > 100 ? 100 : spec->precision;
    double number_value = v->kind == TPL_FLOAT ? v->number : (double)i;
    double positive = negative ? -number_value : number_value;
    const char *prefix = "";

    sl_buf_init(&number, sizeof(digits) * 2);
    if (strchr("eEfFgG%", spec->type) != NULL && spec->type != '\0') {
        if (spec->type == 'e' || spec->type == 'E')
            snprintf(digits, sizeof(digits), "%.*e", precision, positive);
        else if (spec->type == 'g' || spec->type == 'G')
            snprintf(digits, sizeof(digits), "%.*g", precision, positive);
        else
            snprintf(digits, sizeof(digits), "%.*f%s", precision,
                     spec->type == '%' ? positive * 100 : positive, spec->type == '%' ? "%" : "");
    } else if (v->kind == TPL_FLOAT && spec->type == '\0' && spec->precision < 0) {
        tpl_print_float(&number, positive);
        snprintf(digits, sizeof(digits), "%s", number.data);
        sl_buf_reset(&number);
    } else if (v->kind == TPL_FLOAT && spec->type == '\0') {
        snprintf(digits, sizeof(digits), "%.*g", precision, positive);
    } else if (v->kind != TPL_FLOAT && (spec->type == '\0' || spec->type == 'd')) {
        snprintf(digits, sizeof(digits), "%" PRIu64, magnitude);
    } else if (v->kind != TPL_FLOAT && (spec->type == 'x' || spec->type == 'X')) {
        snprintf(digits, sizeof(digits), spec->type == 'x' ? "%" PRIx64 : "%" PRIX64, magnitude);
        prefix = spec->alternate ? "0x" : "";
    } else if (v->kind != TPL_FLOAT && spec->type == 'o') {
        snprintf(digits, sizeof(digits), "%" PRIo64, magnitude);
        prefix = spec->alternate ? "0o" : "";
    } else {
        tpl_fail(run, "format code '%c' is not supported for '%s'", spec->type, tpl_type(v));
        sl_buf_fini(&number);
        return false;
    }
    if (negative)
        sl_buf_add_text(&number, "-");
    else if (spec->sign == '+' || spec->sign == ' ')
        sl_buf_add(&number, &spec->sign, 1);
    sl_buf_add_text(&number, prefix);
    if (spec->thousands)
        group(&number, digits);
    else
        sl_buf_add_text(&number, digits);
    if (!number.failed)
        pad(out, spec, number.data, number.bytes, spec->align != '\0' ? spec->align : '>');
    else
        tpl_fail(run, "a number is too long");
    sl_buf_fini(&number);
    return !tpl_failed(run);
}

static void format_text(struct sl_buf *out, const struct spec *spec, const char *text, size_t bytes)
{
    if (spec->precision >= 0)
        bytes = tpl_char_at(text, bytes, (size_t)spec->precision);
    pad(out, spec, text, bytes, spec->align != '\0' ? spec->align : '<');
}

static int read_number(const char **at, const char *end)
{
    int n = 0;

    while (*at < end && **at >= '0' && **at <= '9' && n <= WIDTH_MAX)
        n = n * 10 + (*(*at)++ - '0');
    return n;
}

/* The specification of a replacement field, up to `end`. */
static bool parse_spec(struct tpl_run *run, const char *at, const char *end, struct spec *spec)
{
    uint32_t code;
    int n = at < end ? sl_utf8_next(at, (size_t)(end - at), &code) : 0;

    *spec = (struct spec){.fill = " ", .fill_bytes = 1, .precision = -1, .given = at < end};
    if (n > 0 && at + n < end && strchr("<>^=", at[n]) != NULL) {
        memcpy(spec->fill, at, (size_t)n);
        spec->fill_bytes = (size_t)n;
        spec->align = at[n];
        at += n + 1;
    } else if (at < end && *at != '\0' && strchr("<>^=", *at) != NULL) {
        spec->align = *at++;
    }
    if (at < end && (*at == '+' || *at == '-' || *at == ' '))
        spec->sign = *at++;
    if (at < end && *at == '#') {
        spec->alternate = true;
        at++;
    }
    if (at < end && *at == '0' && spec->align == '\0') {
        spec->fill[0] = '0';
        spec->align = '=';
        at++;
    }
    spec->width = read_number(&at, end);
    if (at < end && *at == ',') {
        spec->thousands = true;
        at++;
    }
    if (at < end && *at == '.') {
        at++;
        spec->precision = read_number(&at, end);
    }
    if (at < end)
        spec->type = *at++;
    if (at == end && spec->width <= WIDTH_MAX && spec->precision <= WIDTH_MAX)
        return true;
    tpl_fail(run, "this format specification is not supported");
    return false;
}

static void format_value(struct tpl_run *run, struct sl_buf *out, const struct spec *spec,
                         struct tpl_value v)
{
    bool number = v.kind == TPL_INT || v.kind == TPL_FLOAT || (v.kind == TPL_BOOL && spec->given);

    if (number && spec->type != 's') {
        format_number(run, out, spec, &v);
        return;
    }
    if ((spec->type != '\0' && spec->type != 's') || number) {
        tpl_fail(run, "format code '%c' is not supported for '%s'", spec->type, tpl_type(&v));
        return;
    }
    struct tpl_value text = tpl_to_string(run, v);
    if (!tpl_failed(run))
        format_text(out, spec, text.text, text.n);
}

/* The argument that a field names: "", "0" or "key". */
static struct tpl_value field_argument(struct tpl_run *run, const struct tpl_args *args,
                                       const char *name, size_t n, size_t *automatic)
{
    const char *at = name;
    size_t index;

    for (size_t i = 0; i < args->n_keywords; i++)
        if (args->keywords[i].bytes == n && memcmp(args->keywords[i].name, name, n) == 0)
            return args->keywords[i].value;
    index = n == 0 ? (*automatic)++ : (size_t)read_number(&at, name + n);
    if (at != name + n)
        return tpl_fail(run, "format: no argument '%.*s'", (int)(n < 60 ? n : 60), name);
    if (index >= args->n)
        return tpl_fail(run, "format: replacement index %zu out of range", index);
    return args->items[index];
}

/* One field, between its braces. */
static void format_field(struct tpl_run *run, struct sl_buf *out, const struct tpl_args *args,
                         const char *field, const char *end, size_t *automatic)
{
    const char *colon = memchr(field, ':', (size_t)(end - field));
    const char *name_end = colon != NULL ? colon : end;
    const char *bang = memchr(field, '!', (size_t)(name_end - field));
    struct spec spec;

    if (bang != NULL)
        name_end = bang;
    struct tpl_value v = field_argument(run, args, field, (size_t)(name_end - field), automatic);
    if (tpl_failed(run))
        return;
    if (bang != NULL && bang[1] == 'r') {
        struct sl_buf text;
        tpl_buf_init(run, &text);
        tpl_repr(run, &text, &v);
        v = tpl_string_take(run, &text);
    } else if (bang != NULL && bang[1] == 's') {
        v = tpl_to_string(run, v);
    } else if (bang != NULL) {
        tpl_fail(run, "format: unknown conversion");
    }
    if (!tpl_failed(run) && parse_spec(run, colon != NULL ? colon + 1 : end, end, &spec))
        format_value(run, out, &spec, v);
}

struct tpl_value tpl_str_format(struct tpl_run *run, struct tpl_value self,
                                const struct tpl_value *a, const struct tpl_args *args)
{
    const char *at = self.text, *end = self.text + self.n;
    struct sl_buf out;
    size_t automatic = 0;

    (void)a;
    tpl_buf_init(run, &out);
    while (at < end && tpl_step(run, 1)) {
        if ((*at == '{' || *at == '}') && at + 1 < end && at[1] == *at) {
            sl_buf_add(&out, at, 1);
            at += 2;
        } else if (*at == '{') {
            const char *close = memchr(at, '}', (size_t)(end - at));
            if (close == NULL || memchr(at + 1, '{', (size_t)(close - at - 1)) != NULL) {
                tpl_fail(run, "format: a field has no end, or has a field inside");
                break;
            }
            format_field(run, &out, args, at + 1, close, &automatic);
            at = close + 1;
        } else if (*at == '}') {
            tpl_fail(run, "format: Single '}' encountered in format string");
        } else {
            sl_buf_add(&out, at++, 1);
        }
    }
    return tpl_string_take(run, &out);
}

struct percent {
    struct tpl_value values;
    const struct tpl_list *list; /* NULL: one value */
    size_t next;
};

static struct tpl_value next_value(struct tpl_run *run, struct percent *p)
{
    size_t n = p->list != NULL ? p->list->n : 1;

    if (p->next >= n)
        return tpl_fail(run, "not enough arguments for format string");
    return p->list != NULL ? p->list->items[p->next++] : (p->next++, p->values);
}

/* One conversion behind "%"; returns what is behind it. */
static const char *percent_one(struct tpl_run *run, struct sl_buf *out, struct percent *p,
                               const char *at, const char *end)
{
    struct spec spec = {.fill = " ", .fill_bytes = 1, .precision = -1, .align = '>'};
    struct tpl_value v = tpl_none();
    bool named = at < end && *at == '(';

    if (named) {
        const char *close = memchr(at, ')', (size_t)(end - at));
        if (close == NULL || p->values.kind != TPL_DICT) {
            tpl_fail(run, "format requires a mapping");
            return end;
        }
        v = tpl_item(run, p->values, tpl_string(at + 1, (size_t)(close - at - 1)));
        at = close + 1;
    }
    for (; at < end && *at != '\0' && strchr("-+ #0", *at) != NULL; at++) {
        if (*at == '-')
            spec.align = '<', spec.fill[0] = ' ';
        else if (*at == '+' || (*at == ' ' && spec.sign == '\0'))
            spec.sign = *at;
        else if (*at == '0' && spec.align != '<')
            spec.align = '=', spec.fill[0] = '0';
        spec.alternate = spec.alternate || *at == '#';
    }
    spec.width = read_number(&at, end);
    if (at < end && *at == '.') {
        at++;
        spec.precision = read_number(&at, end);
    }
    if (at >= end || spec.width > WIDTH_MAX || spec.precision > WIDTH_MAX) {
        tpl_fail(run, "incomplete format");
        return end;
    }
    spec.type = *at++;
    if (!named)
        v = next_value(run, p);
    if (spec.type == 's' || spec.type == 'r') {
        if (spec.type == 'r' || v.kind != TPL_STRING) {
            struct sl_buf text;
            tpl_buf_init(run, &text);
            if (spec.type == 'r')
                tpl_repr(run, &text, &v);
            else
                tpl_print(run, &text, &v);
            v = tpl_string_take(run, &text);
        }
        if (!tpl_failed(run))
            format_text(out, &spec, v.text, v.n);
        return at;
    }
    if (v.kind != TPL_INT && v.kind != TPL_FLOAT && v.kind != TPL_BOOL) {
        tpl_fail(run, "%%%c format: a number is required, not %s", spec.type, tpl_type(&v));
        return end;
    }
    if (spec.type == 'i' || spec.type == 'u')
        spec.type = 'd';
    if (spec.type == 'd' && v.kind == TPL_FLOAT) {
        if (!(v.number > -9e18 && v.number < 9e18)) {
            tpl_fail(run, "a number beyond 64 bits");
            return end;
        }
        v = tpl_int((int64_t)v.number);
    }
    format_number(run, out, &spec, &v);
    return at;
}

struct tpl_value tpl_percent(struct tpl_run *run, struct tpl_value format, struct tpl_value values)
{
    struct percent p = {.values = values, .list = values.kind == TPL_TUPLE ? values.list : NULL};
    const char *at = format.text, *end = format.text + format.n;
    struct sl_buf out;

    tpl_buf_init(run, &out);
    while (at < end && tpl_step(run, 1)) {
        if (*at != '%') {
            sl_buf_add(&out, at++, 1);
        } else if (at + 1 < end && at[1] == '%') {
            sl_buf_add_text(&out, "%");
            at += 2;
        } else {
            at = percent_one(run, &out, &p, at + 1, end);
        }
    }
    size_t n = p.list != NULL                                       ? p.list->n
               : values.kind == TPL_DICT || values.kind == TPL_LIST ? 0
                                                                    : 1;
    if (!tpl_failed(run) && p.next < n)
        tpl_fail(run, "not all arguments converted during string formatting");
    return tpl_string_take(run, &out);
}

struct tpl_value tpl_strftime(struct tpl_run *run, const struct tpl_value *format)
{
    char pattern[256], text[1024];
    time_t seconds = (time_t)run->now;
    struct tm parts;

    if (format->kind != TPL_STRING || format->n >= sizeof(pattern) - 1)
        return tpl_fail(run, "strftime_now wants a format of at most %zu bytes",
                        sizeof(pattern) - 2);
    if (localtime_r(&seconds, &parts) == NULL)
        return tpl_fail(run, "strftime_now: no such time");
    memcpy(pattern, format->text, format->n);
    pattern[format->n] = ' '; /* so that an empty result is no error */
    pattern[format->n + 1] = '\0';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(text, sizeof(text), pattern, &parts);
#pragma GCC diagnostic pop
    if (n == 0)
        return tpl_fail(run, "strftime_now: the text is too long");
    return tpl_string_copy(run, text, n - 1);
}
