/* Stop strings, looked for in the text of one sequence while it grows.
 *
 * The string that is complete first ends the text; of two that are complete with the same byte the
 * longer counts. Text that may be the beginning of a stop string is held back until it is known.
 * Time is linear in the text, whatever the strings. */
#ifndef SL_TEXT_STOP_H
#define SL_TEXT_STOP_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_STOPS_MAX      16u
#define TEXT_STOP_BYTES_MAX 1024u /* each */

struct text_stop;

struct text_stop_args {
    const char *const *strings; /* [n_strings] UTF-8, copied; an empty one is SL_INVALID */
    const size_t *bytes;        /* [n_strings]; NULL: the strings end with NUL */
    uint32_t n_strings;         /* 0..TEXT_STOPS_MAX; with 0 everything passes */
    bool include_stop_str;      /* the string itself still belongs to the text */
    uint32_t min_tokens;        /* a string that is complete within so many pushes does not count */
};

/* SL_INVALID: too many, too long or empty strings. */
sl_status text_stop_create(const struct text_stop_args *args,
                           struct text_stop **stop_out) SL_MUST_USE;
void text_stop_destroy(struct text_stop *stop);
/* Takes the text of one more token (may be empty; call it once per token, for min_tokens) and
 * appends to `out` what is certain now. True when a stop string is complete: the text has ended,
 * nothing is held any more, the rest of this token's text is dropped; further pushes give nothing
 * and true again. */
bool text_stop_push(struct text_stop *stop, const char *text, size_t bytes, struct sl_buf *out);
/* The end without a stop string: what was held comes out. Text that the detokenizer's flush gives
 * must have been pushed before. */
void text_stop_flush(struct text_stop *stop, struct sl_buf *out);
/* Index of the string that ended the text, -1 if none has. */
int text_stop_index(const struct text_stop *stop);
/* Bytes now held back. */
size_t text_stop_held_bytes(const struct text_stop *stop);

#endif
