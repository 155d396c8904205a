/* Text in columns, and in URLs: padding, tabs, truncate, wordwrap, urlencode.
 *
 * wordwrap is Python's textwrap with the arguments that jinja2 gives it (tabs and white space stay as
 * they are). A line is cut into chunks (white space, words, parts of words with hyphens, dashes
 * between words), and lines are filled with chunks. Chunks lie one behind the other, so a line of
 * output is always one stretch of the text, and nothing is copied before it is written. Widths count
 * characters; of a chunk no more is looked at than one line has room for, so that the work stays in
 * proportion to the text. */
#include "text/template_natives.h"

#include "base/utf8.h"
#include "text/chars.h"

/* ---- padding ---- */

static void add_fill(struct tpl_run *run, struct sl_buf *out, const struct tpl_value *fill,
                     int64_t n)
{
    for (int64_t i = 0; i < n && tpl_step(run, 1) && !out->failed; i++)
        sl_buf_add(out, fill->text, fill->n);
}

/* The text with so much in front of it and behind it, after its first `head` bytes. */
static struct tpl_value padded(struct tpl_run *run, struct tpl_value text, size_t head,
                               const struct tpl_value *fill, int64_t left, int64_t right)
{
    struct sl_buf out;

    tpl_buf_init(run, &out);
    sl_buf_add(&out, text.text, head);
    add_fill(run, &out, fill, left);
    sl_buf_add(&out, text.text + head, text.n - head);
    add_fill(run, &out, fill, right);
    return tpl_string_take(run, &out);
}

/* Characters that are missing to `width`; 0 if none are. */
static int64_t missing_to(struct tpl_run *run, const struct tpl_value *text, int64_t width)
{
    int64_t n = tpl_length(run, text);

    return tpl_failed(run) || width <= n ? 0 : width - n;
}

static struct tpl_value centered(struct tpl_run *run, struct tpl_value text, int64_t width,
                                 const struct tpl_value *fill)
{
    int64_t missing = missing_to(run, &text, width);
    int64_t left = missing / 2 + (missing & width & 1);

    return missing == 0 ? text : padded(run, text, 0, fill, left, missing - left);
}

/* Argument 2 of ljust and its like: one character. */
static bool fill_arg(struct tpl_run *run, const struct tpl_value *v, struct tpl_value *fill_out)
{
    *fill_out = v->kind == TPL_ABSENT ? tpl_string(" ", 1) : *v;
    if (!tpl_text_arg(run, "the fill character", fill_out))
        return false;
    if (tpl_count_chars(fill_out->text, fill_out->n) != 1)
        tpl_fail(run, "The fill character must be exactly one character long");
    return !tpl_failed(run);
}

NATIVE_OF(tpl_str_center)
{
    UNUSED();
    struct tpl_value fill;
    int64_t width = tpl_int_arg(run, "center: width", &a[0], 0);

    return fill_arg(run, &a[1], &fill) ? centered(run, self, width, &fill) : tpl_none();
}

NATIVE_OF(tpl_str_ljust)
{
    UNUSED();
    struct tpl_value fill;
    int64_t missing = missing_to(run, &self, tpl_int_arg(run, "ljust: width", &a[0], 0));

    return fill_arg(run, &a[1], &fill) ? padded(run, self, 0, &fill, 0, missing) : tpl_none();
}

NATIVE_OF(tpl_str_rjust)
{
    UNUSED();
    struct tpl_value fill;
    int64_t missing = missing_to(run, &self, tpl_int_arg(run, "rjust: width", &a[0], 0));

    return fill_arg(run, &a[1], &fill) ? padded(run, self, 0, &fill, missing, 0) : tpl_none();
}

/* Zeros come behind a sign. */
NATIVE_OF(tpl_str_zfill)
{
    UNUSED();
    const struct tpl_value zero = tpl_string("0", 1);
    int64_t missing = missing_to(run, &self, tpl_int_arg(run, "zfill: width", &a[0], 0));
    bool sign = self.n > 0 && (self.text[0] == '-' || self.text[0] == '+');

    return padded(run, self, sign, &zero, missing, 0);
}

NATIVE_OF(tpl_str_expandtabs)
{
    UNUSED();
    const struct tpl_value blank = tpl_string(" ", 1);
    int64_t size = tpl_int_arg(run, "expandtabs: tabsize", &a[0], 8), column = 0;
    struct sl_buf out;

    tpl_buf_init(run, &out);
    for (size_t i = 0; i < self.n && tpl_step(run, 1) && !out.failed; i++) {
        char c = self.text[i];
        if (c == '\t') {
            int64_t n = size > 0 ? size - column % size : 0;
            add_fill(run, &out, &blank, n);
            column += n;
            continue;
        }
        column = c == '\n' || c == '\r' ? 0 : column + (((uint8_t)c & 0xC0) != 0x80);
        sl_buf_add(&out, &c, 1);
    }
    return tpl_string_take(run, &out);
}

NATIVE(filter_center)
{
    UNUSED();
    const struct tpl_value blank = tpl_string(" ", 1);
    struct tpl_value text = tpl_to_string(run, self);
    int64_t width = tpl_int_arg(run, "center: width", &a[0], 80);

    return tpl_failed(run) ? text : centered(run, text, width, &blank);
}

/* ---- truncate ---- */

NATIVE(filter_truncate)
{
    UNUSED();
    struct tpl_value end = a[2].kind == TPL_ABSENT ? tpl_string("...", 3) : a[2];
    int64_t length = tpl_int_arg(run, "truncate: length", &a[0], 255);
    int64_t leeway = tpl_int_arg(run, "truncate: leeway", &a[3], 5), n = tpl_length(run, &self);

    if (n < 0)
        return tpl_type_error(run, "truncate", &self);
    if (!tpl_text_arg(run, "truncate: end", &end))
        return tpl_none();
    int64_t n_end = (int64_t)tpl_count_chars(end.text, end.n);
    if (length < n_end || leeway < 0)
        return tpl_fail(run,
                        "truncate: a length of %lld with a leeway of %lld; want at least %lld "
                        "and 0",
                        (long long)length, (long long)leeway, (long long)n_end);
    if (n - leeway <= length)
        return self;
    if (!tpl_text_arg(run, "truncate", &self) || !tpl_step(run, self.n / 64))
        return tpl_none();
    struct tpl_value kept =
        tpl_string(self.text, tpl_char_at(self.text, self.n, (size_t)(length - n_end)));
    if (!tpl_truth(&a[1])) {
        const char *blank = memrchr(kept.text, ' ', kept.n);
        kept.n = blank == NULL ? kept.n : (size_t)(blank - kept.text);
    }
    return tpl_binary(run, TPL_ADD, kept, end);
}

/* ---- wordwrap ---- */

struct wrap {
    struct tpl_run *run;
    const char *text; /* one line of it */
    size_t bytes;
    size_t width; /* in characters, at least 1 */
    bool break_words, break_hyphens;
    size_t at, end; /* the next chunk, or what is left of it */
};

/* textwrap's own white space, which is ASCII. */
static bool is_blank_byte(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word(uint32_t code)
{
    return code == '_' || tpl_is_alnum(code);
}

/* What textwrap calls a letter: \w but no decimal digit. */
static bool is_letter(uint32_t code)
{
    return is_word(code) && !tpl_is_decimal(code);
}

static bool is_word_or_mark(uint32_t code)
{
    return is_word(code) || (code < 0x80 && code > 0 && strchr("!\"'&.,?", (int)code) != NULL);
}

/* Whether the character at (or before) a place is of a kind; *place moves over it. */
static bool is_next(const struct wrap *w, size_t *place, bool (*kind)(uint32_t code))
{
    uint32_t code = 0;

    if (*place >= w->bytes)
        return false;
    int n = sl_utf8_next(w->text + *place, w->bytes - *place, &code);
    *place += n > 0 ? (size_t)n : 1;
    return kind(code);
}

static bool is_before(const struct wrap *w, size_t *place, bool (*kind)(uint32_t code))
{
    uint32_t code = 0;

    if (*place == 0)
        return false;
    *place = text_char_before(w->text, *place, &code);
    return kind(code);
}

/* Two dashes or more, with a word before and behind; *end_out is behind them. */
static bool is_dash(const struct wrap *w, size_t at, size_t *end_out)
{
    size_t end = at, before = at, behind;

    if (!is_before(w, &before, is_word_or_mark))
        return false;
    while (end < w->bytes && w->text[end] == '-')
        end++;
    behind = end;
    *end_out = end;
    return end - at >= 2 && is_next(w, &behind, is_word);
}

/* A hyphen at `at` inside of a word: behind two letters, which may have a hyphen between them, and before
 * two such. */
static bool is_hyphen(const struct wrap *w, size_t at)
{
    size_t before = at, behind = at + 1;

    if (w->text[at] != '-' || !is_before(w, &before, is_letter))
        return false;
    before -= before > 0 && w->text[before - 1] == '-';
    if (!is_before(w, &before, is_letter) || !is_next(w, &behind, is_letter))
        return false;
    behind += behind < w->bytes && w->text[behind] == '-';
    return is_next(w, &behind, is_letter);
}

/* Where the chunk that begins at `at` ends. */
static size_t chunk_end(const struct wrap *w, size_t at)
{
    size_t end = at, dash_end;

    if (is_blank_byte(w->text[at])) {
        while (end < w->bytes && is_blank_byte(w->text[end]))
            end++;
        return end;
    }
    if (w->break_hyphens && is_dash(w, at, &dash_end))
        return dash_end;
    while (++end < w->bytes && !is_blank_byte(w->text[end])) {
        if (!w->break_hyphens || w->text[end] != '-')
            continue;
        if (is_hyphen(w, end))
            return end + 1;
        if (is_dash(w, end, &dash_end))
            return end;
    }
    return end;
}

static void next_chunk(struct wrap *w)
{
    w->at = w->end;
    if (w->at < w->bytes) {
        w->end = chunk_end(w, w->at);
        tpl_step(w->run, 1 + (w->end - w->at) / 4);
    }
}

static bool is_blank(const struct wrap *w, size_t from, size_t to)
{
    while (from < to)
        if (!is_next(w, &from, tpl_is_space))
            return false;
    return true;
}

/* How much of the next chunk, which is too long for any line, goes to one with room for so many
 * characters: up to its last hyphen, if there is one behind something else. */
static size_t break_at(const struct wrap *w, size_t room)
{
    const char *chunk = w->text + w->at;
    size_t n = tpl_char_at(chunk, w->end - w->at, room);
    const char *hyphen = n == 0 || !w->break_hyphens ? NULL : memrchr(chunk, '-', n);

    for (const char *c = chunk; hyphen != NULL && c < hyphen; c++)
        if (*c != '-')
            return (size_t)(hyphen - chunk) + 1;
    return n;
}

/* The next line of output; false when it has nothing. */
static bool wrap_next(struct wrap *w, bool is_first, size_t *from_out, size_t *to_out)
{
    size_t room = w->width, last;

    if (!is_first && is_blank(w, w->at, w->end))
        next_chunk(w);
    size_t from = w->at;
    last = w->at;
    while (w->at < w->bytes && tpl_step(w->run, 1 + w->width / 64)) {
        size_t chunk = w->end - w->at;
        if (tpl_char_at(w->text + w->at, chunk, room) < chunk)
            break;
        room -= tpl_count_chars(w->text + w->at, chunk);
        last = w->at;
        next_chunk(w);
    }
    bool too_long =
        w->at < w->bytes && tpl_char_at(w->text + w->at, w->end - w->at, w->width) < w->end - w->at;
    if (too_long && w->break_words) {
        last = w->at;
        w->at += break_at(w, room);
        if (w->at == w->end)
            next_chunk(w);
    } else if (too_long && w->at == from) {
        next_chunk(w);
    }
    *from_out = from;
    *to_out = w->at > last && is_blank(w, last, w->at) ? last : w->at;
    return *to_out > from;
}

static void wrap_line(struct wrap *w, struct tpl_value line, const struct tpl_value *separator,
                      struct sl_buf *out)
{
    bool is_first = true;

    w->text = line.text;
    w->bytes = line.n;
    w->end = 0;
    next_chunk(w);
    while (w->at < w->bytes && !tpl_failed(w->run) && !out->failed) {
        size_t from, to;
        if (!wrap_next(w, is_first, &from, &to))
            continue;
        if (!is_first)
            sl_buf_add(out, separator->text, separator->n);
        sl_buf_add(out, w->text + from, to - from);
        is_first = false;
    }
}

NATIVE(filter_wordwrap)
{
    UNUSED();
    int64_t width = tpl_int_arg(run, "wordwrap: width", &a[0], 79);
    struct tpl_value separator = tpl_given(&a[2]) ? a[2] : tpl_string("\n", 1);
    struct wrap w = {.run = run,
                     .width = (size_t)width,
                     .break_words = a[1].kind == TPL_ABSENT || tpl_truth(&a[1]),
                     .break_hyphens = a[3].kind == TPL_ABSENT || tpl_truth(&a[3])};
    struct tpl_args none = {0};
    struct sl_buf out;

    if (!tpl_text_arg(run, "wordwrap", &self) ||
        !tpl_text_arg(run, "wordwrap: wrapstring", &separator))
        return tpl_none();
    struct tpl_value lines =
        tpl_call_native(run, tpl_method_find(&self, "splitlines", 10), self, &none);
    if (tpl_failed(run))
        return tpl_none();
    if (width <= 0 && self.n > 0)
        return tpl_fail(run, "wordwrap: invalid width %lld (must be > 0)", (long long)width);
    tpl_buf_init(run, &out);
    for (size_t i = 0; i < lines.list->n && !tpl_failed(run); i++) {
        if (i > 0)
            sl_buf_add(&out, separator.text, separator.n);
        wrap_line(&w, lines.list->items[i], &separator, &out);
    }
    return tpl_string_take(run, &out);
}

/* ---- urlencode ---- */

/* Letters, digits and "_.-~" stay; of a whole text "/" too, in a query a blank is "+". */
static void add_quoted(struct tpl_run *run, struct sl_buf *out, struct tpl_value value, bool query)
{
    struct tpl_value text = tpl_to_string(run, value);

    for (size_t i = 0; !tpl_failed(run) && i < text.n && tpl_step(run, i % 8 == 0); i++) {
        char c = text.text[i];
        if ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
            (c != '\0' && strchr(query ? "_.-~" : "_.-~/", c) != NULL))
            sl_buf_add(out, &c, 1);
        else if (c == ' ' && query)
            sl_buf_add_text(out, "+");
        else
            sl_buf_add_format(out, "%%%02X", (unsigned)(uint8_t)c);
    }
}

NATIVE(filter_urlencode)
{
    UNUSED();
    struct tpl_args none = {0};
    struct tpl_value pairs = self;
    struct sl_buf out;

    if (self.kind == TPL_DICT)
        pairs = tpl_call_native(run, tpl_method_find(&self, "items", 5), self, &none);
    const struct tpl_list *list =
        self.kind == TPL_STRING || !tpl_iterable(&self) ? NULL : tpl_items(run, pairs);
    tpl_buf_init(run, &out);
    if (list == NULL && !tpl_failed(run))
        add_quoted(run, &out, self, false);
    for (size_t i = 0; list != NULL && i < list->n && !tpl_failed(run); i++) {
        const struct tpl_list *pair = tpl_items(run, list->items[i]);
        if (pair != NULL && pair->n != 2)
            tpl_fail(run, "urlencode: item %zu has %zu parts; want a key and a value", i, pair->n);
        if (tpl_failed(run) || pair == NULL)
            break;
        if (i > 0)
            sl_buf_add_text(&out, "&");
        add_quoted(run, &out, pair->items[0], true);
        sl_buf_add_text(&out, "=");
        add_quoted(run, &out, pair->items[1], true);
    }
    return tpl_string_take(run, &out);
}

static const struct tpl_native filters[] = {
    {"center", filter_center, "width", 0},
    {"truncate", filter_truncate, "length killwords end leeway", 0},
    {"wordwrap", filter_wordwrap, "width break_long_words wrapstring break_on_hyphens", 0},
    {"urlencode", filter_urlencode, "", 0},
    {NULL, NULL, NULL, 0},
};

const struct tpl_native *tpl_layout_filter_find(const char *name, size_t n)
{
    return tpl_row_find(filters, name, n);
}
