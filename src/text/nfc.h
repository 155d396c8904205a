/* Unicode normalization forms C and D, canonical. */
#ifndef SL_TEXT_NFC_H
#define SL_TEXT_NFC_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* Whether a text certainly is in form C. False means only that nobody knows. */
bool text_nfc_is_plain(const char *text, size_t bytes);
/* Appends the text (valid UTF-8) in form C, or D if not composed. Linear in the text. SL_NO_MEMORY;
 * a full buffer shows in sl_buf_status(). */
sl_status text_nfc_append(const char *text, size_t bytes, bool composed,
                          struct sl_buf *out) SL_MUST_USE;

#endif
