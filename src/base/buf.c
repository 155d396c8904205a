/* Growing byte buffer with a maximum.
 *
 * Invariants: capacity is 0 or at least bytes + 1; data[bytes] is NUL; bytes never passes bytes_max;
 * once failed, nothing is added until reset, so that a cut document is never taken for a whole one.
 * Growth doubles. One thread at a time. */
#include "base/buf.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define FIRST_BYTES 256

void sl_buf_init(struct sl_buf *buf, size_t bytes_max)
{
    SL_ASSERT(bytes_max < SIZE_MAX / 4);
    *buf = (struct sl_buf){.bytes_max = bytes_max};
}

void sl_buf_fini(struct sl_buf *buf)
{
    sl_free(buf->data);
    *buf = (struct sl_buf){.bytes_max = buf->bytes_max};
}

void sl_buf_reset(struct sl_buf *buf)
{
    buf->bytes = 0;
    buf->failed = false;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

/* Makes room for n more bytes and the NUL; marks the failure if there is none. */
static bool reserve(struct sl_buf *buf, size_t n)
{
    if (buf->failed)
        return false;
    if (n > buf->bytes_max - buf->bytes) {
        buf->failed = true;
        return false;
    }
    size_t need = buf->bytes + n + 1;
    if (need <= buf->capacity)
        return true;
    size_t capacity = buf->capacity == 0 ? FIRST_BYTES : buf->capacity * 2;
    if (capacity < need)
        capacity = need;
    if (capacity > buf->bytes_max + 1)
        capacity = buf->bytes_max + 1;
    char *data = sl_try_realloc(buf->data, 1, capacity);
    if (data == NULL) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

void sl_buf_add(struct sl_buf *buf, const void *bytes, size_t n)
{
    if (!reserve(buf, n))
        return;
    if (n > 0)
        memcpy(buf->data + buf->bytes, bytes, n);
    buf->bytes += n;
    buf->data[buf->bytes] = '\0';
}

void sl_buf_add_text(struct sl_buf *buf, const char *text)
{
    sl_buf_add(buf, text, strlen(text));
}

void sl_buf_add_format(struct sl_buf *buf, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    SL_ASSERT(n >= 0);
    if (reserve(buf, (size_t)n)) {
        vsnprintf(buf->data + buf->bytes, (size_t)n + 1, fmt, again);
        buf->bytes += (size_t)n;
    }
    va_end(again);
}

static void add_escaped(struct sl_buf *buf, unsigned char c)
{
    static const char letters[32] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    if (c == '"' || c == '\\')
        sl_buf_add_format(buf, "\\%c", c);
    else if (letters[c] != 0)
        sl_buf_add_format(buf, "\\%c", letters[c]);
    else
        sl_buf_add_format(buf, "\\u%04x", c);
}

void sl_buf_add_json_string(struct sl_buf *buf, const char *text, size_t n)
{
    sl_buf_add(buf, "\"", 1);
    size_t start = 0; /* of the run that needs no escape */
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        sl_buf_add(buf, text + start, i - start);
        add_escaped(buf, c);
        start = i + 1;
    }
    sl_buf_add(buf, text + start, n - start);
    sl_buf_add(buf, "\"", 1);
}

void sl_buf_consume(struct sl_buf *buf, size_t n)
{
    SL_ASSERT(n <= buf->bytes);
    if (n == 0)
        return;
    memmove(buf->data, buf->data + n, buf->bytes - n);
    buf->bytes -= n;
    buf->data[buf->bytes] = '\0';
}

sl_status sl_buf_status(const struct sl_buf *buf, const char *what)
{
    if (!buf->failed)
        return SL_OK;
    return sl_fail(SL_EXHAUSTED, "%s is larger than %zu bytes, or memory is gone", what,
                   buf->bytes_max);
}
