/* Added tokens: found in the text itself, before anything else is done to it. */
#ifndef SL_TEXT_ADDED_H
#define SL_TEXT_ADDED_H

#include "base/json.h"
#include "base/status.h"
#include "text/normalize.h"
#include "text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text_added_token {
    uint32_t id;
    uint32_t n; /* bytes of content */
    char *content;
    char *shown; /* what it decodes to: its normalized form if it is looked for so */
    uint32_t n_shown;
    bool single_word; /* only where no word character touches it */
    bool lstrip;      /* takes the white space in front */
    bool rstrip;      /* takes the white space behind */
    bool normalized;  /* looked for in the normalized text, in its own normalized form */
    bool special;     /* left out of generated text */
};

struct text_trie_node {
    uint32_t child;   /* first one; 0: none */
    uint32_t sibling; /* next one; 0: none */
    uint32_t token;   /* index + 1; 0: no token ends here */
    uint8_t byte;
};
struct text_trie {
    struct text_trie_node *nodes; /* nodes[0] is not used */
    uint32_t n_nodes, capacity;
    uint32_t roots[256]; /* first bytes; 0: none */
};

/* In the caller's storage; all zero has none. Immutable after load. */
struct text_added {
    struct text_added_token *tokens; /* [n_tokens], in the file's order */
    uint32_t n_tokens;
    struct text_trie raw;        /* of those that are not normalized */
    struct text_trie normalized; /* of those that are */
};

/* Reads the `added_tokens` list (NULL and null are fine). Ids are checked by the caller, who knows
 * the model's. SL_INVALID, SL_CORRUPT name the entry. fini also after a failure. */
sl_status text_added_load(struct text_added *added, const char *what, const json_t *value,
                          const struct text_normalizer *normalizer) SL_MUST_USE;
void text_added_fini(struct text_added *added);

/* Takes one stretch of text between added tokens (token NULL, bytes > 0), or one added token. */
typedef sl_status (*text_added_fn)(void *arg, const struct text_added_token *token,
                                   const char *text, size_t bytes, bool at_start);
/* Cuts a text at the tokens of one of the two tries; the longest of those that begin leftmost.
 * at_start: the text is the beginning of the whole, and the first stretch is told so. SL_EXHAUSTED when
 * the tokens share so much that looking for them takes too long; or what `take` returned. */
sl_status text_added_split(const struct text_added *added, const struct text_trie *trie,
                           const char *text, size_t bytes, bool at_start, text_added_fn take,
                           void *arg) SL_MUST_USE;

#endif
