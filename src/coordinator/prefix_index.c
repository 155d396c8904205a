/* Prefix index.
 *
 *   table: open addressing, linear probing, doubled at 2/3 load
 *   entry: hash (16 B), set of nodes (256 bits); an empty set is a free place
 *
 * The hashes are SHA-256 cut short, so their first bytes serve as the place. Removal shifts the run that
 * follows back, which leaves no tombstones: a table that sees evictions all day stays as fast as a
 * fresh one. A node's death walks the table (a few ms for a million entries), which is rare; a list
 * per node would cost every insert. Called by the coordinator's loop only. */
#include "coordinator/prefix_index.h"

#include "base/mem.h"

#include <string.h>

#define WORDS       (PREFIX_INDEX_NODES_MAX / 64)
#define TABLE_FIRST 1024u

struct entry {
    struct kv_hash hash;
    uint64_t nodes[WORDS];
};

struct prefix_index {
    struct entry *table; /* [mask + 1] */
    uint32_t mask;
    uint64_t nodes[WORDS]; /* that were noted with some hash since they were last dropped */
    uint32_t n_entries;
    uint64_t overflows;
};

struct prefix_index *prefix_index_create(void)
{
    struct prefix_index *index = sl_zalloc(1, sizeof(*index));
    index->table = sl_zalloc(TABLE_FIRST, sizeof(*index->table));
    index->mask = TABLE_FIRST - 1;
    return index;
}

void prefix_index_destroy(struct prefix_index *index)
{
    if (index == NULL)
        return;
    sl_free(index->table);
    sl_free(index);
}

static bool entry_free(const struct entry *entry)
{
    uint64_t any = 0;
    for (uint32_t w = 0; w < WORDS; w++)
        any |= entry->nodes[w];
    return any == 0;
}

static uint32_t home(const struct prefix_index *index, const struct kv_hash *hash)
{
    uint64_t word;
    memcpy(&word, hash->bytes, sizeof(word));
    return (uint32_t)word & index->mask;
}

/* The entry of the hash, or the free place where it would go. */
static struct entry *find(const struct prefix_index *index, const struct kv_hash *hash)
{
    for (uint32_t i = home(index, hash);; i = (i + 1) & index->mask) {
        struct entry *entry = &index->table[i];
        if (entry_free(entry) || kv_hash_equal(&entry->hash, hash))
            return entry;
    }
}

static bool grow(struct prefix_index *index)
{
    uint32_t size = index->mask + 1;
    struct entry *bigger = sl_try_zalloc((size_t)size * 2, sizeof(*bigger));
    if (bigger == NULL)
        return false;
    struct entry *old = index->table;
    index->table = bigger;
    index->mask = size * 2 - 1;
    for (uint32_t i = 0; i < size; i++)
        if (!entry_free(&old[i]))
            *find(index, &old[i].hash) = old[i];
    sl_free(old);
    return true;
}

void prefix_index_insert(struct prefix_index *index, const struct kv_hash *hash, uint32_t node)
{
    struct entry *entry = find(index, hash);
    if (entry_free(entry)) {
        if (index->n_entries >= PREFIX_INDEX_ENTRIES_MAX ||
            ((index->n_entries + 1) * 3ull > (index->mask + 1) * 2ull && !grow(index))) {
            index->overflows++;
            return;
        }
        entry = find(index, hash);
        entry->hash = *hash;
        index->n_entries++;
    }
    entry->nodes[node / 64] |= 1ull << (node % 64);
    index->nodes[node / 64] |= 1ull << (node % 64);
}

/* Frees the place and moves back what would no longer be found across it. */
static void vacate(struct prefix_index *index, struct entry *entry)
{
    uint32_t hole = (uint32_t)(entry - index->table);
    memset(entry, 0, sizeof(*entry));
    index->n_entries--;
    for (uint32_t i = (hole + 1) & index->mask; !entry_free(&index->table[i]);
         i = (i + 1) & index->mask) {
        uint32_t wanted = home(index, &index->table[i].hash);
        /* Stays if its home lies behind the hole, seen from here. */
        if (((i - wanted) & index->mask) < ((i - hole) & index->mask))
            continue;
        index->table[hole] = index->table[i];
        memset(&index->table[i], 0, sizeof(index->table[i]));
        hole = i;
    }
}

void prefix_index_remove(struct prefix_index *index, const struct kv_hash *hash, uint32_t node)
{
    struct entry *entry = find(index, hash);
    if (entry_free(entry))
        return;
    entry->nodes[node / 64] &= ~(1ull << (node % 64));
    if (entry_free(entry))
        vacate(index, entry);
}

void prefix_index_drop_node(struct prefix_index *index, uint32_t node)
{
    uint64_t bit = 1ull << (node % 64);
    index->nodes[node / 64] &= ~bit;
    for (uint32_t i = 0; i <= index->mask;) {
        struct entry *entry = &index->table[i];
        bool had = (entry->nodes[node / 64] & bit) != 0;
        entry->nodes[node / 64] &= ~bit;
        if (had && entry_free(entry))
            vacate(index, entry); /* another may have moved here: look again */
        else
            i++;
    }
}

void prefix_index_match(const struct prefix_index *index, const struct kv_hash *hashes,
                        uint32_t n_hashes, uint32_t *matched_out)
{
    uint64_t sought[WORDS], any = 1;
    memcpy(sought, index->nodes, sizeof(sought));
    memset(matched_out, 0, PREFIX_INDEX_NODES_MAX * sizeof(*matched_out));
    for (uint32_t i = n_hashes; i > 0 && any != 0; i--) {
        const struct entry *entry = find(index, &hashes[i - 1]);
        any = 0;
        for (uint32_t w = 0; w < WORDS; w++) {
            for (uint64_t bits = sought[w] & entry->nodes[w]; bits != 0; bits &= bits - 1)
                matched_out[w * 64 + (uint32_t)__builtin_ctzll(bits)] = i;
            sought[w] &= ~entry->nodes[w];
            any |= sought[w];
        }
    }
}

uint32_t prefix_index_entries(const struct prefix_index *index)
{
    return index->n_entries;
}

uint64_t prefix_index_overflows(const struct prefix_index *index)
{
    return index->overflows;
}

static bool ask(struct prefix_feed *feed)
{
    bool first = !feed->waiting;
    feed->waiting = true;
    feed->in_snapshot = false;
    return first;
}

bool prefix_feed_events(struct prefix_feed *feed, struct prefix_index *index, uint32_t node,
                        uint64_t first_seq, const struct kv_hash *hashes, const uint8_t *evicted,
                        uint32_t n_events)
{
    if (feed->waiting)
        return false;
    if (first_seq > feed->seq + 1)
        return ask(feed);
    for (uint32_t i = 0; i < n_events; i++) {
        if (first_seq + i <= feed->seq)
            continue;
        if (evicted[i])
            prefix_index_remove(index, &hashes[i], node);
        else
            prefix_index_insert(index, &hashes[i], node);
        feed->seq = first_seq + i;
    }
    return false;
}

bool prefix_feed_snapshot(struct prefix_feed *feed, struct prefix_index *index, uint32_t node,
                          uint64_t seq, uint32_t part, uint32_t n_parts,
                          const struct kv_hash *hashes, uint32_t n_hashes)
{
    if (part == 0) {
        prefix_index_drop_node(index, node);
        feed->waiting = true;
        feed->in_snapshot = true;
        feed->next_part = 0;
    }
    if (!feed->in_snapshot || part != feed->next_part) {
        feed->waiting = false;
        return ask(feed);
    }
    for (uint32_t i = 0; i < n_hashes; i++)
        prefix_index_insert(index, &hashes[i], node);
    feed->next_part++;
    if (part + 1 == n_parts) {
        feed->seq = seq;
        feed->waiting = false;
        feed->in_snapshot = false;
    }
    return false;
}
