/* The boundary is looked for from the far end. The classes without a window bound it by their longest
 * match. Then a window class is asked for the blocks in front of the boundary, last first: where one is
 * missing, no boundary beyond it and within its window can be, so the boundary falls onto it, and all
 * classes are asked again. Each step lowers the boundary or ends, and a class asks for a block once per
 * fall at most, so with one window class the work is one look-up a block. */
#include "kv/hit.h"

/* The boundary at or below `boundary` that class c allows, or the first lower one that it cannot rule
 * out. */
static uint32_t lower(const struct kv_geometry *geometry, uint32_t c,
                      const struct kv_prefix_cache *cache, const struct kv_hash *hashes,
                      uint32_t boundary, kv_block_id *blocks_out)
{
    uint32_t first = kv_window_first(geometry, c, boundary * geometry->block_tokens);
    for (uint32_t i = boundary; i > first; i--) {
        blocks_out[i - 1] = kv_prefix_cache_find(cache, &hashes[i - 1]);
        if (blocks_out[i - 1] == KV_BLOCK_NONE)
            return i - 1;
    }
    return boundary;
}

uint32_t kv_hit_boundary(const struct kv_geometry *geometry, struct kv_prefix_cache *const *caches,
                         const struct kv_hash *hashes, uint32_t n_hashes,
                         kv_block_id *const *blocks_out)
{
    uint32_t boundary = n_hashes;
    for (uint32_t c = 0; c < geometry->n_classes; c++)
        if (geometry->classes[c].window == 0)
            boundary = kv_prefix_cache_match(caches[c], hashes, boundary, blocks_out[c]);
    for (uint32_t c = 0; c < geometry->n_classes && boundary > 0;) {
        uint32_t lowered = boundary;
        if (geometry->classes[c].window > 0)
            lowered = lower(geometry, c, caches[c], hashes, boundary, blocks_out[c]);
        c = lowered == boundary ? c + 1 : 0;
        boundary = lowered;
    }
    return boundary;
}
