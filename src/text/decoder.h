/* Decoders: what a tokenizer.json says about turning tokens back into text. */
#ifndef SL_TEXT_DECODER_H
#define SL_TEXT_DECODER_H

#include "base/buf.h"
#include "base/json.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_REPLACES_MAX 8u

enum text_decoder_kind {
    TEXT_DECODE_PLAIN,      /* tokens as written, a space between two */
    TEXT_DECODE_BYTE_LEVEL, /* characters of the byte alphabet, then UTF-8 */
    TEXT_DECODE_CHAIN,      /* Replace, ByteFallback, Fuse, Strip, in this order */
    TEXT_DECODE_METASPACE,
};

/* In the caller's storage; all zero is PLAIN. Immutable after load. */
struct text_decoder {
    enum text_decoder_kind kind;
    char *replace[TEXT_REPLACES_MAX][2]; /* what, by what */
    uint32_t n_replaces;
    bool byte_fallback;   /* <0xNN> is a byte */
    bool fused;           /* Strip is of the whole text */
    char strip[8];        /* character to leave out at the start of the text … */
    uint32_t strip_count; /* … up to so many times */
    bool drop_first;      /* METASPACE: the first token loses its metaspaces */
};

/* Reads the `decoder` value of a tokenizer.json (NULL and null are fine). SL_UNSUPPORTED names the
 * type; SL_INVALID. fini also after a failure. */
sl_status text_decoder_load(struct text_decoder *decoder, const char *what,
                            const json_t *value) SL_MUST_USE;
void text_decoder_fini(struct text_decoder *decoder);

/* Appends what a token that is written so stands for, as far as that does not depend on others:
 * its bytes. True if it is one byte of the fallback. */
bool text_decoder_token(const struct text_decoder *decoder, const char *written, size_t bytes,
                        struct sl_buf *out);

#endif
