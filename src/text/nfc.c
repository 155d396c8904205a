/* Unicode normalization.
 *
 * utf8proc has the tables; the walk is our own, for three reasons. Most text needs nothing: runs of
 * characters that are known to stay as they are, whatever their neighbours, are copied. utf8proc
 * sorts combining marks by exchanging neighbours, which takes forever on a text of a million marks;
 * here a long run is sorted by counting. And the normalizer of `tokenizers` has tables of an older
 * Unicode: marks that it does not know are starters to it, and have to be to us
 * (text_inert_starters).
 *
 *   segment = a character, and what follows it up to the next plain one
 *   decompose each character, sort each run of marks by class, compose, encode
 *
 * Any thread. */
#include "text/nfc.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "text/chars.h"
#include "text/unicode_additions.h"

#include <string.h>
#include <utf8proc.h>

#define DECOMPOSED_MAX 32 /* of one character; the standard's longest one is 18 */
#define INSERTION_MAX  16u

struct segment {
    utf8proc_int32_t *codes; /* [capacity] */
    size_t n, capacity;
};

/* Characters that are in form C, or KC and KD, and neither change nor join the one before them. */
static bool is_plain(enum text_normal_form form, uint32_t code)
{
    if (form == TEXT_NFKC || form == TEXT_NFKD)
        return code < 0xa0 || (code >= 0x4e00 && code <= 0x9fff);
    if (form == TEXT_NFD)
        return code < 0xc0 || (code >= 0x4e00 && code <= 0x9fff);
    if (code < 0x300)
        return true;
    if (code < 0x4e00)
        return (code >= 0x370 && code <= 0x482 && code != 0x374 && code != 0x37e &&
                code != 0x387) ||
               (code >= 0x48a && code <= 0x52f) || (code >= 0x621 && code <= 0x64a) ||
               (code >= 0x5d0 && code <= 0x5ea) || (code >= 0xe01 && code <= 0xe30) ||
               (code >= 0x2010 && code <= 0x2027) || (code >= 0x2030 && code <= 0x205e) ||
               (code >= 0x2190 && code <= 0x2328) || (code >= 0x2500 && code <= 0x27ff) ||
               (code >= 0x3001 && code <= 0x3029) || (code >= 0x3041 && code <= 0x3096) ||
               (code >= 0x309d && code <= 0x30ff);
    return code <= 0x9fff || (code >= 0xac00 && code <= 0xd7a3) ||
           (code >= 0xff01 && code <= 0xff9d) || (code >= 0x1f300 && code <= 0x1faff) ||
           (code >= 0x20000 && code <= 0x2a6df);
}

bool text_normal_is_plain(enum text_normal_form form, const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        uint64_t word;
        if (bytes - at >= sizeof(word)) {
            memcpy(&word, text + at, sizeof(word));
            if ((word & 0x8080808080808080ull) == 0) {
                at += sizeof(word);
                continue;
            }
        }
        uint32_t code;
        int n = sl_utf8_next(text + at, bytes - at, &code);
        if (n <= 0 || !is_plain(form, code))
            return false;
        at += (size_t)n;
    }
    return true;
}

static utf8proc_uint8_t class_of(utf8proc_int32_t code)
{
    return (utf8proc_uint8_t)utf8proc_get_property(code)->combining_class;
}

static sl_status segment_add(struct segment *segment, enum text_normal_form form, uint32_t code)
{
    bool compatible = form == TEXT_NFKC || form == TEXT_NFKD;

    if (segment->n + DECOMPOSED_MAX > segment->capacity) {
        size_t capacity = segment->capacity * 2 + 4 * DECOMPOSED_MAX;
        void *grown = sl_try_realloc(segment->codes, capacity, sizeof(*segment->codes));
        if (grown == NULL)
            return sl_fail(SL_NO_MEMORY, "tokenizer: %zu characters to normalize", capacity);
        segment->codes = grown;
        segment->capacity = capacity;
    }
    int boundary_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(
        (utf8proc_int32_t)code, segment->codes + segment->n, DECOMPOSED_MAX,
        UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0), &boundary_class);
    if (n <= 0 || n > DECOMPOSED_MAX) { /* not in any table: itself */
        segment->codes[segment->n] = (utf8proc_int32_t)code;
        n = 1;
    }
    segment->n += (size_t)n;
    return SL_OK;
}

/* Stable, by combining class; a run of marks without a starter. */
static sl_status sort_marks(utf8proc_int32_t *codes, size_t n)
{
    if (n <= INSERTION_MAX) {
        for (size_t i = 1; i < n; i++) {
            utf8proc_int32_t code = codes[i];
            size_t at = i;
            for (; at > 0 && class_of(codes[at - 1]) > class_of(code); at--)
                codes[at] = codes[at - 1];
            codes[at] = code;
        }
        return SL_OK;
    }
    size_t starts[256] = {0}, sum = 0;
    utf8proc_int32_t *sorted = sl_try_zalloc(n, sizeof(*sorted));
    if (sorted == NULL)
        return sl_fail(SL_NO_MEMORY, "tokenizer: %zu marks to sort", n);
    for (size_t i = 0; i < n; i++)
        starts[class_of(codes[i])]++;
    for (size_t i = 0; i < 256; i++) {
        size_t count = starts[i];
        starts[i] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        sorted[starts[class_of(codes[i])]++] = codes[i];
    memcpy(codes, sorted, n * sizeof(*codes));
    sl_free(sorted);
    return SL_OK;
}

/* Sorts, composes and appends what was collected. */
static sl_status segment_end(struct segment *segment, enum text_normal_form form,
                             struct sl_buf *out)
{
    size_t start = 0;

    for (size_t i = 0; i <= segment->n; i++) {
        if (i < segment->n && class_of(segment->codes[i]) != 0)
            continue;
        sl_status status = sort_marks(segment->codes + start, i - start);
        if (status != SL_OK)
            return status;
        start = i + 1;
    }
    utf8proc_ssize_t n = (utf8proc_ssize_t)segment->n;
    if (form == TEXT_NFC || form == TEXT_NFKC)
        n = utf8proc_normalize_utf32(segment->codes, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        char utf8[4];
        sl_buf_add(out, utf8, text_char_put((uint32_t)segment->codes[i], utf8));
    }
    segment->n = 0;
    return SL_OK;
}

/* Starters without a decomposition to the normalizer that we follow. */
static bool is_inert(enum text_normal_form form, uint32_t code)
{
    if (code < 0x300)
        return false;
    return text_ranges_have(text_inert_starters, text_n_inert_starters, code) ||
           ((form == TEXT_NFKC || form == TEXT_NFKD) &&
            text_ranges_have(text_inert_compatibility, text_n_inert_compatibility, code));
}

sl_status text_normal_append(enum text_normal_form form, const char *text, size_t bytes,
                             struct sl_buf *out)
{
    struct segment segment = {0};
    sl_status status = SL_OK;

    for (size_t at = 0; status == SL_OK && at < bytes;) {
        uint32_t code = 0, next;
        int n = sl_utf8_next(text + at, bytes - at, &code);
        SL_ASSERT(n > 0); /* the whole text was checked */
        size_t after = at + (size_t)n;
        bool plain = is_plain(form, code), inert = !plain && is_inert(form, code);
        /* nothing that follows joins it */
        bool alone =
            inert ||
            (plain && (after == bytes || (sl_utf8_next(text + after, bytes - after, &next) > 0 &&
                                          is_plain(form, next))));
        if ((plain || inert) && segment.n > 0)
            status = segment_end(&segment, form, out);
        if (alone)
            sl_buf_add(out, text + at, (size_t)n);
        else if (status == SL_OK)
            status = segment_add(&segment, form, code);
        at = after;
    }
    if (status == SL_OK && segment.n > 0)
        status = segment_end(&segment, form, out);
    sl_free(segment.codes);
    return status;
}
