/* The prefix cache: an open-addressed table of block ids, and per block the hash it is kept under.
 *
 *   slots  [2^k >= 2 * n_blocks]  block id or none; linear probing from the hash's first bytes (they
 *                                 come out of SHA-256, so they are as good as any mixing)
 *   hashes [n_blocks]             of the block, meaning something while `stored`
 *
 * Deleting shifts the followers back, so there are no tombstones and a look-up stays short however
 * long the process lives. Load is at most one half.
 *
 * Events wait in a ring until the coordinator link drains them. A full ring loses the oldest: their
 * numbers are then missing, the coordinator sees the gap and asks for a snapshot. Blocking or growing
 * instead would let a slow link stop the step loop.
 *
 * References belong to the callers; the cache itself has none. It learns of evictions from the pool.
 * Scheduler thread. */
#include "kv/prefix_cache.h"

#include "base/mem.h"

#include <string.h>

struct kv_prefix_cache {
    struct kv_pool *pool;
    uint32_t n_blocks;
    uint32_t mask;
    uint32_t *slots;
    struct kv_hash *hashes;
    bool *stored;
    struct kv_prefix_cache *first; /* of the group; itself in the first class */
    /* The first class's: */
    struct kv_prefix_cache *group[KV_CLASSES_MAX];
    uint32_t n_group;
    struct kv_cache_event *events; /* [KV_EVENTS_MAX], event number s at s % KV_EVENTS_MAX */
    uint64_t seq;                  /* last event's number */
    uint64_t drained;              /* events up to this one are gone */
};

static uint32_t home_of(const struct kv_prefix_cache *cache, const struct kv_hash *hash)
{
    uint32_t value;
    memcpy(&value, hash->bytes, sizeof(value));
    return value & cache->mask;
}

/* Slot that holds the hash, or the empty one where it would go. */
static uint32_t slot_of(const struct kv_prefix_cache *cache, const struct kv_hash *hash)
{
    uint32_t slot = home_of(cache, hash);
    while (cache->slots[slot] != KV_BLOCK_NONE &&
           !kv_hash_equal(&cache->hashes[cache->slots[slot]], hash))
        slot = (slot + 1) & cache->mask;
    return slot;
}

/* Whether every class of the group but `cache` holds the hash. */
static bool others_hold(const struct kv_prefix_cache *cache, const struct kv_hash *hash)
{
    const struct kv_prefix_cache *first = cache->first;
    for (uint32_t i = 0; i < first->n_group; i++)
        if (first->group[i] != cache &&
            kv_prefix_cache_find(first->group[i], hash) == KV_BLOCK_NONE)
            return false;
    return true;
}

/* The class has come to hold the hash, or holds it no more: news if the others do. */
static void event_add(struct kv_prefix_cache *changed, bool evicted, const struct kv_hash *hash)
{
    if (!others_hold(changed, hash))
        return;
    struct kv_prefix_cache *cache = changed->first;
    cache->seq++;
    cache->events[cache->seq % KV_EVENTS_MAX] =
        (struct kv_cache_event){.evicted = evicted, .hash = *hash};
    if (cache->seq - cache->drained > KV_EVENTS_MAX)
        cache->drained = cache->seq - KV_EVENTS_MAX;
}

/* Empties the slot and moves followers back whose way from home leads over it. */
static void slot_delete(struct kv_prefix_cache *cache, uint32_t slot)
{
    uint32_t hole = slot;
    for (uint32_t next = (slot + 1) & cache->mask; cache->slots[next] != KV_BLOCK_NONE;
         next = (next + 1) & cache->mask) {
        uint32_t home = home_of(cache, &cache->hashes[cache->slots[next]]);
        if (((next - home) & cache->mask) >= ((next - hole) & cache->mask)) {
            cache->slots[hole] = cache->slots[next];
            hole = next;
        }
    }
    cache->slots[hole] = KV_BLOCK_NONE;
}

static void on_evict(void *arg, kv_block_id block)
{
    struct kv_prefix_cache *cache = arg;
    SL_ASSERT(block < cache->n_blocks && cache->stored[block]);
    slot_delete(cache, slot_of(cache, &cache->hashes[block]));
    cache->stored[block] = false;
    event_add(cache, true, &cache->hashes[block]);
}

sl_status kv_prefix_cache_create(struct kv_pool *pool, uint32_t n_blocks,
                                 struct kv_prefix_cache *first, struct kv_prefix_cache **cache_out)
{
    SL_ASSERT(first == NULL || (first->first == first && first->n_group < KV_CLASSES_MAX));
    uint32_t n_slots = 16;
    while (n_slots < 2 * n_blocks)
        n_slots *= 2;
    struct kv_prefix_cache *cache = sl_zalloc(1, sizeof(*cache));
    cache->pool = pool;
    cache->n_blocks = n_blocks;
    cache->mask = n_slots - 1;
    cache->slots = sl_try_zalloc(n_slots, sizeof(*cache->slots));
    cache->hashes = sl_try_zalloc(n_blocks, sizeof(*cache->hashes));
    cache->stored = sl_try_zalloc(n_blocks, sizeof(*cache->stored));
    if (first == NULL)
        cache->events = sl_try_zalloc(KV_EVENTS_MAX, sizeof(*cache->events));
    if (cache->slots == NULL || cache->hashes == NULL || cache->stored == NULL ||
        (first == NULL && cache->events == NULL)) {
        cache->pool = NULL;
        kv_prefix_cache_destroy(cache);
        return sl_fail(SL_NO_MEMORY, "kv prefix cache for %u blocks", n_blocks);
    }
    for (uint32_t i = 0; i < n_slots; i++)
        cache->slots[i] = KV_BLOCK_NONE;
    cache->first = first != NULL ? first : cache;
    cache->first->group[cache->first->n_group++] = cache;
    kv_pool_on_evict(pool, on_evict, cache);
    *cache_out = cache;
    return SL_OK;
}

void kv_prefix_cache_destroy(struct kv_prefix_cache *cache)
{
    if (cache == NULL)
        return;
    if (cache->pool != NULL)
        kv_pool_on_evict(cache->pool, NULL, NULL);
    sl_free(cache->slots);
    sl_free(cache->hashes);
    sl_free(cache->stored);
    sl_free(cache->events);
    sl_free(cache);
}

kv_block_id kv_prefix_cache_find(const struct kv_prefix_cache *cache, const struct kv_hash *hash)
{
    return cache->slots[slot_of(cache, hash)];
}

uint32_t kv_prefix_cache_match(const struct kv_prefix_cache *cache, const struct kv_hash *hashes,
                               uint32_t n_hashes, kv_block_id *blocks_out)
{
    uint32_t n = 0;
    while (n < n_hashes) {
        kv_block_id block = kv_prefix_cache_find(cache, &hashes[n]);
        if (block == KV_BLOCK_NONE)
            break;
        blocks_out[n++] = block;
    }
    return n;
}

kv_block_id kv_prefix_cache_insert(struct kv_prefix_cache *cache, const struct kv_hash *hash,
                                   kv_block_id block)
{
    SL_ASSERT(block < cache->n_blocks && !cache->stored[block]);
    uint32_t slot = slot_of(cache, hash);
    if (cache->slots[slot] != KV_BLOCK_NONE)
        return cache->slots[slot];
    cache->slots[slot] = block;
    cache->hashes[block] = *hash;
    cache->stored[block] = true;
    kv_pool_keep(cache->pool, block);
    event_add(cache, false, hash);
    return block;
}

uint64_t kv_prefix_cache_seq(const struct kv_prefix_cache *cache)
{
    return cache->seq;
}

uint32_t kv_prefix_cache_events(struct kv_prefix_cache *cache, struct kv_cache_event *events_out,
                                uint32_t max, uint64_t *first_seq_out)
{
    uint32_t n = 0;
    *first_seq_out = cache->drained + 1;
    while (n < max && cache->drained < cache->seq)
        events_out[n++] = cache->events[++cache->drained % KV_EVENTS_MAX];
    return n;
}

uint32_t kv_prefix_cache_snapshot(struct kv_prefix_cache *cache, struct kv_hash *hashes_out,
                                  uint32_t max)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < cache->n_blocks && n < max; i++)
        if (cache->stored[i] && others_hold(cache, &cache->hashes[i]))
            hashes_out[n++] = cache->hashes[i];
    cache->drained = cache->seq;
    return n;
}
