/* A model's config.json, read and checked: what the forward pass and the KV geometry need. */
#ifndef SL_MODEL_CONFIG_H
#define SL_MODEL_CONFIG_H

#include "base/json.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "kv/geometry.h"
#include "model/rope.h"

#include <stdbool.h>
#include <stdint.h>

#define MODEL_CONFIG_EOS_MAX   16
#define MODEL_CONFIG_BYTES_MAX (4u << 20) /* of config.json */

#define MODEL_ROPES_MAX 2
#define MODEL_ROPE_NONE UINT8_MAX /* in rope_of: q and k of the layer are not rotated */

enum model_qk_norm {
    MODEL_QK_NORM_NONE,
    MODEL_QK_NORM_HEAD, /* RMS norm of each head of q and k */
    MODEL_QK_NORM_WHOLE /* of all of q, and of all of k */
};

struct model_config {
    const struct model_family *family;
    uint32_t hidden, n_layers, n_heads, n_kv_heads, head_dim, mlp_hidden, vocab;
    uint32_t context_max;
    bool tied;           /* the head is the embedding */
    bool attention_bias; /* of q, k, v */
    bool out_bias;       /* of the attention's output */
    enum model_qk_norm qk_norm;
    double norm_eps;
    double embedding_scale, attention_scale;  /* usually 1 and 1 / sqrt(head_dim) */
    double logits_scale;                      /* folded into the last norm's weights; usually 1 */
    double norm_offset;                       /* added to every norm's weights; usually 0 */
    double attention_softcap, logits_softcap; /* cap * tanh(x / cap); 0: none */
    uint32_t windows[KV_LAYERS_MAX]; /* tokens the layer looks back, itself included; 0: all */
    uint8_t rope_of[KV_LAYERS_MAX];  /* of ropes; or MODEL_ROPE_NONE */
    uint32_t n_ropes;
    struct model_rope ropes[MODEL_ROPES_MAX];
    enum kernel_activation activation;
    uint32_t n_experts, n_chosen, expert_hidden; /* of layers with experts; 0: none */
    bool renormalise;                            /* the chosen experts' shares add up to 1 */
    uint8_t has_experts[KV_LAYERS_MAX];          /* 1: in place of the MLP */
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

/* A context of fewer tokens is served: 1..context_max, else SL_INVALID. It decides what longrope does. */
sl_status model_config_limit(struct model_config *config, uint32_t context_max) SL_MUST_USE;

/* For families: what several of them read. */

/* Which layers slide when no list of layer_types says so: those from first_layer on, but for every
 * full_every-th (0: without exception). */
struct model_sliding {
    uint32_t fallback;    /* sliding_window where it is absent; 0: none */
    bool has_layer_types; /* the family's class knows the list */
    uint32_t first_layer, full_every;
    uint8_t rope; /* of the layers that slide */
};
/* sliding_window, layer_types -> config->windows, rope_of. A window that no sequence fills is none. */
sl_status model_config_read_windows(const json_t *root, const char *what,
                                    const struct model_sliding *sliding,
                                    struct model_config *config) SL_MUST_USE;
/* SL_UNSUPPORTED when the field is true. */
sl_status model_config_refuse(const json_t *root, const char *what, const char *field) SL_MUST_USE;
/* Over the values that *rope has: rope_theta, rope_scaling or rope_parameters. A `part` is one of the
 * objects that rope_parameters has for types of layers. */
sl_status model_config_read_rope(const json_t *root, const char *what, const char *part,
                                 const struct model_config *config,
                                 struct model_rope *rope) SL_MUST_USE;

/* inv_freq_out [rotary dimensions / 2] of ropes[index]. */
void model_config_inv_freq(const struct model_config *config, uint32_t index, float *inv_freq_out);
/* 32 bytes that differ when anything that changes a logit differs (weights excluded). */
void model_config_digest(const struct model_config *config, uint8_t digest_out[32]);

#endif
