/* Sampling: what adjust.h says, then temperature, top_k, top_p, min_p; counter-based on (seed, position), so a
 * token is a function of the logits, the parameters, the tokens before it, the seed and its position only. */
#ifndef SL_MODEL_SAMPLER_H
#define SL_MODEL_SAMPLER_H

#include "base/status.h"
#include "model/adjust.h"

#include <stdint.h>

#define MODEL_LOGPROBS_MAX 20
#define MODEL_STOP_IDS_MAX 32

#define MODEL_TEMPERATURE_MAX 100.0f

struct model_sampling {
    float temperature; /* 0: greedy, ties to the lowest id */
    uint32_t top_k;    /* 0: all */
    float top_p;       /* 1: all */
    float min_p;       /* 0: all */
    uint64_t seed;
    int32_t n_logprobs;    /* -1: none; 0..20: the sampled token's and so many of the likeliest */
    uint32_t min_position; /* stop_ids are masked for tokens at positions below (min_tokens) */
    uint32_t n_stop_ids;   /* end and stop token ids that the mask covers */
    uint32_t stop_ids[MODEL_STOP_IDS_MAX];
    const struct model_adjust *adjust; /* NULL: none. Borrowed; has taken the tokens before */
};

struct model_token {
    uint32_t id;
    float logprob;  /* of the raw logits */
    uint32_t rank;  /* model_score: 1 for the likeliest, ties to the lowest id; else 0 */
    uint32_t n_top; /* likeliest first, ties to the lowest id */
    uint32_t top_ids[MODEL_LOGPROBS_MAX];
    float top_logprobs[MODEL_LOGPROBS_MAX];
};

/* SL_INVALID names the field, the value and its range. */
sl_status model_sampling_check(const struct model_sampling *sampling) SL_MUST_USE;

struct model_sampler; /* scratch for one thread and vocabulary */

sl_status model_sampler_create(uint32_t vocab, struct model_sampler **sampler_out) SL_MUST_USE;
void model_sampler_destroy(struct model_sampler *sampler);
/* The token at `position` (index in the sequence of the token being chosen). logits [vocab] f32, left
 * as they were. SL_CORRUPT when logits hold NaN or +inf, or only -inf (also when all of them are masked). sampling
 * has passed model_sampling_check. */
sl_status model_sample(struct model_sampler *sampler, const float *logits,
                       const struct model_sampling *sampling, uint32_t position,
                       struct model_token *token_out) SL_MUST_USE;
/* What logits [vocab] say of a token that is known: its logprob, its rank, and the n_top likeliest (at most
 * MODEL_LOGPROBS_MAX). id is below the vocabulary. SL_CORRUPT as above. */
sl_status model_score(struct model_sampler *sampler, const float *logits, uint32_t id,
                      uint32_t n_top, struct model_token *token_out) SL_MUST_USE;

#endif
