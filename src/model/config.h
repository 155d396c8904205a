/* A model's config.json, read and checked: what the forward pass and the KV geometry need. */
#ifndef SL_MODEL_CONFIG_H
#define SL_MODEL_CONFIG_H

#include "base/json.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "kv/geometry.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_FAMILY_NAME_MAX  32
#define MODEL_CONFIG_EOS_MAX   16
#define MODEL_CONFIG_BYTES_MAX (4u << 20) /* of config.json */

enum model_rope_type { MODEL_ROPE_DEFAULT, MODEL_ROPE_LINEAR, MODEL_ROPE_LLAMA3 };

/* Rotary embedding. LINEAR: frequencies over factor. LLAMA3: low ones over factor, high ones kept. */
struct model_rope {
    enum model_rope_type type;
    double theta;
    double partial; /* share of the head that turns; usually 1 */
    double factor, low_freq_factor, high_freq_factor;
    uint32_t original_context;
};

struct model_config {
    const struct model_family *family;
    uint32_t hidden, n_layers, n_heads, n_kv_heads, head_dim, mlp_hidden, vocab;
    uint32_t context_max;
    bool tied;           /* the head is the embedding */
    bool attention_bias; /* of q, k, v */
    bool out_bias;       /* of the attention's output */
    bool qk_norm;        /* RMS norm of each head of q and k */
    double norm_eps;
    double embedding_scale, attention_scale; /* usually 1 and 1 / sqrt(head_dim) */
    double logits_scale;                     /* folded into the last norm's weights; usually 1 */
    double norm_offset;                      /* added to every norm's weights; usually 0 */
    uint32_t window;                /* tokens a layer looks back, itself included; 0: all … */
    uint32_t window_first_layer;    /* … from this layer on */
    uint8_t no_rope[KV_LAYERS_MAX]; /* 1: the layer's q and k are not rotated */
    enum kernel_activation activation;
    struct model_rope rope;
    uint32_t n_eos_ids; /* of generation_config.json first, then config.json's others */
    uint32_t eos_ids[MODEL_CONFIG_EOS_MAX];
};

/* `root` is the parsed config.json, `what` its name in messages. SL_INVALID names the field, the
 * value and what was wanted; SL_UNSUPPORTED a family, activation or variant that is unknown. */
sl_status model_config_parse(const json_t *root, const char *what,
                             struct model_config *config_out) SL_MUST_USE;
/* Adds the eos_token_id (number or list) of a generation_config.json; ids that are there are kept. */
sl_status model_config_add_eos(const json_t *root, const char *what,
                               struct model_config *config) SL_MUST_USE;
/* Reads DIR/config.json and, where it exists, DIR/generation_config.json. SL_NOT_FOUND. */
sl_status model_config_load(const char *directory, struct model_config *config_out) SL_MUST_USE;
/* sliding_window -> config->window; absent or null: 0. For families. */
sl_status model_config_read_window(const json_t *root, const char *what,
                                   struct model_config *config) SL_MUST_USE;
/* The dimensions of a head that turn; even. */
uint32_t model_config_rotary_dim(const struct model_config *config);
/* inv_freq_out [rotary_dim / 2], computed in f32 in the order in which transformers does. */
void model_config_inv_freq(const struct model_config *config, float *inv_freq_out);
/* 16 bytes that differ when anything that changes a logit differs (weights excluded). */
void model_config_digest(const struct model_config *config, uint8_t digest_out[32]);

#endif
