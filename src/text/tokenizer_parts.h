/* The inside of a tokenizer, for tokenizer.c and detokenizer.c. */
#ifndef SL_TEXT_TOKENIZER_PARTS_H
#define SL_TEXT_TOKENIZER_PARTS_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/decoder.h"
#include "text/normalize.h"
#include "text/post.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stdint.h>

struct text_token {
    uint32_t offset; /* of its bytes in token_bytes */
    uint32_t n;
    bool exists, special;
    bool is_byte; /* one byte of the fallback */
};

struct text_tokenizer {
    struct text_added added;
    struct text_normalizer normalizer;
    struct text_pretokenizer pretokenizer;
    struct text_bpe bpe;
    struct text_post post;
    struct text_decoder decoder;
    struct text_token *tokens; /* [n_ids] */
    uint32_t n_ids;
    struct sl_buf token_bytes;
    uint32_t eos_id, bos_id; /* TEXT_ID_NONE: none */
};

/* NULL for an id that no token has. */
static inline const struct text_token *text_token_of(const struct text_tokenizer *tokenizer,
                                                     uint32_t id)
{
    return id < tokenizer->n_ids && tokenizer->tokens[id].exists ? &tokenizer->tokens[id] : NULL;
}

#endif
