/* Block tables: an array in the request's arena, sized at admission for the whole request, so that
 * growing in a step takes no memory. Blocks leave in front as a window passes them, and at the end from
 * the last to the first: pool.h says why. Scheduler thread. */
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

void kv_block_table_begin(struct kv_block_table *table, uint32_t first)
{
    SL_ASSERT(kv_block_table_held(table) == 0 && first <= table->n_max);
    for (uint32_t i = 0; i < first; i++)
        table->blocks[i] = KV_BLOCK_NONE;
    table->first = table->n = first;
}

kv_block_id kv_block_table_pop_first(struct kv_block_table *table)
{
    SL_ASSERT(kv_block_table_held(table) > 0);
    kv_block_id block = table->blocks[table->first];
    table->blocks[table->first++] = KV_BLOCK_NONE;
    return block;
}

kv_block_id kv_block_table_pop_last(struct kv_block_table *table)
{
    SL_ASSERT(kv_block_table_held(table) > 0);
    return table->blocks[--table->n];
}

uint32_t kv_block_table_held(const struct kv_block_table *table)
{
    return table->n - table->first;
}
