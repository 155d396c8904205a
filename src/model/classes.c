/* Layers that look back equally far are one class: their blocks live and die together. Class 0 is that
 * of the layers without a window, when there are any; the others follow in the order in which the
 * layers name them. (A window that no context reaches is none to config.c: it would only split the pool.)
 *
 * Pure; no state. */
#include "model/classes.h"

#include <string.h>

/* What the pool of a window class has beyond the sequences at work, as a share of class 0's: the ends
 * of cached prefixes, whose blocks a hit needs. */
#define CACHED_SHARE 4

static sl_status class_for(const struct model_config *config, uint32_t layer, uint32_t window,
                           uint32_t element, struct model_classes *classes)
{
    struct kv_geometry *geometry = &classes->geometry;
    uint32_t c = 0;
    while (c < geometry->n_classes && geometry->classes[c].window != window)
        c++;
    if (c == KV_CLASSES_MAX)
        return sl_fail(SL_UNSUPPORTED, "layer %u: window %u is one more than %d KV classes", layer,
                       window, KV_CLASSES_MAX);
    if (c == geometry->n_classes) {
        geometry->n_classes++;
        geometry->classes[c] = (struct kv_class){
            .n_kv_heads = config->n_kv_heads,
            .k_dim = config->head_dim,
            .v_dim = config->head_dim,
            .element = element,
            .window = window,
            .tile_format = KV_TILE_PLAIN,
        };
    }
    classes->class_of[layer] = (uint8_t)c;
    classes->index_of[layer] = (uint8_t)geometry->classes[c].n_layers++;
    return SL_OK;
}

sl_status model_classes_make(const struct model_config *config, uint32_t block_tokens,
                             uint32_t element, struct model_classes *classes_out)
{
    struct model_classes classes = {.geometry = {.block_tokens = block_tokens}};
    sl_status status = SL_OK;
    for (uint32_t windows = 0; windows < 2; windows++) /* class 0 first */
        for (uint32_t layer = 0; layer < config->n_layers && status == SL_OK; layer++) {
            uint32_t window = config->windows[layer];
            if ((window > 0) == (windows > 0))
                status = class_for(config, layer, window, element, &classes);
        }
    if (status == SL_OK)
        status = kv_geometry_check(&classes.geometry);
    if (status == SL_OK)
        *classes_out = classes;
    return status;
}

void model_classes_blocks(const struct model_classes *classes, uint32_t n_blocks, uint32_t seqs_max,
                          uint32_t rows_max, uint32_t blocks_out[KV_CLASSES_MAX])
{
    const struct kv_geometry *geometry = &classes->geometry;
    memset(blocks_out, 0, KV_CLASSES_MAX * sizeof(*blocks_out));
    for (uint32_t c = 0; c < geometry->n_classes; c++) {
        uint64_t each = kv_window_blocks(geometry, c, UINT32_MAX, rows_max);
        uint64_t most = seqs_max * each + n_blocks / CACHED_SHARE;
        bool derived = c > 0 && most < n_blocks;
        blocks_out[c] = derived ? (uint32_t)most : n_blocks;
    }
}
