/* How far a prefix is held over all classes. Pure look-up; takes no reference. */
#ifndef SL_KV_HIT_H
#define SL_KV_HIT_H

#include "kv/geometry.h"
#include "kv/prefix_cache.h"

/* The longest boundary that every class still holds, in blocks: a class without a window must hold
 * every block before it, one with a window those that the token at the boundary reads. Fills
 * blocks_out[c][i] for the blocks i that a hit there needs of class c.
 *
 *   caches      [n_classes]
 *   blocks_out  [n_classes][n_hashes]
 */
uint32_t kv_hit_boundary(const struct kv_geometry *geometry, struct kv_prefix_cache *const *caches,
                         const struct kv_hash *hashes, uint32_t n_hashes,
                         kv_block_id *const *blocks_out);

#endif
