/* Growing byte buffer, born with a maximum. A write beyond it, or without memory, marks the buffer
 * as failed and leaves the content; the user asks once at the end. Always NUL-terminated. */
#ifndef SL_BASE_BUF_H
#define SL_BASE_BUF_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

struct sl_buf {
    char *data; /* NUL-terminated; NULL before the first write */
    size_t bytes;
    size_t capacity;
    size_t bytes_max;
    bool failed;
};

void sl_buf_init(struct sl_buf *buf, size_t bytes_max);
void sl_buf_fini(struct sl_buf *buf);
/* Empty again, not failed, memory kept. */
void sl_buf_reset(struct sl_buf *buf);
void sl_buf_add(struct sl_buf *buf, const void *bytes, size_t n);
void sl_buf_add_text(struct sl_buf *buf, const char *text);
void sl_buf_add_format(struct sl_buf *buf, const char *fmt, ...) SL_PRINTF(2, 3);
/* JSON string with quotes; input is UTF-8 (checked by the caller). */
void sl_buf_add_json_string(struct sl_buf *buf, const char *text, size_t n);
/* Drops the first n bytes. */
void sl_buf_consume(struct sl_buf *buf, size_t n);
/* SL_OK, or SL_EXHAUSTED naming `what` and the limit. */
sl_status sl_buf_status(const struct sl_buf *buf, const char *what) SL_MUST_USE;

#endif
