/* The block pool: who may use which block of a class's KV memory. Ids only, no bytes.
 *
 * Every block is in one state; the states add up to the total:
 *
 *   FREE ──take──► USED ──release, last reference──► FREE, or CACHED if the prefix cache keeps it
 *    ▲              │ ▲                                        │
 *    │   landing_   │ └────────────acquire─────────────────────┤
 *    │   begin/end  ▼                                          │
 *    │          LANDING ──quarantine──► QUARANTINED            │
 *    └──────────────eviction by take, least recently used ─────┘
 *
 * Promises are counts, not blocks: promised <= free + cached always, so a promised block can always
 * be taken (perhaps by evicting). One thread owns a pool. Every call is O(1), but for counts of
 * blocks that are passed in.
 *
 * A class with a window has a sliding pool: its sequences give blocks back as they go on and take
 * others, for which the promise must come back with the block. A block that two sequences share comes
 * back to nobody when the first lets it go; so there sharing is no discount. Each sequence has a
 * budget (what it holds, hits too, and what it was promised), a release makes the block a promise
 * again, and the budgets of all add up to `total` at most: then what one was promised is always there,
 * whoever shares what. */
#ifndef SL_KV_POOL_H
#define SL_KV_POOL_H

#include "base/status.h"
#include "kv/geometry.h"

#include <stdbool.h>
#include <stdint.h>

#define KV_POOL_BLOCKS_MAX (1u << 26)

struct kv_pool;

enum kv_block_state {
    KV_BLOCK_FREE,
    KV_BLOCK_CACHED,      /* no reference, but in the prefix cache: evictable */
    KV_BLOCK_USED,        /* referenced, held ones too */
    KV_BLOCK_LANDING,     /* given to a stream, draining ones too */
    KV_BLOCK_QUARANTINED, /* a peer may still write into it */
    KV_BLOCK_STATE_COUNT
};

struct kv_pool_counts {
    uint32_t total;
    uint32_t free, cached, used, landing, quarantined; /* add up to total */
    uint32_t promised;                                 /* lies within free + cached */
};

/* SL_INVALID: outside 1..KV_POOL_BLOCKS_MAX; SL_NO_MEMORY. */
sl_status kv_pool_create(uint32_t n_blocks, bool sliding, struct kv_pool **pool_out) SL_MUST_USE;
void kv_pool_destroy(struct kv_pool *pool);
void kv_pool_count(const struct kv_pool *pool, struct kv_pool_counts *counts_out);
enum kv_block_state kv_pool_state(const struct kv_pool *pool, kv_block_id block);
uint32_t kv_pool_references(const struct kv_pool *pool, kv_block_id block);
bool kv_pool_sliding(const struct kv_pool *pool);
/* Blocks that may be taken or promised now: free + cached - promised; sliding: total - budgets. */
uint32_t kv_pool_available(const struct kv_pool *pool);

/* Whether kv_pool_admit would do it. */
bool kv_pool_fits(const struct kv_pool *pool, const kv_block_id *hits, uint32_t n_hits,
                  uint32_t n_blocks);
/* Takes references on the hit blocks and promises n_blocks more, or neither (false). */
bool kv_pool_admit(struct kv_pool *pool, const kv_block_id *hits, uint32_t n_hits,
                   uint32_t n_blocks);
/* Gives up n_blocks that were promised and not taken (sliding: released ones are promised again). */
void kv_pool_unpromise(struct kv_pool *pool, uint32_t n_blocks);
/* A block with one reference, out of a promise: never fails. */
kv_block_id kv_pool_take_promised(struct kv_pool *pool);
/* A block with one reference that nobody was promised; KV_BLOCK_NONE when there is none. Sliding: the
 * budget grows by it. */
kv_block_id kv_pool_take(struct kv_pool *pool);

/* One more reference to a block that is USED, or CACHED and available (false when taking it would
 * break a promise). Not for sliding pools. */
bool kv_pool_acquire(struct kv_pool *pool, kv_block_id block);
/* One reference less. Blocks of a chain are released last block first: then the least recently used
 * cached block has no descendant in the cache. */
void kv_pool_release(struct kv_pool *pool, kv_block_id block);

/* USED with one reference <-> LANDING. */
void kv_pool_landing_begin(struct kv_pool *pool, kv_block_id block);
void kv_pool_landing_end(struct kv_pool *pool, kv_block_id block);
/* LANDING -> QUARANTINED -> FREE: for transports whose peers write by themselves; neither of today's
 * does (TCP, shared memory). */
void kv_pool_quarantine(struct kv_pool *pool, kv_block_id block);
void kv_pool_unquarantine(struct kv_pool *pool, kv_block_id block);

/* For the prefix cache: this USED block is kept when its last reference goes; and what is called
 * before a cached block is used for something else. */
void kv_pool_keep(struct kv_pool *pool, kv_block_id block);
void kv_pool_on_evict(struct kv_pool *pool, void (*evicted)(void *arg, kv_block_id block),
                      void *arg);

#endif
