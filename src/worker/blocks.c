/* The blocks of a request, in every KV class.
 *
 *   class without a window   | hits | own …            | promised   |     grows to n_max
 *   class with a window            | hits | own … |  promised             slides: first moves up with n
 *
 * Blocks. classes[c].table.blocks[i] holds the tokens of block i; each entry is a reference. Full
 * computed blocks go into the prefix cache in order. Where a class has no window, only while the
 * request references the cache's entry of the block before: pool.h's eviction order depends on it. When
 * another request was faster and the cache has a block of the same content already, ours stays ours and
 * the cache's is referenced beside it (shadows[i]), so that the blocks after it can still be cached
 * under their hashes. Swapping ours for the cache's would save the memory, but batches and streams in
 * flight name our block. A class with a window has no such order, and needs no shadows.
 *
 * The window. Once a run has retired, blocks that no later token reads go, in front; each becomes a
 * promise of its pool again (pool.h: sliding), so what a request was promised carries it to the end of
 * its prompt, chunk by chunk. A stream of the request sends only blocks that the token after the prompt
 * reads: those never go before the request does.
 *
 * A request is admitted to all classes or to none. Scheduler thread. */
#include "base/min.h"
#include "worker/parts.h"

bool blocks_land(const struct worker_request *request)
{
    return request->mode == SLUICE__MODE__MODE_DECODE && !request->restarted;
}

uint32_t blocks_most(const struct worker *worker, uint32_t c, uint32_t n_tokens)
{
    return kv_window_blocks(&worker->info->geometry, c, n_tokens, worker->args.chunk_tokens);
}

/* What the request finds: of class c the blocks [first[c], lacking[c]) lie in worker->hits[c]. */
struct found {
    uint32_t first[KV_CLASSES_MAX], lacking[KV_CLASSES_MAX];
};

/* A destination lacks in each class what the class lacks: it computes nothing. */
static void find_landing(struct worker *worker, const struct worker_request *request,
                         struct found *found)
{
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        uint32_t first = kv_window_first(&worker->info->geometry, c, request->n_submitted);
        uint32_t n_full = request->n_hashes > first ? request->n_hashes - first : 0;
        found->first[c] = first;
        found->lacking[c] =
            first + kv_prefix_cache_match(worker->caches[c], request->hashes + first, n_full,
                                          worker->hits[c] + first);
    }
}

/* Whoever computes goes on from a boundary that all classes hold; at least one token is left. */
static void find_boundary(struct worker *worker, const struct worker_request *request,
                          struct found *found)
{
    uint32_t n_full = sl_min_u32(request->n_hashes, (request->n_tokens - 1) / worker->block_tokens);
    if (request_scores(request))
        n_full = 0; /* every token of the prompt is computed: its scores are wanted */
    uint32_t boundary = kv_hit_boundary(&worker->info->geometry, worker->caches, request->hashes,
                                        n_full, worker->hits);
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        found->first[c] =
            kv_window_first(&worker->info->geometry, c, boundary * worker->block_tokens);
        found->lacking[c] = boundary;
    }
}

/* Blocks of class c to be promised besides the hits: for all known tokens and some growth, or as many
 * as its window needs at once. */
static uint32_t to_promise(const struct worker *worker, const struct worker_request *request,
                           uint32_t c, const struct found *found)
{
    const struct kv_geometry *geometry = &worker->info->geometry;
    uint32_t n_blocks = kv_blocks_of(geometry, request->n_tokens);
    uint32_t growth =
        sl_min_u32(request->classes[c].table.n_max - n_blocks, worker->args.limits.growth_blocks);
    uint32_t chunk = blocks_land(request) ? 1 : worker->args.chunk_tokens;
    uint32_t most = kv_window_blocks(geometry, c, UINT32_MAX, chunk);
    return sl_min_u32(n_blocks + growth - found->first[c], most) -
           (found->lacking[c] - found->first[c]);
}

bool blocks_promise(struct worker *worker, struct worker_request *request)
{
    struct found found;
    if (blocks_land(request))
        find_landing(worker, request, &found);
    else
        find_boundary(worker, request, &found);
    for (uint32_t c = 0; c < worker->n_classes; c++)
        if (!kv_pool_fits(worker->pools[c], worker->hits[c] + found.first[c],
                          found.lacking[c] - found.first[c],
                          to_promise(worker, request, c, &found)))
            return false;
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        struct request_class *class = &request->classes[c];
        uint32_t first = found.first[c], n_hits = found.lacking[c] - first;
        class->promised = to_promise(worker, request, c, &found);
        SL_ASSERT(
            kv_pool_admit(worker->pools[c], worker->hits[c] + first, n_hits, class->promised));
        kv_block_table_begin(&class->table, first);
        for (uint32_t i = 0; i < n_hits; i++)
            kv_block_table_append(&class->table, worker->hits[c][first + i]);
        class->n_inserted = found.lacking[c];
    }
    /* Of a window class that begins late, what lies in front is not "found". */
    request->n_computed = kv_block_table_held(&request->classes[0].table) > 0
                              ? found.lacking[0] * worker->block_tokens
                              : 0;
    return true;
}

kv_block_id blocks_take_promised(struct worker *worker, struct worker_request *request, uint32_t c)
{
    SL_ASSERT(request->classes[c].promised > 0);
    request->classes[c].promised--;
    return kv_pool_take_promised(worker->pools[c]);
}

void blocks_take_all(struct worker *worker, struct worker_request *request)
{
    for (uint32_t c = 0; c < worker->n_classes; c++)
        while (!kv_pool_sliding(worker->pools[c]) && request->classes[c].promised > 0)
            kv_block_table_append(&request->classes[c].table,
                                  blocks_take_promised(worker, request, c));
}

bool blocks_cover(struct worker *worker, struct worker_request *request, uint32_t n_tokens)
{
    uint32_t n_blocks = kv_blocks_of(&worker->info->geometry, n_tokens);
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        struct request_class *class = &request->classes[c];
        while (class->table.n < n_blocks) {
            kv_block_id block = class->promised > 0 ? blocks_take_promised(worker, request, c)
                                                    : kv_pool_take(worker->pools[c]);
            if (block == KV_BLOCK_NONE)
                return false;
            kv_block_table_append(&class->table, block);
        }
    }
    return true;
}

/* The cache has the content of block i already, in another block. False: the pool is too full to
 * share. */
static bool shadow(struct worker *worker, struct worker_request *request, uint32_t c, uint32_t i,
                   kv_block_id kept)
{
    if (kv_pool_sliding(worker->pools[c]))
        return true;
    if (!kv_pool_acquire(worker->pools[c], kept))
        return false;
    request->classes[c].shadows[i] = kept;
    return true;
}

void blocks_insert(struct worker *worker, struct worker_request *request)
{
    uint32_t n_full = request->n_computed / worker->block_tokens;
    request_hash(worker, request);
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        struct request_class *class = &request->classes[c];
        for (; class->n_inserted < n_full && !class->insert_off; class->n_inserted++) {
            uint32_t i = class->n_inserted;
            kv_block_id own = class->table.blocks[i];
            kv_block_id kept = kv_prefix_cache_insert(worker->caches[c], &request->hashes[i], own);
            if (kept == own || shadow(worker, request, c, i, kept))
                continue;
            class->insert_off = true;
            break;
        }
    }
}

void blocks_give_back(struct worker *worker, struct worker_request *request, uint32_t c,
                      kv_block_id block)
{
    kv_pool_release(worker->pools[c], block);
    if (kv_pool_sliding(worker->pools[c]))
        request->classes[c].promised++;
}

void blocks_slide(struct worker *worker, struct worker_request *request)
{
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        struct kv_block_table *table = &request->classes[c].table;
        uint32_t first = kv_window_first(&worker->info->geometry, c, request->n_computed);
        while (table->first < sl_min_u32(first, table->n))
            blocks_give_back(worker, request, c, kv_block_table_pop_first(table));
    }
}

void blocks_release(struct worker *worker, struct worker_request *request)
{
    for (uint32_t c = 0; c < worker->n_classes; c++) {
        struct request_class *class = &request->classes[c];
        while (kv_block_table_held(&class->table) > 0) {
            blocks_give_back(worker, request, c, kv_block_table_pop_last(&class->table));
            kv_block_id *shadow_of = &class->shadows[class->table.n];
            if (*shadow_of != KV_BLOCK_NONE)
                kv_pool_release(worker->pools[c], *shadow_of);
            *shadow_of = KV_BLOCK_NONE;
        }
        kv_pool_unpromise(worker->pools[c], class->promised);
        class->promised = 0;
        class->n_inserted = 0;
        class->insert_off = false;
    }
    request->n_computed = 0;
}
