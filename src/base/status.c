/* Status codes: their names, the table that maps them outwards, and the thread's sentence.
 *
 * Owns one buffer per thread. sl_fail() formats into a buffer of its own first, since callers quote
 * the sentence of an inner failure (sl_fail(code, "…: %s", sl_error())). Any thread. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct status_row {
    const char *name;
    int grpc;
};

static const struct status_row rows[SL_STATUS_COUNT] = {
    [SL_OK] = {"OK", 0},
    [SL_AGAIN] = {"AGAIN", 14},
    [SL_INVALID] = {"INVALID", 3},
    [SL_NOT_FOUND] = {"NOT_FOUND", 5},
    [SL_EXHAUSTED] = {"EXHAUSTED", 8},
    [SL_CANCELLED] = {"CANCELLED", 1},
    [SL_DEADLINE] = {"DEADLINE", 4},
    [SL_PEER] = {"PEER", 14},
    [SL_DEVICE] = {"DEVICE", 13},
    [SL_CORRUPT] = {"CORRUPT", 15},
    [SL_NO_MEMORY] = {"NO_MEMORY", 8},
    [SL_UNSUPPORTED] = {"UNSUPPORTED", 12},
};

static _Thread_local char sentence[SL_ERROR_BYTES_MAX];

/* Ends at `end` with "...", in front of a whole character: it may go into JSON. */
static void cut(char *text, size_t end)
{
    while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80)
        end--;
    memcpy(text + end, "...", 4);
}

const char *sl_shown(const char *text, char out[SL_SHOWN_BYTES])
{
    if (strlen(text) < SL_SHOWN_BYTES)
        return text;
    memcpy(out, text, SL_SHOWN_BYTES);
    cut(out, SL_SHOWN_BYTES - 4);
    return out;
}

sl_status sl_fail(sl_status code, const char *fmt, ...)
{
    SL_ASSERT(code > SL_OK && code < SL_STATUS_COUNT);
    char text[SL_ERROR_BYTES_MAX];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n < 0)
        text[0] = '\0';
    else if ((size_t)n >= sizeof(text))
        cut(text, sizeof(text) - 4);
    memcpy(sentence, text, strlen(text) + 1);
    return code;
}

const char *sl_error(void)
{
    return sentence;
}

static const struct status_row *row_of(sl_status status)
{
    SL_ASSERT(status >= SL_OK && status < SL_STATUS_COUNT);
    return &rows[status];
}

const char *sl_status_name(sl_status status)
{
    return row_of(status)->name;
}

int sl_status_grpc(sl_status status)
{
    return row_of(status)->grpc;
}

void sl_assert_failed(const char *expression, const char *file, int line)
{
    fprintf(stderr, "level=error event=assertion_failed at=%s:%d expression=\"%s\"\n", file, line,
            expression);
    abort();
}
