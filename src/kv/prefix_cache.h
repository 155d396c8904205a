/* The prefix cache of a pool: hash of a full, immutable block -> the block that holds it.
 *
 * The tree of blocks is not stored: a hash chains its parent's, so the longest match is a walk over
 * the request's own hashes. Leaf-first eviction follows from the order of release (pool.h), given the
 * rule of insert. One thread.
 *
 * The caches of a model's classes are a group. What the group announces to the coordinator's index are
 * numbered events: a hash is stored when every class has come to hold its block, and evicted when the
 * first of them has lost it. The first class's cache keeps the events of the group. */
#ifndef SL_KV_PREFIX_CACHE_H
#define SL_KV_PREFIX_CACHE_H

#include "base/status.h"
#include "kv/hash.h"
#include "kv/pool.h"

#include <stdbool.h>
#include <stdint.h>

#define KV_EVENTS_MAX                                                                              \
    8192 /* kept until drained; beyond, the oldest are lost: a gap in the numbers */

struct kv_prefix_cache;

struct kv_cache_event {
    bool evicted; /* else stored */
    struct kv_hash hash;
};

/* Becomes the pool's evict hook. `first`: the cache of the group's first class, NULL for that itself.
 * SL_NO_MEMORY. The pool must outlive the cache, and the group's first cache the others. */
sl_status kv_prefix_cache_create(struct kv_pool *pool, uint32_t n_blocks,
                                 struct kv_prefix_cache *first,
                                 struct kv_prefix_cache **cache_out) SL_MUST_USE;
void kv_prefix_cache_destroy(struct kv_prefix_cache *cache);

/* Longest match of a chain: fills blocks_out[0..n) and returns n. Takes no reference. */
uint32_t kv_prefix_cache_match(const struct kv_prefix_cache *cache, const struct kv_hash *hashes,
                               uint32_t n_hashes, kv_block_id *blocks_out);
kv_block_id kv_prefix_cache_find(const struct kv_prefix_cache *cache, const struct kv_hash *hash);
/* Keeps a full block under its hash. The caller holds a reference on it and, unless it is the first
 * of its chain or the pool is a sliding one, on the block that the cache has for the parent's hash.
 * Returns the block that the cache has for the hash: `block`, or one that was there before (then
 * `block` stays the caller's own). */
kv_block_id kv_prefix_cache_insert(struct kv_prefix_cache *cache, const struct kv_hash *hash,
                                   kv_block_id block);

/* Of the group, by its first cache. Number of the last event; the first is 1. */
uint64_t kv_prefix_cache_seq(const struct kv_prefix_cache *cache);
/* Drains at most max events, the first of which has number *first_seq_out; returns their number. */
uint32_t kv_prefix_cache_events(struct kv_prefix_cache *cache, struct kv_cache_event *events_out,
                                uint32_t max, uint64_t *first_seq_out);
/* Every hash that all classes hold, at most max; returns their number. It stands for all events up to
 * kv_prefix_cache_seq(), and those not yet drained are dropped. */
uint32_t kv_prefix_cache_snapshot(struct kv_prefix_cache *cache, struct kv_hash *hashes_out,
                                  uint32_t max);

#endif
