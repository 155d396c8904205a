/* Block table of one sequence: which block holds its tokens [i * block_tokens, (i + 1) * block_tokens).
 * The storage is the request's arena's. */
#ifndef SL_KV_BLOCK_TABLE_H
#define SL_KV_BLOCK_TABLE_H

#include "kv/pool.h"

#include <stdint.h>

struct kv_block_table {
    kv_block_id *blocks; /* [n_max], borrowed */
    uint32_t n;
    uint32_t n_max;
};

void kv_block_table_init(struct kv_block_table *table, kv_block_id *storage, uint32_t n_max);
/* The table takes the reference that the caller has. */
void kv_block_table_append(struct kv_block_table *table, kv_block_id block);
/* Releases the blocks from the last down to n_keep. */
void kv_block_table_truncate(struct kv_block_table *table, struct kv_pool *pool, uint32_t n_keep);

#endif
