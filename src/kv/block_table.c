/* Block tables: an array in the request's arena, sized at admission for the whole request, so that
 * growing in a step takes no memory. Blocks are released from the last to the first: pool.h says why.
 * Scheduler thread. */
#include "kv/block_table.h"

void kv_block_table_init(struct kv_block_table *table, kv_block_id *storage, uint32_t n_max)
{
    *table = (struct kv_block_table){.blocks = storage, .n_max = n_max};
}

void kv_block_table_append(struct kv_block_table *table, kv_block_id block)
{
    SL_ASSERT(table->n < table->n_max);
    table->blocks[table->n++] = block;
}

void kv_block_table_truncate(struct kv_block_table *table, struct kv_pool *pool, uint32_t n_keep)
{
    while (table->n > n_keep)
        kv_pool_release(pool, table->blocks[--table->n]);
}
