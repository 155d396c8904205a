/* Rotary embedding: what config.json says of it, and the frequencies that follow. */
#ifndef SL_MODEL_ROPE_H
#define SL_MODEL_ROPE_H

#include "base/json.h"
#include "base/status.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_ROPE_PAIRS_MAX   (KERNEL_HEAD_DIM_MAX / 2)
#define MODEL_ROPE_CONTEXT_MAX (1u << 26)

/* LINEAR: frequencies over factor. LLAMA3: low ones over factor, high ones kept. YARN: likewise, by
 * pairs, with a ramp between them. LONGROPE: each over a factor of its own, from one of two lists. */
enum model_rope_type {
    MODEL_ROPE_DEFAULT,
    MODEL_ROPE_LINEAR,
    MODEL_ROPE_LLAMA3,
    MODEL_ROPE_YARN,
    MODEL_ROPE_LONGROPE
};

struct model_rope {
    enum model_rope_type type;
    double theta;
    double partial; /* share of the head that turns; usually 1 */
    double factor;
    uint32_t original_context;
    double low_freq_factor, high_freq_factor; /* LLAMA3 */
    double beta_fast, beta_slow;              /* YARN: turns within original_context … */
    bool truncate;                            /* … whose pairs are rounded outwards */
    double attention_factor;                  /* cos and sin are multiplied by it; usually 1 */
    uint32_t n_factors;                       /* LONGROPE: pairs of each list */
    float short_factors[MODEL_ROPE_PAIRS_MAX], long_factors[MODEL_ROPE_PAIRS_MAX];
};

/* What a rope reads from the rest of the configuration. */
struct model_rope_context {
    uint32_t context_max; /* max_position_embeddings */
    uint32_t
        original_context; /* original_max_position_embeddings outside of the object; 0: absent */
};

/* The rope of `object` (rope_parameters, rope_scaling or a part of them), over the values that *rope
 * has already. SL_INVALID names the field; SL_UNSUPPORTED a type that is unknown. */
sl_status model_rope_read(const json_t *object, const char *what,
                          const struct model_rope_context *context,
                          struct model_rope *rope) SL_MUST_USE;
/* The dimensions of a head that turn; even. */
uint32_t model_rope_dim(const struct model_rope *rope, uint32_t head_dim);
/* Lists of factors must have as many as there are pairs. */
sl_status model_rope_check(const struct model_rope *rope, const char *what,
                           uint32_t head_dim) SL_MUST_USE;
/* LONGROPE: the list that counts for contexts of up to context_max tokens, [n_factors]. */
const float *model_rope_factors(const struct model_rope *rope, uint32_t context_max);
/* inv_freq_out [model_rope_dim / 2], for contexts of up to context_max tokens; computed in f32 in the
 * order in which transformers does. */
void model_rope_inv_freq(const struct model_rope *rope, uint32_t head_dim, uint32_t context_max,
                         float *inv_freq_out);

#endif
