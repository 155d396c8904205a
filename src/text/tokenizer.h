/* Tokenizer: text to token ids and back, as Hugging Face `tokenizers` does it from tokenizer.json.
 *
 * Immutable after open; every function but open and destroy may be called from any thread at once.
 * What a file asks for and this build does not have is refused at open, by its name. */
#ifndef SL_TEXT_TOKENIZER_H
#define SL_TEXT_TOKENIZER_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_FILE_BYTES_MAX  (64u << 20)  /* tokenizer.json */
#define TEXT_IDS_MAX         (1u << 21)   /* greatest token id + 1 */
#define TEXT_TOKEN_BYTES_MAX 4096u        /* one token, as written in the file */
#define TEXT_ADDED_MAX       65536u       /* added tokens */
#define TEXT_INPUT_BYTES_MAX (256u << 20) /* one text to encode */

struct text_tokenizer;

/* Growing list of token ids, born with a maximum. */
struct text_ids {
    uint32_t *ids; /* NULL before the first one */
    size_t n_ids;
    size_t capacity;
    size_t n_ids_max;
};

void text_ids_init(struct text_ids *ids, size_t n_ids_max);
void text_ids_fini(struct text_ids *ids);
/* SL_EXHAUSTED beyond n_ids_max, SL_NO_MEMORY. */
sl_status text_ids_add(struct text_ids *ids, uint32_t id) SL_MUST_USE;

/* Reads dir/tokenizer.json and, where it is there, dir/tokenizer_config.json (end and start token).
 * SL_NOT_FOUND; SL_INVALID, SL_CORRUPT name file and field; SL_UNSUPPORTED names the component. */
sl_status text_tokenizer_open(const char *dir, struct text_tokenizer **tokenizer_out) SL_MUST_USE;
/* The same from the bytes of a tokenizer.json; there is no end token then. `what` is used in errors. */
sl_status text_tokenizer_parse(const char *what, const char *json, size_t bytes,
                               struct text_tokenizer **tokenizer_out) SL_MUST_USE;
void text_tokenizer_destroy(struct text_tokenizer *tokenizer);

/* Appends the ids of a text. Added tokens that stand in the text are recognised; with
 * add_special_tokens the post-processor adds its own (the start token, mostly).
 * SL_INVALID: not UTF-8, or beyond TEXT_INPUT_BYTES_MAX; SL_EXHAUSTED: more ids than the list may
 * hold (it then has an unspecified part of them); SL_NO_MEMORY. */
sl_status text_tokenizer_encode(const struct text_tokenizer *tokenizer, const char *text,
                                size_t bytes, bool add_special_tokens,
                                struct text_ids *ids) SL_MUST_USE;

/* Appends the text of a list of ids: always valid UTF-8, with U+FFFD where the tokens' bytes are
 * not. Ids that no token has are skipped, special tokens too if asked. Ask sl_buf_status() at the
 * end. */
void text_tokenizer_decode(const struct text_tokenizer *tokenizer, const uint32_t *ids,
                           size_t n_ids, bool skip_special_tokens, struct sl_buf *out);

/* Greatest token id + 1. Ids below it may be unused. */
uint32_t text_tokenizer_n_ids(const struct text_tokenizer *tokenizer);
/* A token's own bytes, which need not be UTF-8; NULL if no token has this id. Borrowed. */
const char *text_tokenizer_token_bytes(const struct text_tokenizer *tokenizer, uint32_t id,
                                       size_t *bytes_out);
bool text_tokenizer_is_special(const struct text_tokenizer *tokenizer, uint32_t id);
/* The token that is written so in the file ("<|end_of_text|>", "\u0120the"). False if there is none. */
bool text_tokenizer_find(const struct text_tokenizer *tokenizer, const char *token, size_t bytes,
                         uint32_t *id_out);
/* tokenizer_config.json's eos_token and bos_token. False if it names none. */
bool text_tokenizer_eos(const struct text_tokenizer *tokenizer, uint32_t *id_out);
bool text_tokenizer_bos(const struct text_tokenizer *tokenizer, uint32_t *id_out);

/* Appends a token's name as logprobs show it: its text, or `bytes:\xe2\x82` where its bytes are not
 * UTF-8 on their own, or always if as_bytes (for a name that collides with another's); `token_id:7` of an id
 * that no token has, as models with more rows than tokens can give. */
void text_tokenizer_token_name(const struct text_tokenizer *tokenizer, uint32_t id, bool as_bytes,
                               struct sl_buf *out);

#endif
