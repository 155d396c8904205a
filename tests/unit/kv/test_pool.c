/* Pool, prefix cache and block tables against a naive model, over random lives of sequences.
 *
 * The model keeps every sequence's blocks in plain arrays and the cache as a list; what the pool
 * should say is counted anew after each operation. Chains come from a small alphabet, so sequences
 * share prefixes, meet duplicates and compete for a pool that is too small for them. */
#include "base/fault.h"
#include "kv/block_table.h"
#include "kv/pool.h"
#include "kv/prefix_cache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#define BLOCKS     40
#define SEQS       12
#define LENGTH_MAX 9
#define STEPS      20000

struct seq {
    bool live;
    uint8_t letters[LENGTH_MAX]; /* block i's content: one letter */
    uint32_t length;             /* blocks it will have */
    struct kv_block_table table;
    kv_block_id storage[LENGTH_MAX];
    kv_block_id shadows[LENGTH_MAX]; /* the cache's own block where this sequence has a duplicate */
    uint32_t n_shadows;
    uint32_t
        n_inserted;    /* leading blocks whose hash is in the cache, referenced by this sequence */
    uint32_t promised; /* not yet taken */
};

/* What the model believes of the cache. */
struct entry {
    struct kv_hash hash, parent;
    bool has_parent;
    kv_block_id block;
    uint64_t released; /* when its last reference went; 0: referenced */
};

struct world {
    struct kv_pool *pool;
    struct kv_prefix_cache *cache;
    struct seq seqs[SEQS];
    struct entry entries[BLOCKS];
    uint32_t n_entries;
    bool landing[BLOCKS], quarantined[BLOCKS];
    uint64_t time;
    uint64_t random;
    uint64_t next_seq; /* of events */
    uint32_t n_evicted, n_duplicates, n_refused, n_hits, n_unheld;
};

static uint32_t draw(struct world *w, uint32_t n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (uint32_t)(w->random >> 33) % n;
}

static uint32_t chain_of(const struct seq *seq, struct kv_hash *hashes)
{
    static const uint8_t identity[16] = {7};
    struct kv_hash root = kv_hash_root(identity, NULL, 0);
    for (uint32_t i = 0; i < seq->length; i++) {
        uint32_t token = seq->letters[i];
        hashes[i] = kv_hash_block(i == 0 ? &root : &hashes[i - 1], &token, 1);
    }
    return seq->length;
}

static uint32_t references_of(const struct world *w, kv_block_id block)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < SEQS; s++) {
        const struct seq *seq = &w->seqs[s];
        for (uint32_t i = 0; seq->live && i < seq->table.n; i++)
            n += seq->table.blocks[i] == block;
        for (uint32_t i = 0; seq->live && i < seq->n_shadows; i++)
            n += seq->shadows[i] == block;
    }
    return n;
}

static struct entry *entry_of_hash(struct world *w, const struct kv_hash *hash)
{
    for (uint32_t i = 0; i < w->n_entries; i++)
        if (kv_hash_equal(&w->entries[i].hash, hash))
            return &w->entries[i];
    return NULL;
}

static struct entry *entry_of_block(struct world *w, kv_block_id block)
{
    for (uint32_t i = 0; i < w->n_entries; i++)
        if (w->entries[i].block == block)
            return &w->entries[i];
    return NULL;
}

/* The evicted entry must be unreferenced, a leaf, and the one that was released longest ago. */
static void model_evict(struct world *w, const struct kv_hash *hash)
{
    struct entry *gone = entry_of_hash(w, hash);
    assert_non_null(gone);
    assert_true(gone->released > 0);
    for (uint32_t i = 0; i < w->n_entries; i++) {
        struct entry *other = &w->entries[i];
        assert_false(other->has_parent && kv_hash_equal(&other->parent, hash));
        assert_true(other == gone || other->released == 0 || other->released > gone->released);
    }
    *gone = w->entries[--w->n_entries];
    w->n_evicted++;
}

/* Stored events are known from insert's answer; evicted ones are learnt here. */
static void drain(struct world *w)
{
    struct kv_cache_event events[16];
    uint64_t first;
    uint32_t n;
    while ((n = kv_prefix_cache_events(w->cache, events, 16, &first)) > 0) {
        assert_int_equal(first, w->next_seq);
        w->next_seq += n;
        for (uint32_t i = 0; i < n; i++)
            if (events[i].evicted)
                model_evict(w, &events[i].hash);
            else
                assert_non_null(entry_of_hash(w, &events[i].hash));
    }
}

/* Counts everything anew. */
static void check(struct world *w)
{
    drain(w);
    struct kv_pool_counts is, want = {.total = BLOCKS};
    kv_pool_count(w->pool, &is);
    for (kv_block_id block = 0; block < BLOCKS; block++) {
        uint32_t references = references_of(w, block);
        if (w->quarantined[block])
            want.quarantined++;
        else if (w->landing[block])
            want.landing++;
        else if (references > 0)
            want.used++;
        else if (entry_of_block(w, block) != NULL)
            want.cached++;
        else
            want.free++;
        if (!w->quarantined[block])
            assert_int_equal(kv_pool_references(w->pool, block), references);
    }
    for (uint32_t s = 0; s < SEQS; s++)
        want.promised += w->seqs[s].live ? w->seqs[s].promised : 0;
    assert_memory_equal(&is, &want, sizeof(is));
    assert_true(is.promised <= is.free + is.cached);
    struct kv_hash hashes[BLOCKS];
    assert_int_equal(kv_prefix_cache_snapshot(w->cache, hashes, BLOCKS), w->n_entries);
    for (uint32_t i = 0; i < w->n_entries; i++)
        assert_non_null(entry_of_hash(w, &hashes[i]));
    assert_int_equal(kv_pool_available(w->pool), want.free + want.cached - want.promised);
}

static void note_references(struct world *w)
{
    for (uint32_t i = 0; i < w->n_entries; i++)
        if (references_of(w, w->entries[i].block) > 0)
            w->entries[i].released = 0;
}

static void start(struct world *w, struct seq *seq)
{
    *seq = (struct seq){.length = 1 + draw(w, LENGTH_MAX)};
    kv_block_table_init(&seq->table, seq->storage, LENGTH_MAX);
    for (uint32_t i = 0; i < seq->length; i++)
        seq->letters[i] = (uint8_t)draw(w, 2);
    struct kv_hash hashes[LENGTH_MAX];
    kv_block_id hits[LENGTH_MAX];
    uint32_t n = chain_of(seq, hashes);
    uint32_t n_hits = kv_prefix_cache_match(w->cache, hashes, n - draw(w, 2), hits);

    uint32_t expected = 0;
    while (expected < n && entry_of_hash(w, &hashes[expected]) != NULL)
        expected++;
    assert_true(n_hits == expected || n_hits == n - 1);
    uint32_t n_idle = 0;
    for (uint32_t i = 0; i < n_hits; i++) {
        assert_int_equal(hits[i], entry_of_hash(w, &hashes[i])->block);
        n_idle += references_of(w, hits[i]) == 0;
    }
    bool fits = n_idle + n - n_hits <= kv_pool_available(w->pool);
    assert_int_equal(kv_pool_admit(w->pool, hits, n_hits, n - n_hits), fits);
    if (!fits) {
        w->n_refused++;
        return;
    }
    seq->live = true;
    seq->promised = n - n_hits;
    seq->n_inserted = n_hits;
    w->n_hits += n_hits;
    for (uint32_t i = 0; i < n_hits; i++)
        kv_block_table_append(&seq->table, hits[i]);
    note_references(w);
}

static void grow(struct world *w, struct seq *seq)
{
    kv_block_id block;
    if (seq->promised > 0) {
        block = kv_pool_take_promised(w->pool);
        seq->promised--;
    } else if (seq->table.n < LENGTH_MAX) {
        bool some = kv_pool_available(w->pool) > 0;
        block = kv_pool_take(w->pool);
        assert_int_equal(block != KV_BLOCK_NONE, some);
        if (!some)
            return;
        seq->letters[seq->length++] = (uint8_t)draw(w, 2);
    } else {
        return;
    }
    drain(w); /* an eviction may have made room */
    assert_null(entry_of_block(w, block));
    kv_block_table_append(&seq->table, block);
    assert_int_equal(references_of(w, block), 1);
}

static void insert(struct world *w, struct seq *seq)
{
    uint32_t i = seq->n_inserted;
    if (i >= seq->table.n || w->landing[seq->table.blocks[i]])
        return;
    struct kv_hash hashes[LENGTH_MAX];
    (void)chain_of(seq, hashes);
    struct entry *known = entry_of_hash(w, &hashes[i]);
    kv_block_id kept = kv_prefix_cache_insert(w->cache, &hashes[i], seq->table.blocks[i]);
    assert_int_equal(kept, known != NULL ? known->block : seq->table.blocks[i]);
    if (known != NULL) {
        w->n_duplicates++;
        bool room = references_of(w, kept) > 0 || kv_pool_available(w->pool) > 0;
        bool acquired = kv_pool_acquire(w->pool, kept);
        assert_int_equal(acquired, room);
        if (!acquired) {
            w->n_unheld++;
            return;
        }
        seq->shadows[seq->n_shadows++] = kept;
    } else {
        struct entry entry = {.hash = hashes[i], .block = kept, .has_parent = i > 0};
        if (i > 0)
            entry.parent = hashes[i - 1];
        w->entries[w->n_entries++] = entry;
    }
    seq->n_inserted++;
    note_references(w);
}

/* The block at a place of the chain and the shadow there go together, last place first. */
static void release_one(struct world *w, struct seq *seq, kv_block_id block)
{
    (void)seq;
    kv_pool_release(w->pool, block);
    struct entry *entry = entry_of_block(w, block);
    if (entry != NULL && references_of(w, block) == 0)
        entry->released = ++w->time;
}

static void finish(struct world *w, struct seq *seq)
{
    /* Bytes of landing blocks have come, or never will. */
    for (uint32_t i = 0; i < seq->table.n; i++)
        if (w->landing[seq->table.blocks[i]]) {
            w->landing[seq->table.blocks[i]] = false;
            kv_pool_landing_end(w->pool, seq->table.blocks[i]);
        }
    kv_pool_unpromise(w->pool, seq->promised);
    seq->promised = 0;
    uint32_t shadows = seq->n_shadows;
    struct kv_hash hashes[LENGTH_MAX];
    (void)chain_of(seq, hashes);
    while (seq->table.n > 0) {
        uint32_t at = --seq->table.n;
        release_one(w, seq, seq->table.blocks[at]);
        if (shadows == 0)
            continue;
        struct entry *entry = entry_of_block(w, seq->shadows[shadows - 1]);
        if (kv_hash_equal(&entry->hash, &hashes[at])) {
            seq->n_shadows = --shadows;
            release_one(w, seq, seq->shadows[shadows]);
        }
    }
    assert_int_equal(seq->n_shadows, 0);
    seq->live = false;
}

static void land(struct world *w, struct seq *seq)
{
    uint32_t at = seq->n_inserted;
    if (at >= seq->table.n)
        return;
    kv_block_id block = seq->table.blocks[seq->table.n - 1];
    if (w->landing[block])
        kv_pool_landing_end(w->pool, block);
    else
        kv_pool_landing_begin(w->pool, block);
    w->landing[block] = !w->landing[block];
}

/* The last block of a stream that is cut off stays where the peer may write. */
static void quarantine(struct world *w, struct seq *seq)
{
    if (seq->table.n == 0)
        return;
    kv_block_id block = seq->table.blocks[seq->table.n - 1];
    if (!w->landing[block])
        return;
    kv_pool_quarantine(w->pool, block);
    seq->table.n--;
    w->landing[block] = false;
    w->quarantined[block] = true;
    finish(w, seq);
}

static void unquarantine(struct world *w)
{
    for (kv_block_id block = 0; block < BLOCKS; block++)
        if (w->quarantined[block]) {
            kv_pool_unquarantine(w->pool, block);
            w->quarantined[block] = false;
            return;
        }
}

static void step(struct world *w)
{
    struct seq *seq = &w->seqs[draw(w, SEQS)];
    uint32_t what = draw(w, 32);
    if (!seq->live)
        start(w, seq);
    else if (what < 12)
        grow(w, seq);
    else if (what < 22)
        insert(w, seq);
    else if (what < 26)
        land(w, seq);
    else if (what < 28)
        quarantine(w, seq);
    else if (what < 29)
        unquarantine(w);
    else
        finish(w, seq);
}

static void world_open(struct world *w, uint64_t seed)
{
    *w = (struct world){.random = seed * 0x9e3779b97f4a7c15ull + 1, .next_seq = 1};
    assert_int_equal(kv_pool_create(BLOCKS, false, &w->pool), SL_OK);
    assert_int_equal(kv_prefix_cache_create(w->pool, BLOCKS, NULL, &w->cache), SL_OK);
}

/* Everything ends: all blocks are free or cached, and the cache can be emptied. */
static void world_close(struct world *w)
{
    for (uint32_t s = 0; s < SEQS; s++)
        if (w->seqs[s].live)
            finish(w, &w->seqs[s]);
    for (uint32_t i = 0; i < BLOCKS; i++)
        unquarantine(w);
    check(w);
    struct kv_pool_counts counts;
    kv_pool_count(w->pool, &counts);
    assert_int_equal(counts.free + counts.cached, BLOCKS);
    for (uint32_t i = 0; i < BLOCKS; i++)
        assert_int_not_equal(kv_pool_take(w->pool), KV_BLOCK_NONE);
    drain(w);
    assert_int_equal(w->n_entries, 0);
    kv_prefix_cache_destroy(w->cache);
    kv_pool_destroy(w->pool);
}

static void test_against_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct world w;
        world_open(&w, seed);
        for (uint32_t i = 0; i < STEPS; i++) {
            step(&w);
            check(&w);
        }
        /* The run has been everywhere. */
        assert_true(w.n_evicted > 100 && w.n_duplicates > 100 && w.n_refused > 100 &&
                    w.n_hits > 100 && w.n_unheld > 0);
        world_close(&w);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct kv_pool *pool = NULL;
    assert_int_equal(kv_pool_create(0, false, &pool), SL_INVALID);
    assert_int_equal(kv_pool_create(KV_POOL_BLOCKS_MAX + 1, false, &pool), SL_INVALID);
    assert_null(pool);
    assert_int_equal(kv_pool_create(1, false, &pool), SL_OK);
    kv_block_id block = kv_pool_take(pool);
    assert_int_equal(block, 0);
    assert_int_equal(kv_pool_take(pool), KV_BLOCK_NONE);
    assert_false(kv_pool_admit(pool, NULL, 0, 1));
    assert_true(kv_pool_admit(pool, NULL, 0, 0));
    kv_pool_release(pool, block);
    assert_true(kv_pool_admit(pool, NULL, 0, 1));
    assert_int_equal(kv_pool_take(pool), KV_BLOCK_NONE); /* promised to someone */
    assert_int_equal(kv_pool_take_promised(pool), 0);
    kv_pool_release(pool, 0);
    kv_pool_destroy(pool);
}

/* What has left in front is nobody's any more, and its place says so. */
static void test_block_table(void **state)
{
    (void)state;
    struct kv_block_table table;
    kv_block_id blocks[4];
    kv_block_table_init(&table, blocks, 4);
    for (kv_block_id id = 10; id < 13; id++)
        kv_block_table_append(&table, id);
    assert_int_equal(kv_block_table_pop_first(&table), 10);
    assert_int_equal(kv_block_table_pop_last(&table), 12);
    assert_int_equal(kv_block_table_held(&table), 1);
    assert_int_equal(blocks[0], KV_BLOCK_NONE);
    assert_int_equal(blocks[1], 11);
}

/* A link that does not drain: the oldest events are lost, and the numbers say so. */
static void test_event_gap(void **state)
{
    (void)state;
    struct kv_pool *pool;
    struct kv_prefix_cache *cache;
    assert_int_equal(kv_pool_create(1, false, &pool), SL_OK);
    assert_int_equal(kv_prefix_cache_create(pool, 1, NULL, &cache), SL_OK);
    for (uint32_t i = 0; i < KV_EVENTS_MAX; i++) { /* two events each: stored, evicted */
        struct kv_hash hash = {{0}};
        memcpy(hash.bytes, &i, sizeof(i));
        kv_block_id block = kv_pool_take(pool);
        assert_int_equal(kv_prefix_cache_insert(cache, &hash, block), block);
        kv_pool_release(pool, block);
    }
    struct kv_cache_event event;
    uint64_t first;
    assert_int_equal(kv_prefix_cache_events(cache, &event, 0, &first), 0);
    assert_int_equal(first, KV_EVENTS_MAX);
    assert_int_not_equal(kv_pool_take(pool), KV_BLOCK_NONE);
    assert_int_equal(kv_prefix_cache_events(cache, &event, 1, &first), 1);
    assert_int_equal(first, KV_EVENTS_MAX + 1); /* as many as fit are there */
    assert_int_equal(kv_prefix_cache_seq(cache), 2 * KV_EVENTS_MAX);
    struct kv_hash hash;
    assert_int_equal(kv_prefix_cache_snapshot(cache, &hash, 1), 0);
    assert_int_equal(kv_prefix_cache_events(cache, &event, 1, &first), 0); /* it says them all */
    assert_int_equal(first, 2 * KV_EVENTS_MAX + 1);
    kv_prefix_cache_destroy(cache);
    kv_pool_destroy(pool);
}

/* Creation with the nth allocation failing: a status, no leak, and it works again. */
static void test_torture(void **state)
{
    (void)state;
    uint32_t n_failed = 0;
    for (uint64_t nth = 1;; nth++) {
        struct kv_pool *pool = NULL;
        struct kv_prefix_cache *cache = NULL;
        sl_fault_torture(nth);
        sl_status status = kv_pool_create(BLOCKS, false, &pool);
        if (status == SL_OK)
            status = kv_prefix_cache_create(pool, BLOCKS, NULL, &cache);
        bool fired = sl_fault_fired();
        sl_fault_torture(0);
        assert_int_equal(status, fired ? SL_NO_MEMORY : SL_OK);
        if (pool != NULL) { /* never left pointing at a cache that is gone */
            kv_block_id block = kv_pool_take(pool);
            kv_pool_release(pool, block);
        }
        kv_prefix_cache_destroy(cache);
        kv_pool_destroy(pool);
        if (!fired)
            break;
        n_failed++;
    }
    assert_true(n_failed >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model), cmocka_unit_test(test_limits),
        cmocka_unit_test(test_block_table),   cmocka_unit_test(test_event_gap),
        cmocka_unit_test(test_torture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
