/* Detokenizer: the text of one sequence, token by token. What comes out is always whole characters
 * of valid UTF-8; the pieces put together are what text_tokenizer_decode() makes of all the ids. */
#ifndef SL_TEXT_DETOKENIZER_H
#define SL_TEXT_DETOKENIZER_H

#include "text/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

/* In the caller's storage; one thread at a time. Fields are the detokenizer's own. */
struct text_detokenizer {
    const struct text_tokenizer *tokenizer; /* borrowed */
    bool skip_special;
    bool started;        /* a token has been taken */
    uint32_t strip_left; /* characters that may still be stripped at the start */
    uint8_t n_held;      /* bytes of an incomplete character */
    char held[4];
    uint64_t out_bytes; /* text given out so far, without what is held */
    uint64_t out_chars;
    struct sl_buf run; /* decoders that decide over a run of tokens */
};

/* Where a token's text begins in the whole text: behind everything that was given out before it.
 * A token that continues a held character counts from that character's start. */
struct text_offset {
    uint64_t bytes;
    uint64_t chars; /* Unicode code points, as OpenAI's text_offset counts */
};

void text_detokenizer_init(struct text_detokenizer *detokenizer,
                           const struct text_tokenizer *tokenizer, bool skip_special);
void text_detokenizer_fini(struct text_detokenizer *detokenizer);
/* Appends the text that is complete now to `out` (often nothing: ask out->bytes before and after).
 * offset_out may be NULL. Unknown ids give nothing. */
void text_detokenizer_push(struct text_detokenizer *detokenizer, uint32_t id, struct sl_buf *out,
                           struct text_offset *offset_out);
/* The end: what is held comes out as U+FFFD. Afterwards it is as after init. */
void text_detokenizer_flush(struct text_detokenizer *detokenizer, struct sl_buf *out);

#endif
