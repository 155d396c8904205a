/* Unicode normalization forms C, D, KC and KD. */
#ifndef SL_TEXT_NFC_H
#define SL_TEXT_NFC_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>

enum text_normal_form { TEXT_NFC, TEXT_NFD, TEXT_NFKC, TEXT_NFKD };

/* Whether a text certainly is in this form. False means only that nobody knows. */
bool text_normal_is_plain(enum text_normal_form form, const char *text, size_t bytes);
/* Appends the text (valid UTF-8) in this form. Linear in the text. SL_NO_MEMORY; a full buffer
 * shows in sl_buf_status(). */
sl_status text_normal_append(enum text_normal_form form, const char *text, size_t bytes,
                             struct sl_buf *out) SL_MUST_USE;

#endif
