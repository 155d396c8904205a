/* Byte-pair encoding: the model of a tokenizer.json. Turns one pre-tokenized piece into ids. */
#ifndef SL_TEXT_BPE_H
#define SL_TEXT_BPE_H

#include "base/json.h"
#include "base/status.h"
#include "text/strmap.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXT_ID_NONE    UINT32_MAX
#define TEXT_MERGES_MAX (1u << 22)

/* One merge: the pair of ids as first << 32 | second. */
struct text_merge {
    uint64_t pair;
    uint32_t rank; /* the lower, the earlier; TEXT_ID_NONE: free slot */
    uint32_t id;   /* what the pair becomes */
};

/* In the caller's storage; all zero is what fini accepts. Immutable after load. */
struct text_bpe {
    struct text_strmap vocab;  /* tokens as written in the file */
    struct text_strmap words;  /* byte level: the same tokens as bytes, where they stand for some */
    uint32_t n_ids;            /* greatest id + 1 */
    uint8_t *whole;            /* [n_ids] the token's own text is encoded as this one token */
    size_t key_bytes_max;      /* longest key of the table that pieces are looked up in */
    struct text_merge *merges; /* [n_merge_slots], a power of two, at most half full */
    uint32_t n_merge_slots;
    uint32_t byte_ids[256]; /* byte level: id of the byte's character, or TEXT_ID_NONE */
    uint32_t unk_id;        /* TEXT_ID_NONE: characters without a token are dropped */
    bool byte_level;        /* pieces are raw bytes, and tokens are written in the byte alphabet */
    bool ignore_merges;     /* a piece that is a token is that token */
    bool fuse_unk;
    bool byte_fallback; /* characters without a token become <0xNN> */
};

/* Working memory of one encode call; grows with the longest piece. All zero at first. */
struct text_bpe_scratch {
    uint32_t *symbols; /* [symbols_capacity] */
    uint32_t *links;   /* [2 * links_capacity] before and after */
    uint64_t *heap;    /* [heap_capacity] rank << 32 | position */
    size_t n_symbols, symbols_capacity, links_capacity, n_heap, heap_capacity;
};
void text_bpe_scratch_fini(struct text_bpe_scratch *scratch);

/* Reads the `model` object of a tokenizer.json. byte_level: see above. SL_INVALID, SL_CORRUPT,
 * SL_UNSUPPORTED name `what` and the field; SL_NO_MEMORY. fini also after a failure. */
sl_status text_bpe_load(struct text_bpe *bpe, const char *what, const json_t *model,
                        bool byte_level) SL_MUST_USE;
void text_bpe_fini(struct text_bpe *bpe);
/* Appends the ids of one piece (not empty). Time O(n log n) in its length. SL_EXHAUSTED when the
 * list is full, SL_NO_MEMORY. */
sl_status text_bpe_encode(const struct text_bpe *bpe, struct text_bpe_scratch *scratch,
                          const char *piece, size_t bytes, struct text_ids *ids) SL_MUST_USE;

/* Bytes of a token that is written in the byte alphabet: written to out (at most `bytes` of them);
 * false if a character of it stands for no byte. */
bool text_bpe_unmap(const char *written, size_t bytes, char *out, size_t *n_out);

#endif
