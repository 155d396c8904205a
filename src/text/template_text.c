/* Text: characters, case, slices, search. Positions that templates see count characters, as in
 * Python; inside everything is bytes of UTF-8, and a part of a text is a view into it.
 *
 * Case follows Unicode's simple mappings (utf8proc) and those of SpecialCasing that change a length
 * and occur in living languages: sharp s, dotted capital I, ligatures, final sigma. */
#include "text/template_parts.h"

#include "base/utf8.h"
#include "text/chars.h"

#include <utf8proc.h>

bool tpl_is_space(uint32_t code)
{
    return (code >= 0x1C && code <= 0x1F) || text_char_is_space(code);
}

bool tpl_is_alpha(uint32_t code)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool tpl_is_decimal(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code) == UTF8PROC_CATEGORY_ND;
}

bool tpl_is_alnum(uint32_t code)
{
    return tpl_is_alpha(code) || text_char_is_numeric(code);
}

size_t tpl_count_chars(const char *text, size_t bytes)
{
    size_t n = 0;

    for (size_t i = 0; i < bytes; i++)
        n += ((uint8_t)text[i] & 0xC0) != 0x80;
    return n;
}

size_t tpl_char_at(const char *text, size_t bytes, size_t index)
{
    size_t at = 0;

    for (; at < bytes; at++)
        if (((uint8_t)text[at] & 0xC0) != 0x80 && index-- == 0)
            break;
    return at;
}

static uint32_t code_at(const char *text, size_t bytes, size_t *length_out)
{
    uint32_t code = 0;
    int n = sl_utf8_next(text, bytes, &code);

    *length_out = n > 0 ? (size_t)n : 1;
    return code;
}

/* Whether a character shall be stripped. */
static bool in_set(const struct tpl_value *chars, const char *at, size_t n, uint32_t code)
{
    if (chars->kind != TPL_STRING)
        return tpl_is_space(code);
    return n > 0 && chars->n >= n && memmem(chars->text, chars->n, at, n) != NULL;
}

struct tpl_value tpl_strip(struct tpl_run *run, struct tpl_value self,
                           const struct tpl_value *chars, bool left, bool right)
{
    size_t from = 0, to = self.n, n;
    uint32_t code;

    if (chars->kind != TPL_STRING && chars->kind != TPL_ABSENT && chars->kind != TPL_NONE)
        return tpl_type_error(run, "strip: characters", chars);
    size_t each = 1 + (chars->kind == TPL_STRING ? chars->n / 32 : 0);
    while (left && from < to && tpl_step(run, each / 8)) {
        code = code_at(self.text + from, to - from, &n);
        if (!in_set(chars, self.text + from, n, code))
            break;
        from += n;
    }
    while (right && to > from && tpl_step(run, each / 8)) {
        size_t at = text_char_before(self.text, to, &code);
        if (!in_set(chars, self.text + at, to - at, code))
            break;
        to = at;
    }
    tpl_step(run, (self.n - (to - from)) / 64);
    struct tpl_value part = tpl_string(self.text + from, to - from);
    part.safe = self.safe;
    return part;
}

static const struct {
    uint32_t code;
    const char *upper, *title;
} specials[] = {
    {0xDF, "SS", "Ss"},
    {0x149, "\u02bcN", "\u02bcN"},
    {0x1F0, "J\u030c", "J\u030c"},
    {0xFB00, "FF", "Ff"},
    {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"},
    {0xFB03, "FFI", "Ffi"},
    {0xFB04, "FFL", "Ffl"},
    {0xFB05, "ST", "St"},
    {0xFB06, "ST", "St"},
    {0x587, "\u0535\u0552", "\u0535\u0582"},
    {0x390, "\u0399\u0308\u0301", "\u0399\u0308\u0301"},
    {0x3B0, "\u03a5\u0308\u0301", "\u03a5\u0308\u0301"},
};

static void put(struct sl_buf *out, uint32_t code)
{
    char text[4];

    sl_buf_add(out, text, text_char_put(code, text));
}

static void put_upper(struct sl_buf *out, uint32_t code, bool title)
{
    for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++)
        if (specials[i].code == code) {
            sl_buf_add_text(out, title ? specials[i].title : specials[i].upper);
            return;
        }
    utf8proc_int32_t c = (utf8proc_int32_t)code;
    put(out, (uint32_t)(title ? utf8proc_totitle(c) : utf8proc_toupper(c)));
}

static bool is_cased(uint32_t code)
{
    utf8proc_int32_t c = (utf8proc_int32_t)code;
    return utf8proc_toupper(c) != c || utf8proc_tolower(c) != c ||
           utf8proc_category(c) == UTF8PROC_CATEGORY_LL ||
           utf8proc_category(c) == UTF8PROC_CATEGORY_LU;
}

/* A sigma is final behind a cased character and before none. */
static bool sigma_is_final(const char *text, size_t at, size_t bytes)
{
    uint32_t code = 0;
    size_t n;

    if (at == 0)
        return false;
    text_char_before(text, at, &code);
    if (!is_cased(code))
        return false;
    if (at + 2 >= bytes)
        return true;
    code = code_at(text + at + 2, bytes - at - 2, &n);
    return !is_cased(code);
}

static void put_lower(struct sl_buf *out, uint32_t code, const char *text, size_t at, size_t bytes)
{
    if (code == 0x3A3)
        put(out, sigma_is_final(text, at, bytes) ? 0x3C2 : 0x3C3);
    else if (code == 0x130)
        sl_buf_add_text(out, "i\u0307");
    else
        put(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code));
}

struct tpl_value tpl_case(struct tpl_run *run, struct tpl_value self, enum tpl_case_kind kind)
{
    struct sl_buf out;
    bool in_word = false;

    tpl_buf_init(run, &out);
    if (!tpl_step(run, self.n / 2))
        return tpl_string_take(run, &out);
    for (size_t at = 0, n; at < self.n; at += n) {
        uint32_t code = code_at(self.text + at, self.n - at, &n);
        bool upper = kind == TPL_UPPER || (kind == TPL_CAPITALIZE && at == 0) ||
                     (kind == TPL_TITLE && !in_word) ||
                     (kind == TPL_SWAPCASE &&
                      utf8proc_tolower((utf8proc_int32_t)code) == (utf8proc_int32_t)code);
        if (upper)
            put_upper(&out, code, kind == TPL_TITLE || kind == TPL_CAPITALIZE);
        else
            put_lower(&out, code, self.text, at, self.n);
        in_word = is_cased(code);
    }
    return tpl_string_take(run, &out);
}

size_t tpl_find(struct tpl_run *run, const char *text, size_t from, size_t to, const char *part,
                size_t bytes, bool last)
{
    if (from > to || to - from < bytes || !tpl_step(run, 1))
        return SIZE_MAX;
    if (bytes == 0)
        return last ? to : from;
    if (!last) { /* what counts as work is how far it had to look */
        const char *found = memmem(text + from, to - from, part, bytes);
        size_t end = found == NULL ? to : (size_t)(found - text);
        return tpl_step(run, (end - from) / 64) && found != NULL ? end : SIZE_MAX;
    }
    for (size_t at = to - bytes + 1; at-- > from;) {
        if (text[at] == part[0] && memcmp(text + at, part, bytes) == 0)
            return tpl_step(run, (to - at) / 64) ? at : SIZE_MAX;
        if (text[at] == part[0] && !tpl_step(run, 1 + bytes / 64))
            break;
    }
    tpl_step(run, (to - from) / 64);
    return SIZE_MAX;
}

struct tpl_value tpl_replace(struct tpl_run *run, struct tpl_value self, struct tpl_value old,
                             struct tpl_value new, int64_t count)
{
    struct sl_buf out;
    size_t at = 0;

    tpl_buf_init(run, &out);
    while (count != 0 && tpl_step(run, 1)) {
        size_t found = tpl_find(run, self.text, at, self.n, old.text, old.n, false), n = 1;
        if (found == SIZE_MAX)
            break;
        sl_buf_add(&out, self.text + at, found - at);
        sl_buf_add(&out, new.text, new.n);
        at = found + old.n;
        count -= count > 0;
        if (old.n > 0)
            continue;
        if (at >= self.n) /* an empty text is found before each character and at the end */
            break;
        code_at(self.text + at, self.n - at, &n);
        sl_buf_add(&out, self.text + at, n);
        at += n;
    }
    sl_buf_add(&out, self.text + at, self.n - at);
    return tpl_string_take(run, &out);
}

/* One bound of a slice: Python's clamping. */
static bool bound(struct tpl_run *run, const struct tpl_value *v, int64_t n, bool backwards,
                  int64_t absent, int64_t *out)
{
    int64_t low = backwards ? -1 : 0, high = backwards ? n - 1 : n;

    *out = absent;
    if (v->kind == TPL_NONE)
        return true;
    if (v->kind != TPL_INT && v->kind != TPL_BOOL) {
        tpl_fail(run, "slice indices must be integers or None, not '%s'", tpl_type(v));
        return false;
    }
    int64_t at = v->kind == TPL_BOOL ? v->truth : v->integer;
    if (at < 0)
        at += n;
    *out = at < low ? low : at > high ? high : at;
    return true;
}

static struct tpl_value slice_string(struct tpl_run *run, struct tpl_value self, int64_t start,
                                     int64_t stop, int64_t step, int64_t n)
{
    struct sl_buf out;

    if (step == 1) {
        size_t from = tpl_char_at(self.text, self.n, (size_t)start);
        if (stop <= start)
            return tpl_string(self.text, 0);
        size_t bytes = tpl_char_at(self.text + from, self.n - from, (size_t)(stop - start));
        return tpl_string(self.text + from, bytes);
    }
    const struct tpl_list *chars = tpl_items(run, self);
    tpl_buf_init(run, &out);
    for (int64_t i = start; chars != NULL && i >= 0 && i < n && (step > 0 ? i < stop : i > stop);) {
        sl_buf_add(&out, chars->items[i].text, chars->items[i].n);
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return tpl_string_take(run, &out);
}

/* Positions of a range are a range again; all within 64 bits, or it is an error. */
static struct tpl_value slice_range(struct tpl_run *run, const struct tpl_range *from,
                                    int64_t start, int64_t stop, int64_t step)
{
    struct tpl_range *range = tpl_alloc(run, 1, sizeof(*range));
    int64_t distance = step > 0 ? stop - start : start - stop;
    uint64_t stride = step > 0 ? (uint64_t)step : -(uint64_t)step;

    if (range == NULL)
        return tpl_none();
    if (distance > 0)
        range->n = (int64_t)(((uint64_t)distance - 1) / stride + 1);
    if (__builtin_mul_overflow(from->step, start, &range->start) ||
        __builtin_add_overflow(range->start, from->start, &range->start) ||
        __builtin_mul_overflow(from->step, stop, &range->stop) ||
        __builtin_add_overflow(range->stop, from->start, &range->stop) ||
        __builtin_mul_overflow(from->step, step, &range->step))
        return tpl_fail(run, "an integer beyond 64 bits");
    return (struct tpl_value){.kind = TPL_RANGE, .range = range};
}

/* b: start, stop, step, each may be None. */
struct tpl_value tpl_slice(struct tpl_run *run, struct tpl_value self, const struct tpl_value *b)
{
    bool sequence = self.kind == TPL_LIST || self.kind == TPL_TUPLE || self.kind == TPL_RANGE;
    int64_t step = b[2].kind == TPL_INT ? b[2].integer : 1, start, stop;

    if (!sequence && self.kind != TPL_STRING)
        return tpl_undefined("slice", 5, (enum tpl_kind)self.kind);
    if ((b[2].kind != TPL_INT && b[2].kind != TPL_NONE) || step == 0)
        return tpl_fail(run, "slice step must be an integer other than zero");
    int64_t n = tpl_length(run, &self);
    if (!bound(run, &b[0], n, step < 0, step < 0 ? n - 1 : 0, &start) ||
        !bound(run, &b[1], n, step < 0, step < 0 ? -1 : n, &stop))
        return tpl_none();
    if (self.kind == TPL_STRING)
        return slice_string(run, self, start, stop, step, n);
    if (self.kind == TPL_RANGE)
        return slice_range(run, self.range, start, stop, step);
    const struct tpl_list *from = tpl_items(run, self);
    struct tpl_list *list = tpl_list_new(run, 0);
    for (int64_t i = start; from != NULL && i >= 0 && i < n && (step > 0 ? i < stop : i > stop);) {
        tpl_list_add(run, list, from->items[i]);
        if (tpl_failed(run) || __builtin_add_overflow(i, step, &i))
            break;
    }
    if (list == NULL)
        return tpl_none();
    return tpl_of_list(self.kind == TPL_TUPLE ? TPL_TUPLE : TPL_LIST, list);
}

struct tpl_value tpl_join(struct tpl_run *run, struct tpl_value separator, struct tpl_list *list,
                          bool strict)
{
    struct sl_buf out;

    tpl_buf_init(run, &out);
    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++) {
        if (strict && list->items[i].kind != TPL_STRING)
            tpl_fail(run, "join: item %zu: expected str instance, %s found", i,
                     tpl_type(&list->items[i]));
        if (i > 0)
            tpl_print(run, &out, &separator);
        tpl_print(run, &out, &list->items[i]);
    }
    return tpl_string_take(run, &out);
}
