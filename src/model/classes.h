/* The KV classes of a model: which class a layer's keys and values are in, and which layer of it. */
#ifndef SL_MODEL_CLASSES_H
#define SL_MODEL_CLASSES_H

#include "kv/geometry.h"
#include "model/config.h"

struct model_classes {
    struct kv_geometry geometry;
    uint8_t class_of[KV_LAYERS_MAX]; /* of a layer of the model */
    uint8_t index_of[KV_LAYERS_MAX]; /* of that layer within its class */
};

/* SL_INVALID and SL_UNSUPPORTED name what does not fit. */
sl_status model_classes_make(const struct model_config *config, uint32_t block_tokens,
                             uint32_t element, struct model_classes *classes_out) SL_MUST_USE;
/* Blocks of each class's pool when class 0 has n_blocks: what seqs_max sequences need at once and a
 * share of the cache, at most n_blocks. Whatever fits class 0 fits the others. */
void model_classes_blocks(const struct model_classes *classes, uint32_t n_blocks, uint32_t seqs_max,
                          uint32_t rows_max, uint32_t blocks_out[KV_CLASSES_MAX]);

#endif
