/* The prefix index against a naive table of (hash, node), and the order of events and snapshots. */
#include "coordinator/prefix_index.h"

#include "base/fault.h"
#include "support/support.h"

#define HASHES 300u
#define NODES  5u

static const uint32_t node_numbers[NODES] = {0, 1, 63, 64, 255};

/* Few distinct first bytes, so that places collide and runs get long. */
static struct kv_hash hash_of(uint32_t i)
{
    struct kv_hash hash = {{0}};
    hash.bytes[0] = (uint8_t)(i % 7);
    hash.bytes[8] = (uint8_t)i;
    hash.bytes[9] = (uint8_t)(i >> 8);
    return hash;
}

static void check(const struct prefix_index *index, bool held[HASHES][NODES], uint64_t *random)
{
    struct kv_hash chain[20];
    uint32_t picks[20], matched[PREFIX_INDEX_NODES_MAX];
    uint32_t n = (uint32_t)(test_random(random) % 20);
    for (uint32_t i = 0; i < n; i++) {
        picks[i] = (uint32_t)(test_random(random) % HASHES);
        chain[i] = hash_of(picks[i]);
    }
    prefix_index_match(index, chain, n, matched);
    for (uint32_t node = 0; node < NODES; node++) {
        uint32_t want = n;
        while (want > 0 && !held[picks[want - 1]][node])
            want--;
        assert_int_equal(matched[node_numbers[node]], want);
    }
    assert_int_equal(matched[2], 0);
}

static void like_a_naive_table(void **state)
{
    (void)state;
    static bool held[HASHES][NODES];
    memset(held, 0, sizeof(held));
    uint64_t random = 1;
    struct prefix_index *index = prefix_index_create();
    for (int step = 0; step < 20000; step++) {
        uint32_t i = (uint32_t)(test_random(&random) % HASHES);
        uint32_t node = (uint32_t)(test_random(&random) % NODES);
        struct kv_hash hash = hash_of(i);
        uint64_t dice = test_random(&random) % 1000;
        if (dice == 0) {
            prefix_index_drop_node(index, node_numbers[node]);
            for (uint32_t k = 0; k < HASHES; k++)
                held[k][node] = false;
        } else if (dice < 600) {
            prefix_index_insert(index, &hash, node_numbers[node]);
            held[i][node] = true;
        } else {
            prefix_index_remove(index, &hash, node_numbers[node]);
            held[i][node] = false;
        }
        if (step % 10 == 0)
            check(index, held, &random);
    }
    uint32_t entries = 0;
    for (uint32_t i = 0; i < HASHES; i++) {
        bool any = false;
        for (uint32_t node = 0; node < NODES; node++)
            any |= held[i][node];
        entries += any;
    }
    assert_int_equal(prefix_index_entries(index), entries);
    assert_int_equal(prefix_index_overflows(index), 0);
    prefix_index_destroy(index);
}

/* One alone: a longer list says only how far the furthest one lies. */
static bool holds(const struct prefix_index *index, const struct kv_hash *hash, uint32_t node)
{
    uint32_t matched[PREFIX_INDEX_NODES_MAX];
    prefix_index_match(index, hash, 1, matched);
    return matched[node] == 1;
}

static void grows(void **state)
{
    (void)state;
    struct prefix_index *index = prefix_index_create();
    uint64_t random = 3;
    static struct kv_hash hashes[20000];
    uint32_t matched[PREFIX_INDEX_NODES_MAX];
    for (uint32_t i = 0; i < 20000; i++) {
        uint64_t words[2] = {test_random(&random), test_random(&random)};
        memcpy(hashes[i].bytes, words, sizeof(words));
        prefix_index_insert(index, &hashes[i], 9);
    }
    assert_int_equal(prefix_index_entries(index), 20000);
    for (uint32_t i = 0; i < 20000; i++)
        assert_true(holds(index, &hashes[i], 9) && !holds(index, &hashes[i], 8));
    prefix_index_match(index, hashes, 20000, matched); /* no ceiling */
    assert_int_equal(matched[9], 20000);
    prefix_index_remove(index, &hashes[12345], 9);
    for (uint32_t i = 0; i < 20000; i++)
        assert_int_equal(holds(index, &hashes[i], 9), i != 12345);
    prefix_index_match(index, hashes, 20000, matched);
    assert_int_equal(matched[9], 20000); /* one in front was evicted: a window has passed it */
    prefix_index_match(index, hashes, 12346, matched);
    assert_int_equal(matched[9], 12345);
    prefix_index_destroy(index);
}

/* Without memory to grow, what has no place is counted and left out; all else goes on. */
static void no_memory_to_grow(void **state)
{
    (void)state;
    struct prefix_index *index = prefix_index_create();
    uint64_t random = 5;
    static struct kv_hash hashes[1000];
    assert_ok(sl_fault_configure("mem=always"));
    for (uint32_t i = 0; i < 1000; i++) {
        uint64_t words[2] = {test_random(&random), test_random(&random)};
        memcpy(hashes[i].bytes, words, sizeof(words));
        prefix_index_insert(index, &hashes[i], 9);
    }
    uint32_t kept = prefix_index_entries(index);
    assert_int_equal(kept, 682); /* two thirds of the first table */
    assert_int_equal(prefix_index_overflows(index), 1000 - kept);
    prefix_index_insert(index, &hashes[3], 10); /* known already: takes no place */
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(holds(index, &hashes[i], 9), i < kept);
    assert_int_equal(prefix_index_overflows(index), 1000 - kept);
    prefix_index_remove(index, &hashes[0], 9);
    prefix_index_insert(index, &hashes[999], 9); /* into its place */
    assert_int_equal(prefix_index_entries(index), kept);
    sl_fault_clear();
    prefix_index_destroy(index);
}

/* The last place of the table, and runs that go on at its start. */
static void around_the_end(void **state)
{
    (void)state;
    struct prefix_index *index = prefix_index_create();
    struct kv_hash hashes[6];
    for (uint32_t i = 0; i < 6; i++) {
        memset(&hashes[i], 0xff, sizeof(hashes[i])); /* home: the last place */
        hashes[i].bytes[15] = (uint8_t)i;
        prefix_index_insert(index, &hashes[i], i < 3 ? 1 : 2);
    }
    prefix_index_remove(index, &hashes[0], 1);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(holds(index, &hashes[i], i < 3 ? 1 : 2), i > 0);
    prefix_index_drop_node(index, 1);
    assert_int_equal(prefix_index_entries(index), 3);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(holds(index, &hashes[i], i < 3 ? 1 : 2), i >= 3);
    prefix_index_drop_node(index, 2);
    assert_int_equal(prefix_index_entries(index), 0);
    prefix_index_destroy(index);
}

static uint32_t match_one(struct prefix_index *index, uint32_t i)
{
    uint32_t matched[PREFIX_INDEX_NODES_MAX];
    struct kv_hash hash = hash_of(i);
    prefix_index_match(index, &hash, 1, matched);
    return matched[4];
}

static bool stored(struct prefix_feed *feed, struct prefix_index *index, uint64_t seq, uint32_t i)
{
    struct kv_hash hash = hash_of(i);
    uint8_t evicted = 0;
    return prefix_feed_events(feed, index, 4, seq, &hash, &evicted, 1);
}

static void events_in_order(void **state)
{
    (void)state;
    struct prefix_index *index = prefix_index_create();
    struct prefix_feed feed = {.seq = 0};
    struct kv_hash hashes[2] = {hash_of(1), hash_of(2)};
    uint8_t both[2] = {0, 1};
    assert_false(stored(&feed, index, 1, 2));
    assert_int_equal(match_one(index, 2), 1);
    assert_false(prefix_feed_events(&feed, index, 4, 2, hashes, both, 2));
    assert_int_equal(match_one(index, 1), 1);
    assert_int_equal(match_one(index, 2), 0);
    assert_int_equal(feed.seq, 3);
    assert_false(stored(&feed, index, 3, 2)); /* a repeat is dropped */
    assert_int_equal(match_one(index, 2), 0);
    assert_int_equal(feed.seq, 3);
    struct kv_hash *three = sl_try_zalloc(3, sizeof(*three)); /* exact, for ASan */
    for (uint32_t i = 0; i < 3; i++)
        three[i] = hash_of(20 + i);
    uint8_t kept[3] = {0};
    assert_false(prefix_feed_events(&feed, index, 4, 3, three, kept, 3)); /* and news behind it */
    assert_int_equal(match_one(index, 20), 0);
    assert_int_equal(match_one(index, 21), 1);
    assert_int_equal(match_one(index, 22), 1);
    assert_int_equal(feed.seq, 5);
    sl_free(three);
    prefix_index_destroy(index);
}

static void gap_asks_for_a_snapshot(void **state)
{
    (void)state;
    struct prefix_index *index = prefix_index_create();
    struct prefix_feed feed = {.seq = 0};
    assert_false(stored(&feed, index, 1, 1));
    assert_true(stored(&feed, index, 3, 3));
    assert_false(stored(&feed, index, 4, 4)); /* asked already */
    assert_int_equal(match_one(index, 4), 0);
    struct kv_hash parts[2] = {hash_of(10), hash_of(11)};
    assert_false(prefix_feed_snapshot(&feed, index, 4, 7, 0, 2, &parts[0], 1));
    assert_int_equal(match_one(index, 1), 0); /* forgotten with the first part */
    assert_false(stored(&feed, index, 5, 5)); /* covered by the snapshot */
    assert_false(prefix_feed_snapshot(&feed, index, 4, 7, 1, 2, &parts[1], 1));
    assert_int_equal(match_one(index, 10), 1);
    assert_int_equal(match_one(index, 11), 1);
    assert_false(stored(&feed, index, 7, 7)); /* too */
    assert_int_equal(match_one(index, 7), 0);
    assert_false(stored(&feed, index, 8, 8));
    assert_int_equal(match_one(index, 8), 1);
    /* Parts that do not follow each other. */
    assert_true(prefix_feed_snapshot(&feed, index, 4, 9, 1, 3, parts, 1));
    assert_false(prefix_feed_snapshot(&feed, index, 4, 9, 0, 1, parts, 2));
    assert_int_equal(feed.seq, 9);
    assert_false(feed.waiting);
    prefix_index_destroy(index);
}

static void snapshots_in_parts(void **state)
{
    (void)state;
    struct prefix_index *index = prefix_index_create();
    struct prefix_feed feed = {.seq = 0};
    struct kv_hash *one = sl_try_zalloc(1, sizeof(*one)); /* exact, for ASan */
    *one = hash_of(10);
    /* One that nobody asked for: what comes between its parts is in it, or behind it. */
    assert_false(prefix_feed_snapshot(&feed, index, 4, 7, 0, 2, one, 1));
    assert_false(stored(&feed, index, 1, 5));
    assert_int_equal(match_one(index, 5), 0);
    assert_int_equal(feed.seq, 0); /* until all of it is there */
    *one = hash_of(11);
    assert_false(prefix_feed_snapshot(&feed, index, 4, 7, 1, 2, one, 1));
    assert_int_equal(feed.seq, 7);
    assert_true(prefix_feed_snapshot(&feed, index, 4, 7, 2, 3, one, 1)); /* it has ended */
    assert_int_equal(match_one(index, 10) + match_one(index, 11), 2);
    /* A part is missing: asked for once, and only a first part begins anew. */
    assert_false(prefix_feed_snapshot(&feed, index, 4, 9, 0, 3, one, 1));
    *one = hash_of(12);
    assert_true(prefix_feed_snapshot(&feed, index, 4, 9, 2, 3, one, 1));
    assert_int_equal(match_one(index, 12), 0);
    assert_true(feed.waiting);
    assert_false(prefix_feed_snapshot(&feed, index, 4, 9, 0, 1, one, 1));
    assert_int_equal(match_one(index, 12), 1);
    assert_int_equal(match_one(index, 11), 0);
    assert_int_equal(feed.seq, 9);
    sl_free(one);
    prefix_index_destroy(index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_a_naive_table),      cmocka_unit_test(grows),
        cmocka_unit_test(no_memory_to_grow),       cmocka_unit_test(around_the_end),
        cmocka_unit_test(snapshots_in_parts),      cmocka_unit_test(events_in_order),
        cmocka_unit_test(gap_asks_for_a_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
