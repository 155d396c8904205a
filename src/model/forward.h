/* The layers of a batch as ops on a stream. */
#ifndef SL_MODEL_FORWARD_H
#define SL_MODEL_FORWARD_H

#include "kernels/kernels.h"
#include "kv/geometry.h"
#include "model/classes.h"
#include "model/config.h"
#include "model/weights.h"

struct model_forward {
    const struct model_config *config;
    const struct model_weights *weights;
    const struct kernel_ops *ops;
    struct kernel_acts *acts;
    struct device_stream *stream;
    const struct model_classes *classes;
    const struct device_memory *pools; /* [n_classes] */
    const float *inv_freq[MODEL_ROPES_MAX];
};

/* The KV of a layer as the kernels want it. */
struct kernel_kv model_forward_kv(const struct model_forward *forward, uint32_t layer);
void model_forward_embed(const struct model_forward *forward, const struct kernel_batch *batch);
/* Up to the layer's KV being written … */
void model_forward_layer_kv(const struct model_forward *forward, uint32_t layer);
/* … and the rest of it. */
void model_forward_layer_rest(const struct model_forward *forward, uint32_t layer);
/* Logits of rows[n] of the batch into `logits` [n][vocab]; rows borrowed until the batch retires. */
void model_forward_logits(const struct model_forward *forward, const uint32_t *rows, uint32_t n,
                          struct device_memory *logits);

#endif
