/* Methods of strings and dictionaries, and the attributes of a loop.
 *
 * A name that a Python type has as a method hides a key of that name: message.items is the method.
 * Methods that would change a list or a dictionary do not exist here, as in jinja2's sandbox. */
#include "text/template_natives.h"

#include "base/utf8.h"
#include "text/chars.h"

#include <utf8proc.h>

NATIVE(str_strip)
{
    UNUSED();
    return tpl_strip(run, self, &a[0], true, true);
}

NATIVE(str_lstrip)
{
    UNUSED();
    return tpl_strip(run, self, &a[0], true, false);
}

NATIVE(str_rstrip)
{
    UNUSED();
    return tpl_strip(run, self, &a[0], false, true);
}

/* Fields between white space, of which at most max splits are made, from one side. */
static struct tpl_list *split_space(struct tpl_run *run, struct tpl_value self, int64_t max,
                                    bool right)
{
    struct tpl_list *list = tpl_list_new(run, 0);
    const struct tpl_value absent = {.kind = TPL_ABSENT};
    struct tpl_value rest = tpl_strip(run, self, &absent, !right, right);

    while (rest.n > 0 && !tpl_failed(run)) {
        size_t at = right ? rest.n : 0, n = 0;
        uint32_t code;
        while (right ? at > 0 : at < rest.n) {
            size_t before = right ? text_char_before(rest.text, at, &code) : at;
            n = right ? at - before : (size_t)sl_utf8_next(rest.text + at, rest.n - at, &code);
            if (tpl_is_space(code))
                break;
            at = right ? before : at + n;
        }
        bool last = max == 0 || (right ? at == 0 : at == rest.n);
        max -= max > 0;
        if (last) {
            tpl_list_add(run, list, rest);
            break;
        }
        tpl_step(run, 1);
        tpl_list_add(run, list,
                     right ? tpl_string(rest.text + at, rest.n - at) : tpl_string(rest.text, at));
        rest = right ? tpl_string(rest.text, at) : tpl_string(rest.text + at, rest.n - at);
        rest = tpl_strip(run, rest, &absent, !right, right);
    }
    return list;
}

static struct tpl_list *split_at(struct tpl_run *run, struct tpl_value self,
                                 const struct tpl_value *separator, int64_t max, bool right)
{
    struct tpl_list *list = tpl_list_new(run, 0);
    size_t from = 0, to = self.n, n = separator->n;

    for (; max != 0 && tpl_step(run, 1); max -= max > 0) {
        size_t at = tpl_find(run, self.text, from, to, separator->text, n, right);
        if (at == SIZE_MAX)
            break;
        if (right) {
            tpl_list_add(run, list, tpl_string(self.text + at + n, to - at - n));
            to = at;
        } else {
            tpl_list_add(run, list, tpl_string(self.text + from, at - from));
            from = at + n;
        }
    }
    tpl_list_add(run, list, tpl_string(self.text + from, to - from));
    return list;
}

static struct tpl_value split(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,
                              bool right)
{
    int64_t max = tpl_int_arg(run, "split: maxsplit", &a[1], -1);
    struct tpl_list *list;

    if (a[0].kind == TPL_ABSENT || a[0].kind == TPL_NONE)
        list = split_space(run, self, max, right);
    else if (!tpl_text_arg(run, "split: separator", &a[0]))
        return tpl_none();
    else if (a[0].n == 0)
        return tpl_fail(run, "empty separator");
    else
        list = split_at(run, self, &a[0], max, right);
    for (size_t i = 0; right && list != NULL && i < list->n / 2; i++) {
        struct tpl_value other = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = other;
    }
    return list == NULL ? tpl_none() : tpl_of_list(TPL_LIST, list);
}

NATIVE(str_split)
{
    UNUSED();
    return split(run, self, a, false);
}

NATIVE(str_rsplit)
{
    UNUSED();
    return split(run, self, a, true);
}

static bool is_line_break(uint32_t code)
{
    return (code >= 0xA && code <= 0xD) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

NATIVE(str_splitlines)
{
    struct tpl_list *list = tpl_list_new(run, 0);
    bool keep = tpl_truth(&a[0]);
    size_t from = 0, at = 0;
    uint32_t code = 0;

    UNUSED();
    while (at < self.n && tpl_step(run, 1)) {
        int n = sl_utf8_next(self.text + at, self.n - at, &code);
        size_t end = at + (n > 0 ? (size_t)n : 1);
        if (is_line_break(code)) {
            if (code == '\r' && end < self.n && self.text[end] == '\n')
                end++;
            tpl_list_add(run, list, tpl_string(self.text + from, (keep ? end : at) - from));
            from = end;
        }
        at = end;
    }
    if (from < self.n)
        tpl_list_add(run, list, tpl_string(self.text + from, self.n - from));
    return list == NULL ? tpl_none() : tpl_of_list(TPL_LIST, list);
}

/* start and end (in characters, from a) as bytes; false when nothing can be there. */
static bool range_of(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,
                     size_t *from, size_t *to)
{
    *from = 0;
    *to = self.n;
    if (a[0].kind == TPL_ABSENT && a[1].kind == TPL_ABSENT)
        return true;
    int64_t n = (int64_t)tpl_count_chars(self.text, self.n);
    int64_t start = tpl_int_arg(run, "start", &a[0], 0), end = tpl_int_arg(run, "end", &a[1], n);
    start = start < 0 ? start + n : start;
    end = end < 0 ? end + n : end;
    start = start < 0 ? 0 : start;
    end = end < 0 ? 0 : end > n ? n : end;
    if (start > end)
        return false;
    *from = tpl_char_at(self.text, self.n, (size_t)start);
    *to = tpl_char_at(self.text, self.n, (size_t)end);
    return true;
}

static struct tpl_value affix(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,
                              bool end)
{
    struct tpl_list one = {.n = 1};
    struct tpl_value part = a[0];
    size_t from, to;

    one.items = &part;
    const struct tpl_list *list = a[0].kind == TPL_TUPLE ? a[0].list : &one;
    if (!range_of(run, self, a + 1, &from, &to))
        return tpl_bool(false);
    for (size_t i = 0; i < list->n; i++) {
        const struct tpl_value *v = &list->items[i];
        if (!tpl_text_arg(run, end ? "endswith" : "startswith", v))
            return tpl_none();
        if (v->n <= to - from && tpl_step(run, 1 + v->n / 64) &&
            memcmp(self.text + (end ? to - v->n : from), v->text, v->n) == 0)
            return tpl_bool(true);
    }
    return tpl_bool(false);
}

NATIVE(str_startswith)
{
    UNUSED();
    return affix(run, self, a, false);
}

NATIVE(str_endswith)
{
    UNUSED();
    return affix(run, self, a, true);
}

/* Index in characters, -1 if the part is not there. */
static int64_t find(struct tpl_run *run, struct tpl_value self, const struct tpl_value *a,
                    bool last)
{
    size_t from, to;

    if (!tpl_text_arg(run, "find", &a[0]) || !range_of(run, self, a + 1, &from, &to))
        return -1;
    size_t at = tpl_find(run, self.text, from, to, a[0].text, a[0].n, last);
    return at == SIZE_MAX ? -1 : (int64_t)tpl_count_chars(self.text, at);
}

NATIVE(str_find)
{
    UNUSED();
    return tpl_int(find(run, self, a, false));
}

NATIVE(str_rfind)
{
    UNUSED();
    return tpl_int(find(run, self, a, true));
}

static struct tpl_value found_at(struct tpl_run *run, int64_t at)
{
    return at < 0 ? tpl_fail(run, "substring not found") : tpl_int(at);
}

NATIVE(str_index)
{
    UNUSED();
    return found_at(run, find(run, self, a, false));
}

NATIVE(str_rindex)
{
    UNUSED();
    return found_at(run, find(run, self, a, true));
}

NATIVE(str_count)
{
    size_t from, to;
    int64_t n = 0;

    UNUSED();
    if (!tpl_text_arg(run, "count", &a[0]) || !range_of(run, self, a + 1, &from, &to))
        return tpl_int(0);
    if (a[0].n == 0)
        return tpl_int((int64_t)tpl_count_chars(self.text + from, to - from) + 1);
    while ((from = tpl_find(run, self.text, from, to, a[0].text, a[0].n, false)) != SIZE_MAX) {
        n++;
        from += a[0].n;
    }
    return tpl_int(n);
}

NATIVE(str_replace)
{
    UNUSED();
    if (!tpl_text_arg(run, "replace", &a[0]) || !tpl_text_arg(run, "replace", &a[1]))
        return tpl_none();
    return tpl_replace(run, self, a[0], a[1], tpl_int_arg(run, "replace: count", &a[2], -1));
}

NATIVE(str_upper)
{
    UNUSED();
    return tpl_case(run, self, TPL_UPPER);
}

NATIVE(str_lower)
{
    UNUSED();
    return tpl_case(run, self, TPL_LOWER);
}

NATIVE(str_title)
{
    UNUSED();
    return tpl_case(run, self, TPL_TITLE);
}

NATIVE(str_capitalize)
{
    UNUSED();
    return tpl_case(run, self, TPL_CAPITALIZE);
}

NATIVE(str_swapcase)
{
    UNUSED();
    return tpl_case(run, self, TPL_SWAPCASE);
}

NATIVE(str_casefold)
{
    UNUSED();
    struct sl_buf out;

    tpl_buf_init(run, &out);
    for (size_t at = 0; at < self.n && tpl_step(run, 1);) {
        uint32_t code = 0;
        utf8proc_int32_t folded[8];
        int boundary = 0, n = sl_utf8_next(self.text + at, self.n - at, &code);
        utf8proc_ssize_t n_folded = utf8proc_decompose_char((utf8proc_int32_t)code, folded, 8,
                                                            UTF8PROC_CASEFOLD, &boundary);
        for (utf8proc_ssize_t i = 0; i < n_folded && i < 8; i++) {
            char text[4];
            sl_buf_add(&out, text, text_char_put((uint32_t)folded[i], text));
        }
        at += n > 0 ? (size_t)n : 1;
    }
    return tpl_string_take(run, &out);
}

NATIVE(str_join)
{
    UNUSED();
    return tpl_join(run, self, tpl_items(run, a[0]), true);
}

NATIVE(str_removeprefix)
{
    UNUSED();
    if (!tpl_text_arg(run, "removeprefix", &a[0]) || a[0].n > self.n ||
        memcmp(self.text, a[0].text, a[0].n) != 0)
        return self;
    return tpl_string(self.text + a[0].n, self.n - a[0].n);
}

NATIVE(str_removesuffix)
{
    UNUSED();
    if (!tpl_text_arg(run, "removesuffix", &a[0]) || a[0].n > self.n ||
        memcmp(self.text + self.n - a[0].n, a[0].text, a[0].n) != 0)
        return self;
    return tpl_string(self.text, self.n - a[0].n);
}

static struct tpl_value partition(struct tpl_run *run, struct tpl_value self,
                                  const struct tpl_value *separator, bool last)
{
    struct tpl_list *list = tpl_list_new(run, 3);

    if (!tpl_text_arg(run, "partition", separator) || list == NULL)
        return tpl_none();
    if (separator->n == 0)
        return tpl_fail(run, "empty separator");
    size_t at = tpl_find(run, self.text, 0, self.n, separator->text, separator->n, last);
    size_t n = separator->n;
    if (at == SIZE_MAX) {
        at = last ? 0 : self.n;
        n = 0;
    }
    tpl_list_add(run, list, tpl_string(self.text, at));
    tpl_list_add(run, list, tpl_string(self.text + at, n));
    tpl_list_add(run, list, tpl_string(self.text + at + n, self.n - at - n));
    return tpl_of_list(TPL_TUPLE, list);
}

NATIVE(str_partition)
{
    UNUSED();
    return partition(run, self, &a[0], false);
}

NATIVE(str_rpartition)
{
    UNUSED();
    return partition(run, self, &a[0], true);
}

/* Whether there is a character, and all pass the test. */
static bool all_of(struct tpl_run *run, struct tpl_value self, bool (*test)(uint32_t code))
{
    uint32_t code = 0;

    for (size_t at = 0; at < self.n;) {
        int n = sl_utf8_next(self.text + at, self.n - at, &code);
        if (n <= 0 || !test(code))
            return false;
        at += (size_t)n;
    }
    return self.n > 0 && tpl_step(run, self.n / 4);
}

/* Digits that are no decimals: superscripts, circled ones and the like. */
static const struct {
    uint32_t first, last;
} other_digits[] = {
    {0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
    {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
    {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
    {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
    {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A},
};

static bool is_digit(uint32_t code)
{
    for (size_t i = 0; i < sizeof(other_digits) / sizeof(other_digits[0]); i++)
        if (code >= other_digits[i].first && code <= other_digits[i].last)
            return true;
    return tpl_is_decimal(code);
}

static bool is_ascii(uint32_t code)
{
    return code < 0x80;
}

NATIVE(str_isalpha)
{
    UNUSED();
    return tpl_bool(all_of(run, self, tpl_is_alpha));
}

NATIVE(str_isdigit)
{
    UNUSED();
    return tpl_bool(all_of(run, self, is_digit));
}

NATIVE(str_isdecimal)
{
    UNUSED();
    return tpl_bool(all_of(run, self, tpl_is_decimal));
}

NATIVE(str_isascii)
{
    UNUSED();
    return tpl_bool(self.n == 0 || all_of(run, self, is_ascii));
}

NATIVE(str_isalnum)
{
    UNUSED();
    return tpl_bool(all_of(run, self, tpl_is_alnum));
}

NATIVE(str_isspace)
{
    UNUSED();
    return tpl_bool(all_of(run, self, tpl_is_space));
}

/* Of one case only, and cased at all. */
static struct tpl_value is_case(struct tpl_run *run, struct tpl_value self, enum tpl_case_kind kind)
{
    struct tpl_value same = tpl_case(run, self, kind);
    struct tpl_value other = tpl_case(run, self, kind == TPL_UPPER ? TPL_LOWER : TPL_UPPER);

    return tpl_bool(tpl_equal(run, &same, &self) && !tpl_equal(run, &same, &other));
}

NATIVE(str_isupper)
{
    UNUSED();
    return is_case(run, self, TPL_UPPER);
}

NATIVE(str_islower)
{
    UNUSED();
    return is_case(run, self, TPL_LOWER);
}

NATIVE(dict_get)
{
    struct tpl_value *found = tpl_dict_find(run, self.dict, a[0]);

    UNUSED();
    return found != NULL ? *found : a[1].kind == TPL_ABSENT ? tpl_none() : a[1];
}

static struct tpl_value view(struct tpl_run *run, struct tpl_value self, size_t which)
{
    struct tpl_list *list = tpl_list_new(run, self.dict->n);

    for (size_t i = 0; i < self.dict->n && list != NULL && !tpl_failed(run); i++) {
        const struct tpl_pair *pair = &self.dict->pairs[i];
        struct tpl_value v = which == 1 ? pair->value : pair->key;
        if (which == 2) {
            struct tpl_list *both = tpl_list_new(run, 2);
            tpl_list_add(run, both, pair->key);
            tpl_list_add(run, both, pair->value);
            v = tpl_of_list(TPL_TUPLE, both);
        }
        tpl_list_add(run, list, v);
    }
    struct tpl_value v = list == NULL ? tpl_none() : tpl_of_list(TPL_VIEW, list);
    v.n = which;
    return v;
}

NATIVE(dict_keys)
{
    UNUSED();
    return view(run, self, 0);
}

NATIVE(dict_values)
{
    UNUSED();
    return view(run, self, 1);
}

NATIVE(dict_items)
{
    UNUSED();
    return view(run, self, 2);
}

NATIVE(dict_copy)
{
    UNUSED();
    return self;
}

NATIVE(list_index)
{
    UNUSED();
    for (size_t i = 0; i < self.list->n && !tpl_failed(run); i++)
        if (tpl_equal(run, &self.list->items[i], &a[0]))
            return tpl_int((int64_t)i);
    return tpl_fail(run, "the value is not in the list");
}

NATIVE(list_count)
{
    int64_t n = 0;

    UNUSED();
    for (size_t i = 0; i < self.list->n && !tpl_failed(run); i++)
        n += tpl_equal(run, &self.list->items[i], &a[0]);
    return tpl_int(n);
}

NATIVE(loop_cycle)
{
    UNUSED();
    if (args->n == 0)
        return tpl_fail(run, "no items for cycling given");
    return args->items[self.loop->index0 % args->n];
}

NATIVE(loop_changed)
{
    struct tpl_list now = {.items = args->items, .n = args->n};
    struct tpl_value new = tpl_of_list(TPL_TUPLE, &now);
    struct tpl_value old = tpl_of_list(TPL_TUPLE, self.loop->changed);

    UNUSED();
    if (self.loop->changed != NULL && tpl_equal(run, &new, &old))
        return tpl_bool(false);
    self.loop->changed = tpl_list_new(run, args->n);
    for (size_t i = 0; i < args->n; i++)
        tpl_list_add(run, self.loop->changed, args->items[i]);
    return tpl_bool(true);
}

NATIVE(cycler_next)
{
    struct tpl_cycler *cycler = self.cycler;
    struct tpl_value v = cycler->list->items[cycler->at];

    UNUSED();
    cycler->at = (cycler->at + 1) % cycler->list->n;
    return v;
}

NATIVE(cycler_reset)
{
    UNUSED();
    self.cycler->at = 0;
    return tpl_none();
}

static const struct tpl_native string_methods[] = {
    {"strip", str_strip, "chars", 0},
    {"lstrip", str_lstrip, "chars", 0},
    {"rstrip", str_rstrip, "chars", 0},
    {"split", str_split, "sep maxsplit", 0},
    {"rsplit", str_rsplit, "sep maxsplit", 0},
    {"splitlines", str_splitlines, "keepends", 0},
    {"startswith", str_startswith, "prefix start end", 1},
    {"endswith", str_endswith, "suffix start end", 1},
    {"find", str_find, "sub start end", 1},
    {"rfind", str_rfind, "sub start end", 1},
    {"index", str_index, "sub start end", 1},
    {"rindex", str_rindex, "sub start end", 1},
    {"count", str_count, "sub start end", 1},
    {"replace", str_replace, "old new count", 2},
    {"upper", str_upper, "", 0},
    {"lower", str_lower, "", 0},
    {"title", str_title, "", 0},
    {"capitalize", str_capitalize, "", 0},
    {"swapcase", str_swapcase, "", 0},
    {"casefold", str_casefold, "", 0},
    {"join", str_join, "iterable", 1},
    {"format", tpl_str_format, "*", 0},
    {"removeprefix", str_removeprefix, "prefix", 1},
    {"removesuffix", str_removesuffix, "suffix", 1},
    {"partition", str_partition, "sep", 1},
    {"rpartition", str_rpartition, "sep", 1},
    {"center", tpl_str_center, "width fillchar", 1},
    {"ljust", tpl_str_ljust, "width fillchar", 1},
    {"rjust", tpl_str_rjust, "width fillchar", 1},
    {"zfill", tpl_str_zfill, "width", 1},
    {"expandtabs", tpl_str_expandtabs, "tabsize", 0},
    {"isalpha", str_isalpha, "", 0},
    {"isdigit", str_isdigit, "", 0},
    {"isdecimal", str_isdecimal, "", 0},
    {"isascii", str_isascii, "", 0},
    {"isalnum", str_isalnum, "", 0},
    {"isspace", str_isspace, "", 0},
    {"isupper", str_isupper, "", 0},
    {"islower", str_islower, "", 0},
    {NULL, NULL, NULL, 0},
};
static const struct tpl_native dict_methods[] = {
    {"get", dict_get, "key default", 1}, {"keys", dict_keys, "", 0}, {"values", dict_values, "", 0},
    {"items", dict_items, "", 0},        {"copy", dict_copy, "", 0}, {NULL, NULL, NULL, 0},
};
static const struct tpl_native list_methods[] = {
    {"index", list_index, "value", 1},
    {"count", list_count, "value", 1},
    {NULL, NULL, NULL, 0},
};
static const struct tpl_native loop_methods[] = {
    {"cycle", loop_cycle, "*", 0},
    {"changed", loop_changed, "*", 0},
    {NULL, NULL, NULL, 0},
};
static const struct tpl_native cycler_methods[] = {
    {"next", cycler_next, "", 0},
    {"reset", cycler_reset, "", 0},
    {NULL, NULL, NULL, 0},
};

const struct tpl_native *tpl_method_find(const struct tpl_value *self, const char *name, size_t n)
{
    const struct tpl_native *row = self->kind == TPL_STRING   ? string_methods
                                   : self->kind == TPL_DICT   ? dict_methods
                                   : self->kind == TPL_LIST   ? list_methods
                                   : self->kind == TPL_TUPLE  ? list_methods
                                   : self->kind == TPL_LOOP   ? loop_methods
                                   : self->kind == TPL_CYCLER ? cycler_methods
                                                              : NULL;

    return tpl_row_find(row, name, n);
}

/* Names that Python's dict has and the sandbox does not give. */
bool tpl_is_method_name(enum tpl_kind kind, const char *name, size_t n)
{
    static const char *const names[] = {"clear",      "fromkeys", "pop", "popitem",
                                        "setdefault", "update",   NULL};

    if (n > 4 && memcmp(name, "__", 2) == 0 && memcmp(name + n - 2, "__", 2) == 0)
        return true;
    for (int i = 0; kind == TPL_DICT && names[i] != NULL; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return true;
    return false;
}

bool tpl_loop_attribute(struct tpl_run *run, struct tpl_value self, const char *name, size_t n,
                        struct tpl_value *value_out)
{
    const struct tpl_loop *loop = self.loop;
    int64_t at = (int64_t)loop->index0, length = (int64_t)loop->list->n;
    const struct {
        const char *name;
        struct tpl_value value;
    } rows[] = {
        {"index", tpl_int(at + 1)},
        {"index0", tpl_int(at)},
        {"revindex", tpl_int(length - at)},
        {"revindex0", tpl_int(length - at - 1)},
        {"first", tpl_bool(at == 0)},
        {"last", tpl_bool(at + 1 == length)},
        {"length", tpl_int(length)},
        {"depth", tpl_int(loop->depth0 + 1)},
        {"depth0", tpl_int(loop->depth0)},
        {"previtem", at > 0 ? loop->list->items[at - 1] : tpl_undefined("previtem", 8, TPL_LOOP)},
        {"nextitem",
         at + 1 < length ? loop->list->items[at + 1] : tpl_undefined("nextitem", 8, TPL_LOOP)},
    };

    (void)run;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (strlen(rows[i].name) == n && memcmp(rows[i].name, name, n) == 0) {
            *value_out = rows[i].value;
            return true;
        }
    return false;
}
