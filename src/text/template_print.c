/* Text of values: Python's str() and repr(), and JSON as json.dumps writes it.
 *
 * A float is the shortest decimal that reads back as the same number, with an exponent where Python
 * has one. repr() of text escapes what Unicode calls not printable. */
#include "text/template_parts.h"

#include "base/utf8.h"
#include "text/chars.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

void tpl_print_float(struct sl_buf *out, double value)
{
    char digits[40], mantissa[24];
    int n = 0, exponent, precision = 0;

    if (!isfinite(value)) {
        sl_buf_add_text(out, isnan(value) ? "nan" : value < 0 ? "-inf" : "inf");
        return;
    }
    do
        snprintf(digits, sizeof(digits), "%.*e", precision++, value);
    while (precision < 17 && memcmp(&(double){strtod(digits, NULL)}, &value, sizeof(value)) != 0);
    exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    for (const char *c = digits; *c != 'e'; c++)
        if (*c >= '0' && *c <= '9')
            mantissa[n++] = *c;
    if (digits[0] == '-')
        sl_buf_add_text(out, "-");
    if (exponent < -4 || exponent >= 16) {
        sl_buf_add(out, mantissa, 1);
        if (n > 1)
            sl_buf_add_text(out, ".");
        sl_buf_add(out, mantissa + 1, (size_t)(n - 1));
        sl_buf_add_format(out, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    if (exponent < 0)
        sl_buf_add_format(out, "0.%.*s", -exponent - 1, "0000");
    for (int i = 0; i < n; i++) {
        sl_buf_add(out, &mantissa[i], 1);
        if (i == exponent && i + 1 < n)
            sl_buf_add_text(out, ".");
    }
    for (int i = n; i <= exponent; i++)
        sl_buf_add_text(out, "0");
    if (exponent >= n - 1)
        sl_buf_add_text(out, ".0");
}

static bool printable(uint32_t code)
{
    if (code < 0x80)
        return code >= ' ' && code != 0x7F;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c != UTF8PROC_CATEGORY_CN && c < UTF8PROC_CATEGORY_ZS;
}

static void repr_string(struct sl_buf *out, const char *text, size_t bytes)
{
    char quote = memchr(text, '\'', bytes) != NULL && memchr(text, '"', bytes) == NULL ? '"' : '\'';

    sl_buf_add(out, &quote, 1);
    for (size_t at = 0; at < bytes;) {
        uint32_t code = 0;
        int n = sl_utf8_next(text + at, bytes - at, &code);
        size_t length = n > 0 ? (size_t)n : 1;
        const char *short_form = code == '\n'   ? "\\n"
                                 : code == '\r' ? "\\r"
                                 : code == '\t' ? "\\t"
                                 : code == '\\' ? "\\\\"
                                                : NULL;
        if (short_form != NULL)
            sl_buf_add_text(out, short_form);
        else if (code == (uint8_t)quote)
            sl_buf_add_format(out, "\\%c", quote);
        else if (printable(code))
            sl_buf_add(out, text + at, length);
        else if (code < 0x100)
            sl_buf_add_format(out, "\\x%02x", code);
        else
            sl_buf_add_format(out, code < 0x10000 ? "\\u%04x" : "\\U%08x", code);
        at += length;
    }
    sl_buf_add(out, &quote, 1);
}

static void repr_list(struct tpl_run *run, struct sl_buf *out, const struct tpl_list *list,
                      const char *open, const char *close)
{
    sl_buf_add_text(out, open);
    for (size_t i = 0; i < list->n && !tpl_failed(run); i++) {
        if (i > 0)
            sl_buf_add_text(out, ", ");
        tpl_repr(run, out, &list->items[i]);
    }
    sl_buf_add_text(out, close);
}

static void repr_dict(struct tpl_run *run, struct sl_buf *out, const struct tpl_dict *dict)
{
    sl_buf_add_text(out, "{");
    for (size_t i = 0; i < dict->n && !tpl_failed(run); i++) {
        if (i > 0)
            sl_buf_add_text(out, ", ");
        tpl_repr(run, out, &dict->pairs[i].key);
        sl_buf_add_text(out, ": ");
        tpl_repr(run, out, &dict->pairs[i].value);
    }
    sl_buf_add_text(out, "}");
}

static void repr_range(struct sl_buf *out, const struct tpl_range *r)
{
    sl_buf_add_format(out, "range(%" PRId64 ", %" PRId64, r->start, r->stop);
    if (r->step != 1)
        sl_buf_add_format(out, ", %" PRId64, r->step);
    sl_buf_add_text(out, ")");
}

static void repr_object(struct tpl_run *run, struct sl_buf *out, const struct tpl_value *v)
{
    static const char *const views[] = {"dict_keys([", "dict_values([", "dict_items(["};

    if (v->kind == TPL_NAMESPACE) {
        sl_buf_add_text(out, "<Namespace ");
        repr_dict(run, out, v->dict);
        sl_buf_add_text(out, ">");
    } else if (v->kind == TPL_VIEW) {
        repr_list(run, out, v->list, views[v->n], "])");
    } else if (v->kind == TPL_LIST) {
        repr_list(run, out, v->list, "[", "]");
    } else if (v->kind == TPL_TUPLE) {
        repr_list(run, out, v->list, "(", v->list->n == 1 ? ",)" : ")");
    } else if (v->kind == TPL_DICT) {
        repr_dict(run, out, v->dict);
    } else if (v->kind == TPL_MACRO && v->macro->node->name != NULL) {
        sl_buf_add_format(out, "<Macro '%s'>", v->macro->node->name->text);
    } else if (v->kind == TPL_LOOP) {
        sl_buf_add_format(out, "<LoopContext %zu/%zu>", v->loop->index0 + 1, v->loop->list->n);
    } else {
        sl_buf_add_format(out, "<%s>", tpl_type(v));
    }
}

void tpl_repr(struct tpl_run *run, struct sl_buf *out, const struct tpl_value *v)
{
    if (!tpl_step(run, 1) || !tpl_enter(run))
        return;
    if (v->kind == TPL_STRING && tpl_step(run, v->n / 64))
        repr_string(out, v->text, v->n);
    else if (v->kind == TPL_UNDEFINED)
        sl_buf_add_text(out, "Undefined");
    else if (v->kind == TPL_NONE)
        sl_buf_add_text(out, "None");
    else if (v->kind == TPL_BOOL)
        sl_buf_add_text(out, v->truth ? "True" : "False");
    else if (v->kind == TPL_INT)
        sl_buf_add_format(out, "%" PRId64, v->integer);
    else if (v->kind == TPL_FLOAT)
        tpl_print_float(out, v->number);
    else if (v->kind == TPL_RANGE)
        repr_range(out, v->range);
    else
        repr_object(run, out, v);
    if (out->failed)
        tpl_exhausted(run, "bytes of text", out->bytes_max);
    tpl_leave(run);
}

void tpl_print(struct tpl_run *run, struct sl_buf *out, const struct tpl_value *v)
{
    if (v->kind == TPL_UNDEFINED || tpl_failed(run))
        return;
    if (v->kind == TPL_STRING) {
        sl_buf_add(out, v->text, v->n);
        tpl_step(run, v->n / 64);
        if (out->failed)
            tpl_exhausted(run, "bytes of text", out->bytes_max);
    } else {
        tpl_repr(run, out, v);
    }
}

struct tpl_value tpl_to_string(struct tpl_run *run, struct tpl_value v)
{
    struct sl_buf buf;

    if (v.kind == TPL_STRING)
        return v;
    tpl_buf_init(run, &buf);
    tpl_print(run, &buf, &v);
    return tpl_string_take(run, &buf);
}

void tpl_escape(struct sl_buf *out, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        const char *entity = text[i] == '&'    ? "&amp;"
                             : text[i] == '<'  ? "&lt;"
                             : text[i] == '>'  ? "&gt;"
                             : text[i] == '\'' ? "&#39;"
                             : text[i] == '"'  ? "&#34;"
                                               : NULL;
        if (entity != NULL)
            sl_buf_add_text(out, entity);
        else
            sl_buf_add(out, text + i, 1);
    }
}

struct json_style {
    bool ensure_ascii, sort_keys, lines;
    struct tpl_value indent, item_separator, key_separator;
    uint32_t level;
};

static void json_string_out(struct sl_buf *out, const struct json_style *style, const char *text,
                            size_t bytes)
{
    static const char controls[] = "\"\\\n\r\t\f\b", letters[] = "\"\\nrtfb";

    sl_buf_add_text(out, "\"");
    for (size_t at = 0; at < bytes;) {
        uint32_t code = 0;
        int n = sl_utf8_next(text + at, bytes - at, &code);
        size_t length = n > 0 ? (size_t)n : 1;
        const char *control = code > 0 && code < 0x80 ? strchr(controls, (int)code) : NULL;
        if (control != NULL)
            sl_buf_add_format(out, "\\%c", letters[control - controls]);
        else if (code < 0x20 || (style->ensure_ascii && code > 0x7E && code < 0x10000))
            sl_buf_add_format(out, "\\u%04x", code);
        else if (style->ensure_ascii && code >= 0x10000)
            sl_buf_add_format(out, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                              0xDC00 + ((code - 0x10000) & 0x3FF));
        else
            sl_buf_add(out, text + at, length);
        at += length;
    }
    sl_buf_add_text(out, "\"");
}

static void json_line(struct sl_buf *out, const struct json_style *style, uint32_t level)
{
    if (!style->lines)
        return;
    sl_buf_add_text(out, "\n");
    for (uint32_t i = 0; i < level; i++)
        sl_buf_add(out, style->indent.text, style->indent.n);
}

static void json_value_out(struct tpl_run *run, struct sl_buf *out, struct json_style *style,
                           const struct tpl_value *v);

static void json_list_out(struct tpl_run *run, struct sl_buf *out, struct json_style *style,
                          const struct tpl_list *list)
{
    sl_buf_add_text(out, "[");
    style->level++;
    for (size_t i = 0; i < list->n && !tpl_failed(run); i++) {
        if (i > 0)
            sl_buf_add(out, style->item_separator.text, style->item_separator.n);
        json_line(out, style, style->level);
        json_value_out(run, out, style, &list->items[i]);
    }
    style->level--;
    if (list->n > 0)
        json_line(out, style, style->level);
    sl_buf_add_text(out, "]");
}

static void json_key_out(struct tpl_run *run, struct sl_buf *out, struct json_style *style,
                         const struct tpl_value *key)
{
    if (key->kind == TPL_STRING) {
        json_string_out(out, style, key->text, key->n);
    } else if (key->kind == TPL_INT || key->kind == TPL_FLOAT || key->kind == TPL_BOOL ||
               key->kind == TPL_NONE) {
        sl_buf_add_text(out, "\"");
        json_value_out(run, out, style, key);
        sl_buf_add_text(out, "\"");
    } else {
        tpl_fail(run, "tojson: keys must be str, int, float, bool or None, not %s", tpl_type(key));
    }
}

/* The pairs in order of their keys (a merge would be faster; objects are short, and work counts). */
static const struct tpl_dict *sorted(struct tpl_run *run, const struct tpl_dict *dict)
{
    struct tpl_dict *copy = tpl_dict_new(run, dict->n);

    for (size_t i = 0; i < dict->n && copy != NULL && !tpl_failed(run); i++) {
        size_t at = i;
        for (; at > 0 && tpl_compare(run, &copy->pairs[at - 1].key, &dict->pairs[i].key) > 0; at--)
            copy->pairs[at] = copy->pairs[at - 1];
        copy->pairs[at] = dict->pairs[i];
        copy->n++;
    }
    return copy;
}

static void json_dict_out(struct tpl_run *run, struct sl_buf *out, struct json_style *style,
                          const struct tpl_dict *dict)
{
    if (style->sort_keys)
        dict = sorted(run, dict);
    if (dict == NULL)
        return;
    sl_buf_add_text(out, "{");
    style->level++;
    for (size_t i = 0; i < dict->n && !tpl_failed(run); i++) {
        if (i > 0)
            sl_buf_add(out, style->item_separator.text, style->item_separator.n);
        json_line(out, style, style->level);
        json_key_out(run, out, style, &dict->pairs[i].key);
        sl_buf_add(out, style->key_separator.text, style->key_separator.n);
        json_value_out(run, out, style, &dict->pairs[i].value);
    }
    style->level--;
    if (dict->n > 0)
        json_line(out, style, style->level);
    sl_buf_add_text(out, "}");
}

static void json_value_out(struct tpl_run *run, struct sl_buf *out, struct json_style *style,
                           const struct tpl_value *v)
{
    if (!tpl_step(run, 1) || !tpl_enter(run))
        return;
    if (v->kind == TPL_STRING && tpl_step(run, v->n / 64))
        json_string_out(out, style, v->text, v->n);
    else if (v->kind == TPL_NONE)
        sl_buf_add_text(out, "null");
    else if (v->kind == TPL_BOOL)
        sl_buf_add_text(out, v->truth ? "true" : "false");
    else if (v->kind == TPL_INT)
        sl_buf_add_format(out, "%" PRId64, v->integer);
    else if (v->kind == TPL_FLOAT && !isfinite(v->number))
        sl_buf_add_text(out, isnan(v->number) ? "NaN" : v->number < 0 ? "-Infinity" : "Infinity");
    else if (v->kind == TPL_FLOAT)
        tpl_print_float(out, v->number);
    else if (v->kind == TPL_LIST || v->kind == TPL_TUPLE)
        json_list_out(run, out, style, v->list);
    else if (v->kind == TPL_DICT)
        json_dict_out(run, out, style, v->dict);
    else
        tpl_fail(run, "tojson: Object of type %s is not JSON serializable", tpl_type(v));
    if (out->failed)
        tpl_exhausted(run, "bytes of text", out->bytes_max);
    tpl_leave(run);
}

static bool given(const struct tpl_value *v)
{
    return v->kind != TPL_ABSENT && v->kind != TPL_NONE;
}

/* tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False) */
struct tpl_value tpl_tojson(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,
                            const struct tpl_args *args)
{
    struct sl_buf out;
    struct json_style style = {.ensure_ascii = tpl_truth(&a[0]),
                               .sort_keys = tpl_truth(&a[3]),
                               .lines = given(&a[1]),
                               .indent = a[1],
                               .item_separator = tpl_string(", ", 2),
                               .key_separator = tpl_string(": ", 2)};

    (void)args;
    if (style.lines)
        style.item_separator.n = 1;
    if (style.lines && a[1].kind != TPL_STRING)
        style.indent = tpl_binary(run, TPL_MUL, tpl_string(" ", 1), a[1]);
    if (given(&a[2])) {
        const struct tpl_list *pair = tpl_items(run, a[2]);
        if (pair == NULL || pair->n != 2 || pair->items[0].kind != TPL_STRING ||
            pair->items[1].kind != TPL_STRING)
            return tpl_fail(run, "tojson: separators are two strings");
        style.item_separator = pair->items[0];
        style.key_separator = pair->items[1];
    }
    tpl_buf_init(run, &out);
    if (!tpl_failed(run))
        json_value_out(run, &out, &style, &self);
    return tpl_string_take(run, &out);
}
