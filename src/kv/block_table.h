/* Block table of one sequence in one class: which block holds its tokens [i * block_tokens,
 * (i + 1) * block_tokens). The storage is the request's arena's.
 *
 *   0        first          n          n_max
 *   | holes  | blocks       |          |
 *
 * Holes are KV_BLOCK_NONE: blocks that a window has passed, or that were never needed. */
#ifndef SL_KV_BLOCK_TABLE_H
#define SL_KV_BLOCK_TABLE_H

#include "kv/pool.h"

#include <stdint.h>

struct kv_block_table {
    kv_block_id *blocks; /* [n_max], borrowed */
    uint32_t first, n;
    uint32_t n_max;
};

void kv_block_table_init(struct kv_block_table *table, kv_block_id *storage, uint32_t n_max);
/* The table takes the reference that the caller has. */
void kv_block_table_append(struct kv_block_table *table, kv_block_id block);
/* Holes up to `first` in a table that holds nothing. */
void kv_block_table_begin(struct kv_block_table *table, uint32_t first);
/* Takes the first or the last block out; the reference is the caller's. */
kv_block_id kv_block_table_pop_first(struct kv_block_table *table);
kv_block_id kv_block_table_pop_last(struct kv_block_table *table);
/* Blocks held. */
uint32_t kv_block_table_held(const struct kv_block_table *table);

#endif
