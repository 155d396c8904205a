/* What changes the logits of one sequence before a token is chosen from them, in this order:
 *
 *   words that must not appear, bias, then the penalties: repetition, frequency, presence
 *
 * all before the temperature. It is a function of the parameters, of the token ids so far and of where
 * the prompt ends: the same wherever the sequence is computed, and when it is computed again.
 *
 * The owner sets the parameters and lists, checks them, gives room for the counts, and then takes every
 * token of the sequence in order. No memory is allocated here; cost grows with the tokens that are
 * present, not with the vocabulary. */
#ifndef SL_MODEL_ADJUST_H
#define SL_MODEL_ADJUST_H

#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_BIASES_MAX     1024u
#define MODEL_BIAS_MAX       100.0f
#define MODEL_WORDS_MAX      512u
#define MODEL_WORD_IDS_MAX   4096u /* of all words together */
#define MODEL_REPETITION_MAX 100.0f
#define MODEL_PENALTY_MAX    2.0f /* presence and frequency: -2..2 */

/* A token that is present. */
struct model_count {
    uint32_t id;
    uint32_t n_output; /* times after the prompt */
};

struct model_adjust {
    /* Parameters; zeroed means none. Lists are borrowed while the sequence lives. */
    float repetition;          /* of every token present, prompt too; 0 and 1: none */
    float presence, frequency; /* of tokens after the prompt; 0: none */
    uint32_t n_biases;
    const uint32_t *bias_ids; /* [n_biases] */
    const float *biases;
    uint32_t n_words;
    const uint32_t *word_lengths; /* [n_words], each at least 1 */
    const uint32_t *word_ids;     /* one word after the other */
    uint32_t n_prompt;            /* the first tokens taken are the prompt's */
    const uint32_t *tokens;       /* where the owner keeps the sequence; taken ones do not change */
    /* Fields of adjust.c; `counts` and `slots` are given by model_adjust_init. */
    uint32_t n_taken;
    uint32_t n_counts, n_counts_max;
    struct model_count *counts; /* in the order in which the tokens appeared */
    uint32_t *slots;            /* hash of ids: index of the count, and 1; 0: empty */
    uint32_t slots_mask;
};

/* Nothing of it changes any logit. */
bool model_adjust_is_neutral(const struct model_adjust *adjust);
/* SL_INVALID names the field, the value and its range. */
sl_status model_adjust_check(const struct model_adjust *adjust, uint32_t vocab) SL_MUST_USE;
/* Room that the counts of a sequence of up to tokens_max tokens need: so many counts (0: none are needed) and
 * so many slots. n_prompt and the penalties are set. */
void model_adjust_room(const struct model_adjust *adjust, uint32_t tokens_max, uint32_t vocab,
                       uint32_t *n_counts_out, uint32_t *n_slots_out);
/* counts and slots: zeroed, of the room that was asked for; borrowed while the sequence lives. */
void model_adjust_init(struct model_adjust *adjust, struct model_count *counts, uint32_t n_counts,
                       uint32_t *slots, uint32_t n_slots);
/* The sequence has grown to n tokens. */
void model_adjust_take(struct model_adjust *adjust, uint32_t n);
/* logits [vocab] of the token that follows those taken, changed in place. */
void model_adjust_apply(const struct model_adjust *adjust, float *logits, uint32_t vocab);

#endif
