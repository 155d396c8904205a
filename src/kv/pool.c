/* The block pool: one small header per block, and two lists threaded through the headers.
 *
 *   free list    single links; last in, first out, so that a warm block is used again first
 *   cached list  double links; oldest release at the head, the newest at the tail
 *
 * Invariants: counts of the states add up to the total; promised <= free + cached. What could break
 * the second (taking without a promise, referencing a cached block, admitting) asks first. In a
 * sliding pool it follows from budgets <= total: promised = budgets - references, and the blocks that
 * are neither free nor cached have a reference each, at least.
 *
 * Why the cached list needs no tree: whoever references a block of a chain references everything in
 * front of it, and releases the last block first. So a cached block's parent was released no earlier
 * than the block itself, the parent stands nearer to the tail, and the head of the list is always a
 * leaf. Heaps and explicit child counts would say the same for more work. (In a sliding pool a chain
 * has no such order: what its window has passed is released first and goes first.)
 *
 * An id that is out of range or in the wrong state is our own bug: assertions. Scheduler thread. */
#include "kv/pool.h"

#include "base/mem.h"

#define NO_BLOCK KV_BLOCK_NONE

struct block {
    uint32_t references;
    uint32_t next, previous; /* in the list of its state, if it has one */
    uint8_t state;           /* enum kv_block_state */
    bool kept;               /* in the prefix cache */
};

struct kv_pool {
    struct block *blocks;
    uint32_t n_blocks;
    uint32_t counts[KV_BLOCK_STATE_COUNT];
    bool sliding;
    uint32_t promised;
    uint32_t budgets; /* sliding: promised, and one for each reference */
    uint32_t free_head;
    uint32_t cached_head, cached_tail;
    void (*evicted)(void *arg, kv_block_id block);
    void *evicted_arg;
};

sl_status kv_pool_create(uint32_t n_blocks, bool sliding, struct kv_pool **pool_out)
{
    if (n_blocks == 0 || n_blocks > KV_POOL_BLOCKS_MAX)
        return sl_fail(SL_INVALID, "kv pool of %u blocks; want 1..%u", n_blocks,
                       KV_POOL_BLOCKS_MAX);
    struct kv_pool *pool = sl_zalloc(1, sizeof(*pool));
    pool->blocks = sl_try_zalloc(n_blocks, sizeof(*pool->blocks));
    if (pool->blocks == NULL) {
        kv_pool_destroy(pool);
        return sl_fail(SL_NO_MEMORY, "kv pool: %u block headers", n_blocks);
    }
    pool->n_blocks = n_blocks;
    pool->sliding = sliding;
    pool->counts[KV_BLOCK_FREE] = n_blocks;
    pool->cached_head = pool->cached_tail = NO_BLOCK;
    for (uint32_t i = 0; i < n_blocks; i++)
        pool->blocks[i].next = i + 1 < n_blocks ? i + 1 : NO_BLOCK;
    *pool_out = pool;
    return SL_OK;
}

void kv_pool_destroy(struct kv_pool *pool)
{
    if (pool == NULL)
        return;
    sl_free(pool->blocks);
    sl_free(pool);
}

static struct block *block_at(const struct kv_pool *pool, kv_block_id id)
{
    SL_ASSERT(id < pool->n_blocks);
    return &pool->blocks[id];
}

static void move(struct kv_pool *pool, struct block *block, enum kv_block_state state)
{
    pool->counts[block->state]--;
    pool->counts[state]++;
    block->state = (uint8_t)state;
}

static void free_push(struct kv_pool *pool, kv_block_id id)
{
    struct block *block = block_at(pool, id);
    SL_ASSERT(block->references == 0 && !block->kept);
    move(pool, block, KV_BLOCK_FREE);
    block->next = pool->free_head;
    pool->free_head = id;
}

static void cached_push(struct kv_pool *pool, kv_block_id id)
{
    struct block *block = block_at(pool, id);
    move(pool, block, KV_BLOCK_CACHED);
    block->next = NO_BLOCK;
    block->previous = pool->cached_tail;
    if (pool->cached_tail != NO_BLOCK)
        pool->blocks[pool->cached_tail].next = id;
    else
        pool->cached_head = id;
    pool->cached_tail = id;
}

/* Takes it out of the cached list; the caller moves its state. */
static void cached_remove(struct kv_pool *pool, kv_block_id id)
{
    struct block *block = block_at(pool, id);
    if (block->previous != NO_BLOCK)
        pool->blocks[block->previous].next = block->next;
    else
        pool->cached_head = block->next;
    if (block->next != NO_BLOCK)
        pool->blocks[block->next].previous = block->previous;
    else
        pool->cached_tail = block->previous;
}

void kv_pool_count(const struct kv_pool *pool, struct kv_pool_counts *counts_out)
{
    *counts_out = (struct kv_pool_counts){
        .total = pool->n_blocks,
        .free = pool->counts[KV_BLOCK_FREE],
        .cached = pool->counts[KV_BLOCK_CACHED],
        .used = pool->counts[KV_BLOCK_USED],
        .landing = pool->counts[KV_BLOCK_LANDING],
        .quarantined = pool->counts[KV_BLOCK_QUARANTINED],
        .promised = pool->promised,
    };
}

enum kv_block_state kv_pool_state(const struct kv_pool *pool, kv_block_id block)
{
    return (enum kv_block_state)block_at(pool, block)->state;
}

uint32_t kv_pool_references(const struct kv_pool *pool, kv_block_id block)
{
    return block_at(pool, block)->references;
}

bool kv_pool_sliding(const struct kv_pool *pool)
{
    return pool->sliding;
}

uint32_t kv_pool_available(const struct kv_pool *pool)
{
    if (pool->sliding)
        return pool->n_blocks - pool->budgets;
    return pool->counts[KV_BLOCK_FREE] + pool->counts[KV_BLOCK_CACHED] - pool->promised;
}

/* One reference more; what that does to the promises has been asked. */
static void reference(struct kv_pool *pool, kv_block_id id)
{
    struct block *block = block_at(pool, id);
    SL_ASSERT(block->state == KV_BLOCK_USED || block->state == KV_BLOCK_CACHED);
    if (block->state == KV_BLOCK_CACHED) {
        cached_remove(pool, id);
        move(pool, block, KV_BLOCK_USED);
    }
    block->references++;
    SL_ASSERT(block->references != 0);
}

bool kv_pool_fits(const struct kv_pool *pool, const kv_block_id *hits, uint32_t n_hits,
                  uint32_t n_blocks)
{
    uint32_t n_paid = 0; /* hits that are taken out of what is available */
    for (uint32_t i = 0; i < n_hits; i++)
        n_paid += pool->sliding || block_at(pool, hits[i])->state == KV_BLOCK_CACHED;
    return (uint64_t)n_paid + n_blocks <= kv_pool_available(pool);
}

bool kv_pool_admit(struct kv_pool *pool, const kv_block_id *hits, uint32_t n_hits,
                   uint32_t n_blocks)
{
    if (!kv_pool_fits(pool, hits, n_hits, n_blocks))
        return false;
    for (uint32_t i = 0; i < n_hits; i++)
        reference(pool, hits[i]);
    pool->promised += n_blocks;
    if (pool->sliding)
        pool->budgets += n_hits + n_blocks;
    return true;
}

void kv_pool_unpromise(struct kv_pool *pool, uint32_t n_blocks)
{
    SL_ASSERT(n_blocks <= pool->promised);
    pool->promised -= n_blocks;
    if (pool->sliding)
        pool->budgets -= n_blocks;
}

/* The least recently used one becomes free. */
static void evict_one(struct kv_pool *pool)
{
    kv_block_id id = pool->cached_head;
    SL_ASSERT(id != NO_BLOCK);
    cached_remove(pool, id);
    if (pool->evicted != NULL)
        pool->evicted(pool->evicted_arg, id);
    pool->blocks[id].kept = false;
    free_push(pool, id);
}

/* There is one: the caller has asked. */
static kv_block_id take_one(struct kv_pool *pool)
{
    if (pool->free_head == NO_BLOCK)
        evict_one(pool);
    kv_block_id id = pool->free_head;
    struct block *block = block_at(pool, id);
    pool->free_head = block->next;
    move(pool, block, KV_BLOCK_USED);
    block->references = 1;
    return id;
}

kv_block_id kv_pool_take_promised(struct kv_pool *pool)
{
    SL_ASSERT(pool->promised > 0);
    pool->promised--;
    return take_one(pool);
}

kv_block_id kv_pool_take(struct kv_pool *pool)
{
    if (kv_pool_available(pool) == 0)
        return KV_BLOCK_NONE;
    pool->budgets += pool->sliding;
    return take_one(pool);
}

bool kv_pool_acquire(struct kv_pool *pool, kv_block_id block)
{
    SL_ASSERT(!pool->sliding);
    if (block_at(pool, block)->state == KV_BLOCK_CACHED && kv_pool_available(pool) == 0)
        return false;
    reference(pool, block);
    return true;
}

void kv_pool_release(struct kv_pool *pool, kv_block_id block)
{
    struct block *header = block_at(pool, block);
    SL_ASSERT(header->state == KV_BLOCK_USED && header->references > 0);
    pool->promised += pool->sliding;
    if (--header->references > 0)
        return;
    if (header->kept)
        cached_push(pool, block);
    else
        free_push(pool, block);
}

void kv_pool_landing_begin(struct kv_pool *pool, kv_block_id block)
{
    struct block *header = block_at(pool, block);
    SL_ASSERT(header->state == KV_BLOCK_USED && header->references == 1 && !header->kept);
    move(pool, header, KV_BLOCK_LANDING);
}

void kv_pool_landing_end(struct kv_pool *pool, kv_block_id block)
{
    struct block *header = block_at(pool, block);
    SL_ASSERT(header->state == KV_BLOCK_LANDING);
    move(pool, header, KV_BLOCK_USED);
}

void kv_pool_quarantine(struct kv_pool *pool, kv_block_id block)
{
    struct block *header = block_at(pool, block);
    SL_ASSERT(header->state == KV_BLOCK_LANDING);
    move(pool, header, KV_BLOCK_QUARANTINED);
}

void kv_pool_unquarantine(struct kv_pool *pool, kv_block_id block)
{
    struct block *header = block_at(pool, block);
    SL_ASSERT(header->state == KV_BLOCK_QUARANTINED);
    header->references = 0;
    pool->budgets -= pool->sliding; /* whose it was has given up the rest */
    free_push(pool, block);
}

void kv_pool_keep(struct kv_pool *pool, kv_block_id block)
{
    struct block *header = block_at(pool, block);
    SL_ASSERT(header->state == KV_BLOCK_USED);
    header->kept = true;
}

void kv_pool_on_evict(struct kv_pool *pool, void (*evicted)(void *arg, kv_block_id block),
                      void *arg)
{
    pool->evicted = evicted;
    pool->evicted_arg = arg;
}
