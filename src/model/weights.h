/* Tensors of a checkpoint -> packed weights of a backend. */
#ifndef SL_MODEL_WEIGHTS_H
#define SL_MODEL_WEIGHTS_H

#include "base/status.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/safetensors.h"

#include <stdint.h>

#define MODEL_STACK_MAX 3 /* source matrices of one packed weight */

/* Shapes are of kernels.h; NULL where the family has none. */
struct model_layer {
    struct kernel_weight *attn_norm, *qkv, *qkv_bias, *q_norm, *k_norm, *out, *out_bias;
    struct kernel_weight *attn_post_norm, *mlp_norm, *gate_up, *down, *mlp_post_norm;
    /* in place of gate_up and down; arrays of n_experts */
    uint32_t n_experts;
    struct kernel_weight *router, **expert_gate_up, **expert_down;
};

struct model_weights {
    const struct kernel_ops *ops;
    struct kernel_weight *embedding; /* also the head where tied */
    struct kernel_weight *norm;
    struct kernel_weight *head; /* == embedding where tied */
    uint32_t n_layers;
    struct model_layer *layers;
    uint64_t bytes;        /* as stored */
    uint64_t n_parameters; /* tied ones once */
};

/* Tensors of a layer's norms, before and behind attention and MLP; NULL: none. */
struct model_norms {
    const char *attn, *attn_post, *mlp, *mlp_post;
};

/* While loading. */
struct model_loader {
    const struct model_config *config;
    const struct model_tensors *tensors;
    const struct kernel_ops *ops;
    struct kernel_context *context;
    uint64_t bytes_done, bytes_total;
    uint64_t n_parameters;
    bool (*progress)(void *arg, uint64_t bytes_done, uint64_t bytes_total); /* false: stop */
    void *progress_arg;
    bool stopped;       /* nothing more is loaded: SL_CANCELLED */
    const char *prefix; /* "model." or what a checkpoint with images has instead … */
    uint32_t layer;     /* … and the layer: put in front of the names below */
};

/* A matrix [n][k] of the current layer, or several stacked along n: names are without
 * PREFIX"layers.N." in front; the parts' n are in the order of the names. SL_NOT_FOUND, SL_INVALID
 * name the tensor, its shape and the one wanted. */
struct model_part {
    const char *name;
    uint32_t n;
    uint32_t index,
        count; /* part `index` of a tensor [count][n][k]; count 0: the tensor is [n][k] */
};
sl_status model_load_matrix(struct model_loader *loader, const struct model_part *parts,
                            uint32_t n_parts, uint32_t k,
                            struct kernel_weight **weight_out) SL_MUST_USE;
sl_status model_load_vector(struct model_loader *loader, const struct model_part *parts,
                            uint32_t n_parts, struct kernel_weight **weight_out) SL_MUST_USE;
/* A norm's weights of n values, with the config's norm_offset. */
sl_status model_load_norm(struct model_loader *loader, const char *name, uint32_t n,
                          struct kernel_weight **weight_out) SL_MUST_USE;

/* The norms around attention and MLP that the family has: Llama's unless it names others. */
sl_status model_load_norms(struct model_loader *loader, struct model_layer *layer) SL_MUST_USE;
/* The layer of Llama and its kin: norms; q, k, v, o with the biases and norms that the config asks
 * for; gate, up, down, or a router and experts where the config has them. Experts are tensors each, as
 * checkpoints are published, or two for all of a layer, as transformers 5 keeps them. */
sl_status model_load_standard_layer(struct model_loader *loader,
                                    struct model_layer *layer) SL_MUST_USE;

/* Everything; `loader` as it is set up by the caller. */
sl_status model_weights_load(struct model_loader *loader,
                             struct model_weights *weights_out) SL_MUST_USE;
/* Accepts what a failed load left. */
void model_weights_fini(struct model_weights *weights);

#endif
