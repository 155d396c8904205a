/* Offsets and sizes of KV blocks. One (block, layer, head) is a K tile, a V tile and the scales of
 * both, back to back; heads of a layer, layers of a block and blocks of a pool follow each other
 * without padding. A tile has 16 tokens or more, of an even number of elements of two bytes or more, so
 * every tile is aligned to 16 bytes when the pool is. Pure functions of the geometry; any thread. */
#include "kv/geometry.h"

#include "base/status.h"

#define HEADS_MAX       1024
#define HEAD_DIM_MAX    1024
#define SCALE_BYTES_MAX 16

static sl_status check_class(const struct kv_class *class, uint32_t index)
{
    if (class->n_layers == 0 || class->n_layers > KV_LAYERS_MAX)
        return sl_fail(SL_INVALID, "kv class %u: n_layers %u; want 1..%u", index, class->n_layers,
                       KV_LAYERS_MAX);
    if (class->n_kv_heads == 0 || class->n_kv_heads > HEADS_MAX)
        return sl_fail(SL_INVALID, "kv class %u: n_kv_heads %u; want 1..%u", index,
                       class->n_kv_heads, HEADS_MAX);
    if (class->k_dim == 0 || class->k_dim > HEAD_DIM_MAX || class->k_dim % 2 != 0)
        return sl_fail(SL_INVALID, "kv class %u: k_dim %u; want an even number up to %u", index,
                       class->k_dim, HEAD_DIM_MAX);
    if (class->v_dim > HEAD_DIM_MAX || class->v_dim % 2 != 0)
        return sl_fail(SL_INVALID, "kv class %u: v_dim %u; want an even number up to %u", index,
                       class->v_dim, HEAD_DIM_MAX);
    if (kv_element_bytes(class->element) == 0)
        return sl_fail(SL_INVALID, "kv class %u: element %u is unknown", index, class->element);
    if (class->scale_bytes > SCALE_BYTES_MAX)
        return sl_fail(SL_INVALID, "kv class %u: scale_bytes %u; want at most %u", index,
                       class->scale_bytes, SCALE_BYTES_MAX);
    if (class->tile_format != KV_TILE_PLAIN)
        return sl_fail(SL_INVALID, "kv class %u: tile_format %u is unknown", index,
                       class->tile_format);
    return SL_OK;
}

sl_status kv_geometry_check(const struct kv_geometry *geometry)
{
    uint32_t tokens = geometry->block_tokens;
    if (tokens < 16 || tokens > KV_BLOCK_TOKENS_MAX || (tokens & (tokens - 1)) != 0)
        return sl_fail(SL_INVALID, "kv geometry: block_tokens %u; want 16, 32, 64 or 128", tokens);
    if (geometry->n_classes == 0 || geometry->n_classes > KV_CLASSES_MAX)
        return sl_fail(SL_INVALID, "kv geometry: n_classes %u; want 1..%u", geometry->n_classes,
                       KV_CLASSES_MAX);
    for (uint32_t i = 0; i < geometry->n_classes; i++) {
        sl_status status = check_class(&geometry->classes[i], i);
        if (status != SL_OK)
            return status;
    }
    return SL_OK;
}

size_t kv_element_bytes(uint32_t element)
{
    switch (element) {
    case KV_F32:
        return 4;
    case KV_BF16:
        return 2;
    default:
        return 0;
    }
}

static const struct kv_class *class_of(const struct kv_geometry *geometry, uint32_t class_index)
{
    SL_ASSERT(class_index < geometry->n_classes);
    return &geometry->classes[class_index];
}

static size_t k_tile_bytes(const struct kv_geometry *geometry, const struct kv_class *class)
{
    return (size_t)geometry->block_tokens * class->k_dim * kv_element_bytes(class->element);
}

static size_t head_bytes(const struct kv_geometry *geometry, const struct kv_class *class)
{
    size_t tokens = geometry->block_tokens;
    size_t v_bytes = tokens * class->v_dim * kv_element_bytes(class->element);
    return k_tile_bytes(geometry, class) + v_bytes + tokens * class->scale_bytes;
}

size_t kv_layer_bytes(const struct kv_geometry *geometry, uint32_t class_index)
{
    const struct kv_class *class = class_of(geometry, class_index);
    return head_bytes(geometry, class) * class->n_kv_heads;
}

size_t kv_block_bytes(const struct kv_geometry *geometry, uint32_t class_index)
{
    return kv_layer_bytes(geometry, class_index) * class_of(geometry, class_index)->n_layers;
}

size_t kv_k_offset(const struct kv_geometry *geometry, uint32_t class_index, uint32_t layer,
                   uint32_t kv_head)
{
    const struct kv_class *class = class_of(geometry, class_index);
    SL_ASSERT(layer < class->n_layers && kv_head < class->n_kv_heads);
    return ((size_t)layer * class->n_kv_heads + kv_head) * head_bytes(geometry, class);
}

size_t kv_v_offset(const struct kv_geometry *geometry, uint32_t class_index, uint32_t layer,
                   uint32_t kv_head)
{
    return kv_k_offset(geometry, class_index, layer, kv_head) +
           k_tile_bytes(geometry, class_of(geometry, class_index));
}

uint32_t kv_blocks_of(const struct kv_geometry *geometry, uint32_t n_tokens)
{
    return n_tokens / geometry->block_tokens + (n_tokens % geometry->block_tokens != 0);
}

uint32_t kv_window_first(const struct kv_geometry *geometry, uint32_t class_index,
                         uint32_t position)
{
    uint32_t window = class_of(geometry, class_index)->window;
    return window == 0 || position < window ? 0 : (position + 1 - window) / geometry->block_tokens;
}

uint32_t kv_window_blocks(const struct kv_geometry *geometry, uint32_t class_index,
                          uint32_t n_tokens, uint32_t chunk_tokens)
{
    uint64_t window = class_of(geometry, class_index)->window, size = geometry->block_tokens;
    uint32_t all = kv_blocks_of(geometry, n_tokens);
    /* A step at the worst place reads and writes window - 1 + chunk tokens, of which the first is
     * the last of its block. */
    uint64_t most = (window + chunk_tokens + size - 3) / size + 1;
    return window == 0 || all < most ? all : (uint32_t)most;
}
