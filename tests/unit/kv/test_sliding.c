/* Two classes, one with a window, against a naive model: sequences begin at the boundary that the
 * model finds by trying every one, compute in chunks, let go what their window has passed, share and
 * compete. What was promised must always be there, whoever shares what; the group's events, taken
 * together, must be the hashes that both classes hold. */
#include "base/fault.h"
#include "kv/block_table.h"
#include "kv/hit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#define SIZE       16u
#define SEQS       10
#define LENGTH_MAX 12 /* blocks */
#define CHUNK      40u
#define STEPS      15000
#define FULL       60u
#define SLIDING    26u
#define BLOCKS_MAX FULL

struct part {
    struct kv_block_table table;
    kv_block_id storage[LENGTH_MAX];
    uint32_t promised;
};

struct seq {
    bool live;
    uint8_t letters[LENGTH_MAX];
    uint32_t n_tokens, computed;
    struct part parts[2];
    uint32_t inserted[2];
    bool insert_off;
    kv_block_id shadows[LENGTH_MAX]; /* of class 0 */
};

/* The model's own idea of who holds what. */
struct world {
    struct kv_geometry geometry;
    struct kv_pool *pools[2];
    struct kv_prefix_cache *caches[2];
    struct seq seqs[SEQS];
    uint64_t random;
    struct kv_hash announced[4096];
    uint32_t n_announced;
    uint64_t seq;
    uint32_t n_hits, n_cut, n_refused, n_passed, n_shared, n_grown;
};

static uint32_t draw(struct world *w, uint32_t n)
{
    w->random ^= w->random << 13;
    w->random ^= w->random >> 7;
    w->random ^= w->random << 17;
    return (uint32_t)(w->random >> 33) % n;
}

static void chain_of(const struct seq *seq, struct kv_hash *hashes)
{
    static const uint8_t identity[16] = {3};
    struct kv_hash root = kv_hash_root(identity, NULL, 0);
    for (uint32_t i = 0; i < LENGTH_MAX; i++) {
        uint32_t token = seq->letters[i];
        hashes[i] = kv_hash_block(i == 0 ? &root : &hashes[i - 1], &token, 1);
    }
}

static uint32_t references_of(const struct world *w, uint32_t c, kv_block_id block)
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < SEQS; s++) {
        const struct seq *seq = &w->seqs[s];
        const struct kv_block_table *table = &seq->parts[c].table;
        for (uint32_t i = table->first; seq->live && i < table->n; i++) {
            n += table->blocks[i] == block;
            n += c == 0 && seq->shadows[i] == block;
        }
    }
    return n;
}

static bool held(const struct world *w, uint32_t c, const struct kv_hash *hash)
{
    return kv_prefix_cache_find(w->caches[c], hash) != KV_BLOCK_NONE;
}

/* Every boundary from the far end, every block that the token there would read. */
static uint32_t naive_boundary(const struct world *w, const struct kv_hash *hashes, uint32_t n)
{
    for (uint32_t b = n; b > 0; b--) {
        bool all = true;
        for (uint32_t i = 0; i < b; i++)
            all &= held(w, 0, &hashes[i]);
        for (uint32_t token = 0; token < b * SIZE; token++) /* keys of position b * SIZE */
            if (b * SIZE - token < w->geometry.classes[1].window)
                all &= held(w, 1, &hashes[token / SIZE]);
        if (all)
            return b;
    }
    return 0;
}

static void note_event(struct world *w, const struct kv_cache_event *event)
{
    uint32_t i = 0;
    while (i < w->n_announced && !kv_hash_equal(&w->announced[i], &event->hash))
        i++;
    assert_int_equal(i < w->n_announced, event->evicted); /* none is said twice */
    if (event->evicted)
        w->announced[i] = w->announced[--w->n_announced];
    else
        w->announced[w->n_announced++] = event->hash;
}

static void drain(struct world *w)
{
    struct kv_cache_event events[16];
    uint64_t first;
    uint32_t n;
    while ((n = kv_prefix_cache_events(w->caches[0], events, 16, &first)) > 0) {
        assert_int_equal(first, w->seq + 1);
        w->seq += n;
        for (uint32_t i = 0; i < n; i++)
            note_event(w, &events[i]);
    }
    struct kv_hash both[BLOCKS_MAX];
    uint32_t n_both = kv_prefix_cache_snapshot(w->caches[0], both, BLOCKS_MAX);
    assert_int_equal(n_both, w->n_announced);
    for (uint32_t i = 0; i < n_both; i++)
        assert_true(held(w, 0, &both[i]) && held(w, 1, &both[i]));
    for (uint32_t i = 0; i < w->n_announced; i++)
        assert_true(held(w, 0, &w->announced[i]) && held(w, 1, &w->announced[i]));
}

/* Counted anew: budgets are what sequences hold and were promised, sharing or not. */
static void check(struct world *w)
{
    drain(w);
    for (uint32_t c = 0; c < 2; c++) {
        struct kv_pool_counts counts;
        kv_pool_count(w->pools[c], &counts);
        uint32_t promised = 0, budgets = 0, used = 0;
        for (uint32_t s = 0; s < SEQS; s++) {
            const struct part *part = &w->seqs[s].parts[c];
            promised += w->seqs[s].live ? part->promised : 0;
            budgets += w->seqs[s].live ? part->promised + kv_block_table_held(&part->table) : 0;
        }
        for (kv_block_id block = 0; block < counts.total; block++) {
            uint32_t references = references_of(w, c, block);
            assert_int_equal(kv_pool_references(w->pools[c], block), references);
            used += references > 0;
            w->n_shared += references > 1;
        }
        assert_int_equal(counts.used, used);
        assert_int_equal(counts.promised, promised);
        assert_int_equal(counts.free + counts.cached + counts.used, counts.total);
        assert_true(promised <= counts.free + counts.cached);
        if (c == 1) {
            assert_true(budgets <= counts.total);
            assert_int_equal(kv_pool_available(w->pools[1]), counts.total - budgets);
        }
    }
}

static uint32_t most(const struct world *w, const struct seq *seq, uint32_t c)
{
    return kv_window_blocks(&w->geometry, c, seq->n_tokens, CHUNK);
}

static void start(struct world *w, struct seq *seq)
{
    *seq = (struct seq){.n_tokens = 1 + draw(w, LENGTH_MAX * SIZE)};
    for (uint32_t i = 0; i < LENGTH_MAX; i++) {
        seq->letters[i] = (uint8_t)(draw(w, 8) == 0);
        seq->shadows[i] = KV_BLOCK_NONE;
    }
    struct kv_hash hashes[LENGTH_MAX];
    kv_block_id hits[2][LENGTH_MAX], *const outs[2] = {hits[0], hits[1]};
    chain_of(seq, hashes);
    uint32_t n = (seq->n_tokens - 1) / SIZE;
    uint32_t boundary = kv_hit_boundary(&w->geometry, w->caches, hashes, n, outs);
    assert_int_equal(boundary, naive_boundary(w, hashes, n));
    w->n_hits += boundary > 0;
    w->n_cut += boundary < n && held(w, 0, &hashes[boundary]);

    uint32_t lacking[2], first[2];
    for (uint32_t c = 0; c < 2; c++) {
        kv_block_table_init(&seq->parts[c].table, seq->parts[c].storage, LENGTH_MAX);
        first[c] = kv_window_first(&w->geometry, c, boundary * SIZE);
        for (uint32_t i = first[c]; i < boundary; i++)
            assert_int_equal(hits[c][i], kv_prefix_cache_find(w->caches[c], &hashes[i]));
        lacking[c] = most(w, seq, c) - (c == 0 ? boundary : 0);
        lacking[c] -= c == 1 ? boundary - first[1] : 0;
        if (!kv_pool_fits(w->pools[c], hits[c] + first[c], boundary - first[c], lacking[c])) {
            w->n_refused++;
            return;
        }
    }
    for (uint32_t c = 0; c < 2; c++) {
        struct part *part = &seq->parts[c];
        assert_true(
            kv_pool_admit(w->pools[c], hits[c] + first[c], boundary - first[c], lacking[c]));
        part->promised = lacking[c];
        kv_block_table_begin(&part->table, first[c]);
        for (uint32_t i = first[c]; i < boundary; i++)
            kv_block_table_append(&part->table, hits[c][i]);
        seq->inserted[c] = boundary;
    }
    seq->computed = boundary * SIZE;
    seq->live = true;
}

static void insert(struct world *w, struct seq *seq)
{
    struct kv_hash hashes[LENGTH_MAX];
    chain_of(seq, hashes);
    for (uint32_t c = 0; c < 2; c++)
        for (; seq->inserted[c] < seq->computed / SIZE && !(c == 0 && seq->insert_off);
             seq->inserted[c]++) {
            uint32_t i = seq->inserted[c];
            kv_block_id own = seq->parts[c].table.blocks[i];
            kv_block_id kept = kv_prefix_cache_insert(w->caches[c], &hashes[i], own);
            if (kept == own || c == 1)
                continue;
            if (!kv_pool_acquire(w->pools[0], kept)) {
                seq->insert_off = true;
                break;
            }
            seq->shadows[i] = kept;
        }
}

/* A chunk: blocks for it, then what is full into the caches, then what has passed goes. */
static void compute(struct world *w, struct seq *seq)
{
    uint32_t n = 1 + draw(w, CHUNK);
    if (n > seq->n_tokens - seq->computed)
        n = seq->n_tokens - seq->computed;
    for (uint32_t c = 0; c < 2; c++) {
        struct part *part = &seq->parts[c];
        while (part->table.n < kv_blocks_of(&w->geometry, seq->computed + n)) {
            assert_true(part->promised > 0); /* the promise is enough, always */
            part->promised--;
            kv_block_table_append(&part->table, kv_pool_take_promised(w->pools[c]));
        }
    }
    seq->computed += n;
    insert(w, seq);
    struct part *part = &seq->parts[1];
    while (part->table.first < kv_window_first(&w->geometry, 1, seq->computed) &&
           kv_block_table_held(&part->table) > 0) {
        kv_pool_release(w->pools[1], kv_block_table_pop_first(&part->table));
        part->promised++;
        w->n_passed++;
    }
}

static void finish(struct world *w, struct seq *seq)
{
    for (uint32_t c = 0; c < 2; c++) {
        struct part *part = &seq->parts[c];
        while (kv_block_table_held(&part->table) > 0) {
            kv_pool_release(w->pools[c], kv_block_table_pop_last(&part->table));
            part->promised += c;
            uint32_t at = part->table.n;
            if (c == 0 && seq->shadows[at] != KV_BLOCK_NONE)
                kv_pool_release(w->pools[0], seq->shadows[at]);
        }
        kv_pool_unpromise(w->pools[c], part->promised);
    }
    seq->live = false;
}

/* A block beyond the promise, which widens the budget, and back. */
static void grow(struct world *w, struct seq *seq)
{
    bool some = kv_pool_available(w->pools[1]) > 0;
    kv_block_id block = kv_pool_take(w->pools[1]);
    assert_int_equal(block != KV_BLOCK_NONE, some);
    if (!some)
        return;
    w->n_grown++;
    kv_pool_release(w->pools[1], block);
    seq->parts[1].promised++;
    check(w);
    kv_pool_unpromise(w->pools[1], 1);
    seq->parts[1].promised--;
}

static void step(struct world *w)
{
    struct seq *seq = &w->seqs[draw(w, SEQS)];
    if (!seq->live)
        start(w, seq);
    else if (seq->computed == seq->n_tokens || draw(w, 16) == 0)
        finish(w, seq);
    else if (draw(w, 16) == 0)
        grow(w, seq);
    else
        compute(w, seq);
}

static void world_open(struct world *w, uint64_t seed, uint32_t window)
{
    *w = (struct world){.random = seed * 0x9e3779b97f4a7c15ull + 1};
    w->geometry = (struct kv_geometry){
        .block_tokens = SIZE, .n_classes = 2, .classes = {{.n_layers = 1}, {.n_layers = 2}}};
    w->geometry.classes[1].window = window;
    for (uint32_t c = 0; c < 2; c++) {
        uint32_t n_blocks = c == 0 ? FULL : SLIDING;
        assert_int_equal(kv_pool_create(n_blocks, c == 1, &w->pools[c]), SL_OK);
        assert_int_equal(kv_prefix_cache_create(w->pools[c], n_blocks, c == 0 ? NULL : w->caches[0],
                                                &w->caches[c]),
                         SL_OK);
    }
}

static void world_close(struct world *w)
{
    for (uint32_t s = 0; s < SEQS; s++)
        if (w->seqs[s].live)
            finish(w, &w->seqs[s]);
    check(w);
    for (uint32_t c = 2; c-- > 0;) {
        struct kv_pool_counts counts;
        kv_pool_count(w->pools[c], &counts);
        assert_int_equal(counts.free + counts.cached, counts.total);
        assert_int_equal(kv_pool_available(w->pools[c]), counts.total);
        while (kv_pool_take(w->pools[c]) != KV_BLOCK_NONE)
            continue;
    }
    drain(w);
    assert_int_equal(w->n_announced, 0);
    for (uint32_t c = 2; c-- > 0;) {
        kv_prefix_cache_destroy(w->caches[c]);
        kv_pool_destroy(w->pools[c]);
    }
}

static void test_against_model(void **state)
{
    (void)state;
    static const uint32_t windows[] = {1, 16, 30, 49};
    static struct world w;
    for (uint32_t i = 0; i < 4; i++) {
        world_open(&w, i + 1, windows[i]);
        for (uint32_t k = 0; k < STEPS; k++) {
            step(&w);
            check(&w);
        }
        /* The run has been everywhere. */
        assert_true(w.n_hits > 100 && w.n_refused > 100 && w.n_passed > 1000 && w.n_shared > 100 &&
                    w.n_grown > 100);
        assert_true(windows[i] == 1 || w.n_cut > 100); /* the window class shortened a hit */
        world_close(&w);
    }
}

/* Two share a block that the first lets go: it is nobody's again, and the first is still owed one. */
static void test_shared_block(void **state)
{
    (void)state;
    struct kv_pool *pool;
    assert_int_equal(kv_pool_create(3, true, &pool), SL_OK);
    assert_true(kv_pool_admit(pool, NULL, 0, 1));
    kv_block_id block = kv_pool_take_promised(pool);
    assert_true(kv_pool_admit(pool, &block, 1, 1)); /* two blocks of three for the second */
    assert_false(kv_pool_fits(pool, &block, 1, 0)); /* a third pays for what it shares */
    assert_int_equal(kv_pool_take(pool), KV_BLOCK_NONE);
    kv_pool_release(pool, block);
    assert_int_equal(kv_pool_state(pool, block), KV_BLOCK_USED);
    kv_block_id other = kv_pool_take_promised(pool), third = kv_pool_take_promised(pool);
    assert_true(other != block && third != block && other != third);
    kv_pool_landing_begin(pool, third);
    kv_pool_quarantine(pool, third); /* its owner's budget stays with it … */
    kv_pool_release(pool, other);
    kv_pool_release(pool, block);
    kv_pool_unpromise(pool, 2);
    assert_int_equal(kv_pool_available(pool), 2);
    kv_pool_unquarantine(pool, third); /* … until it comes back */
    assert_int_equal(kv_pool_available(pool), 3);
    kv_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_shared_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
