/* Prefix index: block hash to the set of nodes that hold the block, fed by the nodes' numbered events
 * and snapshots. A hint, not a truth: a stale entry costs time, never correctness. Pure; one thread. */
#ifndef SL_COORDINATOR_PREFIX_INDEX_H
#define SL_COORDINATOR_PREFIX_INDEX_H

#include "kv/hash.h"

#include <stdbool.h>
#include <stdint.h>

#define PREFIX_INDEX_NODES_MAX   256u
#define PREFIX_INDEX_ENTRIES_MAX (1u << 21) /* further hashes are not noted, and counted */

struct prefix_index;

struct prefix_index *prefix_index_create(void);
void prefix_index_destroy(struct prefix_index *index);

/* node < PREFIX_INDEX_NODES_MAX everywhere. */
void prefix_index_insert(struct prefix_index *index, const struct kv_hash *hash, uint32_t node);
void prefix_index_remove(struct prefix_index *index, const struct kv_hash *hash, uint32_t node);
/* Forgets all of a node; walks the whole table. */
void prefix_index_drop_node(struct prefix_index *index, uint32_t node);

/* matched_out[PREFIX_INDEX_NODES_MAX]: how far along the chain each node's last hash is (0: none). A
 * hash stands for all before it: a node announces it when it can go on from there, and where layers
 * have a window it need not hold the blocks in front of that. */
void prefix_index_match(const struct prefix_index *index, const struct kv_hash *hashes,
                        uint32_t n_hashes, uint32_t *matched_out);

uint32_t prefix_index_entries(const struct prefix_index *index);
uint64_t prefix_index_overflows(const struct prefix_index *index);

/* The order of one node's events. Zeroed: nothing seen yet.
 *
 *   events in order ─► applied        gap ─► ask for a snapshot; events are skipped until its
 *                                            first part comes, which drops the node's entries */
struct prefix_feed {
    uint64_t seq; /* last event applied */
    bool waiting; /* for a snapshot that was asked for */
    bool in_snapshot;
    uint32_t next_part;
};

/* Events first_seq, first_seq + 1, …; evicted[i] != 0: the block is gone. True: there is a gap, ask
 * the node for a snapshot (once; later calls while waiting return false). */
bool prefix_feed_events(struct prefix_feed *feed, struct prefix_index *index, uint32_t node,
                        uint64_t first_seq, const struct kv_hash *hashes, const uint8_t *evicted,
                        uint32_t n_events);
/* True: the parts do not follow each other, ask again. */
bool prefix_feed_snapshot(struct prefix_feed *feed, struct prefix_index *index, uint32_t node,
                          uint64_t seq, uint32_t part, uint32_t n_parts,
                          const struct kv_hash *hashes, uint32_t n_hashes);

#endif
