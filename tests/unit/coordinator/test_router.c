/* The router: each rule and each tie, and that it is a function. */
#include "coordinator/router.h"

#include "support/support.h"

#include <math.h>

static struct router_node node(bool prefill)
{
    return (struct router_node){.prefill = prefill, .blocks_total = 100, .blocks_available = 100};
}

static struct router_input input(const struct router_node *nodes, uint32_t n)
{
    return (struct router_input){.nodes = nodes,
                                 .n_nodes = n,
                                 .n_tokens = 1000,
                                 .n_new = 20,
                                 .block_tokens = 64,
                                 .block_bytes = 1 << 20,
                                 .local_prefill_max_tokens = 64,
                                 .unadmitted_max = 4};
}

static void expect(const struct router_input *in, enum router_reason reason, int32_t p, int32_t d)
{
    struct router_decision got = router_choose(in);
    if (got.reason != reason || got.p != p || got.d != d)
        fail_msg("%s p=%d d=%d; want %s p=%d d=%d", router_reason_name(got.reason), got.p, got.d,
                 router_reason_name(reason), p, d);
    struct router_decision again = router_choose(in);
    assert_memory_equal(&got, &again, sizeof(got));
}

/* Where every layer has a window a request holds so many blocks, however long; and what lies before a
 * window is not part of the handover. */
static void windows(void **state)
{
    (void)state;
    struct router_node pd[] = {node(true), node(false)};
    struct router_input in = input(pd, 2);
    in.n_tokens = 10000; /* 157 blocks */
    expect(&in, ROUTER_TOO_LARGE, -1, -1);
    pd[0].request_blocks_max = pd[1].request_blocks_max = 101;
    expect(&in, ROUTER_TOO_LARGE, -1, -1);
    pd[0].request_blocks_max = pd[1].request_blocks_max = 100;
    expect(&in, ROUTER_PAIR, 0, 1);
    pd[1].blocks_available = 99; /* one is lacking: a wait, but no refusal */
    double waits = router_choose(&in).handover_ms;
    pd[1].blocks_available = 100;
    double all = router_choose(&in).handover_ms;
    assert_true(waits > all);
    in.window_block_bytes = in.block_bytes / 4;
    in.window_tokens = 1000;
    double some = router_choose(&in).handover_ms;
    assert_true(fabs(some / all - (0.75 + 0.25 * 1000 / 10000)) < 1e-9);
    in.window_tokens = 20000;
    assert_true(fabs(router_choose(&in).handover_ms - all) < 1e-9);
    assert_int_equal(router_blocks_held(7, 0), 7);
    assert_int_equal(router_blocks_held(7, 5), 5);
    assert_int_equal(router_blocks_held(4, 5), 4);
}

static void rules(void **state)
{
    (void)state;
    struct router_node pd[] = {node(true), node(false)};
    struct router_input in = input(pd, 2);
    expect(&in, ROUTER_PAIR, 0, 1);
    in.n_new = 1;
    expect(&in, ROUTER_SINGLE_TOKEN, 0, -1);
    pd[1].matched_tokens = 960; /* D has the history … */
    expect(&in, ROUTER_LOCAL_SUFFIX, -1, 1);
    pd[0].matched_tokens = 960; /* … and P too */
    expect(&in, ROUTER_SINGLE_TOKEN, 0, -1);
    pd[0].matched_tokens = pd[1].matched_tokens = 0;
    in.n_new = 2;
    in.n_tokens = 64;
    expect(&in, ROUTER_LOCAL_SUFFIX, -1, 1);
    in.n_tokens = 65;
    expect(&in, ROUTER_PAIR, 0, 1);
    in.n_tokens = 1000;
    pd[1].matched_tokens = 936; /* D lacks 64 */
    expect(&in, ROUTER_LOCAL_SUFFIX, -1, 1);
    pd[1].matched_tokens = 935;
    expect(&in, ROUTER_PAIR, 0, 1);
    in.local_prefill_max_tokens = 0;
    in.n_tokens = 1;
    expect(&in, ROUTER_PAIR, 0, 1);
}

static void without_one_pool(void **state)
{
    (void)state;
    struct router_node nodes[] = {node(true), node(false)};
    struct router_input only_d = input(nodes + 1, 1);
    expect(&only_d, ROUTER_LOCAL_NO_P, -1, 0);
    only_d.n_new = 1;
    expect(&only_d, ROUTER_LOCAL_NO_P, -1, 0);
    struct router_input only_p = input(nodes, 1);
    expect(&only_p, ROUTER_LOCAL_NO_D, -1, 0); /* whatever the suffix: there is nobody else */
    only_p.local_prefill_max_tokens = 0;
    expect(&only_p, ROUTER_LOCAL_NO_D, -1, 0);
    only_p.n_new = 1;
    expect(&only_p, ROUTER_SINGLE_TOKEN, 0, -1);
    struct router_node two[] = {node(true), node(true)};
    struct router_input both = input(two, 2);
    two[0].running = 50;
    expect(&both, ROUTER_LOCAL_NO_D, -1, 1);
    two[1].avoid = true;
    expect(&both, ROUTER_LOCAL_NO_D, -1, 0);
    two[0].unadmitted = two[1].unadmitted = 4;
    expect(&both, ROUTER_BUSY, -1, -1);
    two[0].blocks_total = two[1].blocks_total = 15;
    expect(&both, ROUTER_TOO_LARGE, -1, -1);
    /* A decode node that has no room is no reason: it is there. */
    nodes[1].unadmitted = 4;
    struct router_input full_d = input(nodes, 2);
    expect(&full_d, ROUTER_BUSY, -1, -1);
    struct router_input nobody = input(nodes, 0);
    expect(&nobody, ROUTER_NONE, -1, -1);
}

static void sizes(void **state)
{
    (void)state;
    /* The last token is never written: 63 + 2 fill one block, 63 + 3 take two. */
    assert_int_equal(router_blocks(63, 2, 64), 1);
    assert_int_equal(router_blocks(63, 3, 64), 2);
    assert_int_equal(router_blocks(64, 1, 64), 1);
    assert_int_equal(router_blocks(64, 0, 64), 1);
    assert_int_equal(router_blocks(UINT32_MAX, 2, 64), 1u << 26);
    struct router_node nodes[] = {node(true), node(false), node(false)};
    struct router_input in = input(nodes, 3);
    nodes[1].blocks_total = 15;
    expect(&in, ROUTER_PAIR, 0, 2); /* 1019 tokens need 16 */
    nodes[2].blocks_total = 15;
    expect(&in, ROUTER_TOO_LARGE, -1, -1);
    nodes[2].blocks_total = 16;
    nodes[0].blocks_total = 15;
    expect(&in, ROUTER_LOCAL_P_UNFIT, -1, 2);
    nodes[0].blocks_total = 16;
    nodes[2].unadmitted = 3;
    expect(&in, ROUTER_PAIR, 0, 2);
    nodes[2].unadmitted = 4;
    expect(&in, ROUTER_BUSY, -1, -1);
}

static void longest_match_and_load(void **state)
{
    (void)state;
    struct router_node nodes[] = {node(true), node(true), node(false), node(false)};
    struct router_input in = input(nodes, 4);
    nodes[1].matched_tokens = 640;
    nodes[3].matched_tokens = 640;
    expect(&in, ROUTER_PAIR, 1, 3);
    nodes[1].queued_tokens = 100000; /* a hit is not worth any queue */
    expect(&in, ROUTER_PAIR, 0, 3);
    nodes[3].running = 60;
    expect(&in, ROUTER_PAIR, 0, 2);
    nodes[2].blocks_available = 1; /* nor any wait for blocks */
    expect(&in, ROUTER_PAIR, 0, 3);
}

static void ties(void **state)
{
    (void)state;
    struct router_node nodes[] = {node(true), node(true), node(false), node(false), node(false)};
    struct router_input in = input(nodes, 5);
    uint32_t chosen[5] = {0};
    for (uint64_t i = 0; i < 30; i++) {
        in.rotation = i;
        struct router_decision got = router_choose(&in);
        chosen[got.p]++;
        chosen[got.d]++;
    }
    for (uint32_t i = 0; i < 5; i++)
        assert_true(chosen[i] >= 6); /* rotation reaches each */
    in.has_affinity = true;
    nodes[3].affinity = 9;
    nodes[1].affinity = 9;
    for (uint64_t i = 0; i < 10; i++) {
        in.rotation = i;
        expect(&in, ROUTER_PAIR, 1, 3);
    }
    nodes[3].unadmitted = 1; /* load goes before affinity */
    assert_true(router_choose(&in).d != 3);
}

static void avoided(void **state)
{
    (void)state;
    struct router_node nodes[] = {node(true), node(false), node(false)};
    struct router_input in = input(nodes, 3);
    nodes[1].avoid = true;
    nodes[2].running = 50;
    expect(&in, ROUTER_PAIR, 0, 2);
    nodes[2].avoid = true; /* no other: then it is asked again */
    expect(&in, ROUTER_PAIR, 0, 1);
    nodes[0].avoid = true; /* but a P is never needed */
    expect(&in, ROUTER_LOCAL_P_UNFIT, -1, 1);
}

static void fitted_costs(void **state)
{
    (void)state;
    struct router_cost cost = {.weight = 0};
    assert_true(router_cost_token_ms(&cost) > 0);
    for (int i = 1; i <= 200; i++)
        router_cost_add(&cost, i % 17, 3.0 + 0.25 * (i % 17));
    assert_true(router_cost_token_ms(&cost) > 0.2499 && router_cost_token_ms(&cost) < 0.2501);
    assert_true(router_cost_base_ms(&cost) > 2.999 && router_cost_base_ms(&cost) < 3.001);
    double beyond = router_cost_beyond_step_ms(&cost, 8, 7);
    assert_true(beyond > 1.999 && beyond < 2.001);
    assert_true(router_cost_beyond_step_ms(&cost, 8, 4.9) == 0);
    struct router_cost flat = {.weight = 0};
    assert_true(router_cost_beyond_step_ms(&flat, 8, 7) ==
                7); /* nothing is known, nothing guessed */
    for (int i = 0; i < 10; i++)
        router_cost_add(&flat, 8, 4);
    assert_true(router_cost_token_ms(&flat) > 0.49 && router_cost_token_ms(&flat) < 0.51);
    /* The faster node is chosen. */
    struct router_node nodes[] = {node(false), node(false)};
    nodes[0].cost = cost;
    nodes[1].cost = cost;
    for (int i = 1; i <= 500; i++)
        router_cost_add(&nodes[1].cost, i % 17, 1.0 + 0.05 * (i % 17));
    struct router_input in = input(nodes, 2);
    expect(&in, ROUTER_LOCAL_NO_P, -1, 1);
}

static void assert_near(double got, double want)
{
    if (!(got > want - 1e-6 && got < want + 1e-6))
        fail_msg("got %.9f, want %.9f", got, want);
}

/* 2 ms a step and half a millisecond a token. */
static struct router_cost known_cost(void)
{
    struct router_cost cost = {.weight = 0};
    for (int i = 1; i <= 10; i++)
        router_cost_add(&cost, i, 2 + 0.5 * i);
    return cost;
}

/* The parts of an estimate, computed by hand. */
static void parts(void **state)
{
    (void)state;
    struct router_node nodes[] = {node(true), node(false)};
    nodes[0].cost = nodes[1].cost = known_cost();
    nodes[0].queued_tokens = 100;
    nodes[0].matched_tokens = 360;
    nodes[1].matched_tokens = 680;
    nodes[1].running = 3;
    nodes[1].unadmitted = 1;
    nodes[1].queued_tokens = 40;
    struct router_input in = input(nodes, 2);
    in.bytes_per_ms = (1 << 20) / 2.0;
    struct router_decision got = router_choose(&in);
    assert_int_equal(got.reason, ROUTER_PAIR);
    assert_near(got.queue_ms, 50);
    assert_near(got.compute_ms, 320);
    assert_int_equal(got.compute_tokens, 640);
    assert_near(got.handover_ms, 2.5); /* a quarter of five blocks, two a millisecond … */
    assert_near(got.itl_ms, 4.5);      /* five sequences */
    nodes[1].blocks_available = 3;     /* … and half of the six that it lacks are not there */
    assert_near(router_choose(&in).handover_ms, 1002.5);
    nodes[1].blocks_available = 6;
    assert_near(router_choose(&in).handover_ms, 2.5);
    in.bytes_per_ms = 0; /* not measured: a megabyte a millisecond */
    assert_near(router_choose(&in).handover_ms, 0.25 * 5 * (1 << 20) / 1e6);
    in.local_prefill_max_tokens = 320;
    nodes[1].blocks_available = 3;
    got = router_choose(&in);
    assert_int_equal(got.reason, ROUTER_LOCAL_SUFFIX);
    assert_near(got.queue_ms, 20);
    assert_near(got.compute_ms, 160);
    assert_int_equal(got.compute_tokens, 320);
    assert_near(got.handover_ms, 1000);
    assert_near(got.itl_ms, 4.5);
    nodes[1].matched_tokens = 1000; /* all of it: one token is computed still */
    assert_int_equal(router_choose(&in).compute_tokens, 1);
}

static void single_token_at_d(void **state)
{
    (void)state;
    struct router_node pd[] = {node(true), node(false)};
    struct router_input in = input(pd, 2);
    in.n_new = 1;
    pd[1].matched_tokens = 936; /* D lacks 64, the most that it computes itself */
    expect(&in, ROUTER_LOCAL_SUFFIX, -1, 1);
    pd[0].matched_tokens = 936; /* P as many */
    expect(&in, ROUTER_SINGLE_TOKEN, 0, -1);
    pd[0].matched_tokens = 935;
    expect(&in, ROUTER_LOCAL_SUFFIX, -1, 1);
    pd[1].matched_tokens = 935;
    pd[0].matched_tokens = 0;
    expect(&in, ROUTER_SINGLE_TOKEN, 0, -1);
    struct router_decision got = router_choose(&in);
    assert_int_equal(got.compute_tokens, 1000); /* P's */
    assert_near(got.handover_ms + got.itl_ms, 0);
}

static void costs_of_little_data(void **state)
{
    (void)state;
    struct router_cost cost = {.weight = 0};
    assert_near(router_cost_base_ms(&cost), 1);
    assert_near(router_cost_token_ms(&cost), 0.05);
    router_cost_add(&cost, 1, 10); /* three samples are no line */
    router_cost_add(&cost, 2, 10);
    router_cost_add(&cost, 3, 10);
    assert_near(router_cost_base_ms(&cost), 0);
    assert_true(router_cost_token_ms(&cost) > 4.9 && router_cost_token_ms(&cost) < 5.1);
    struct router_cost falling = {.weight = 0};
    for (int i = 0; i < 20; i++)
        router_cost_add(&falling, i, 100 - i);
    assert_true(router_cost_token_ms(&falling) == 1e-5); /* nothing is free */
    struct router_cost steep = {.weight = 0};
    for (int i = 1; i <= 20; i++)
        router_cost_add(&steep, i, 5000.0 * i - 4000);
    assert_near(router_cost_token_ms(&steep), 1000);
    assert_near(router_cost_base_ms(&steep), 0); /* never below */
}

/* What two nodes saw, each at its own sizes, is one line. */
static void merged_costs(void **state)
{
    (void)state;
    struct router_cost small = {.weight = 0}, large = {.weight = 0};
    for (int i = 1; i <= 10; i++) {
        router_cost_add(&small, i, 3 + 0.25 * i);
        router_cost_add(&large, 100 + i, 3 + 0.25 * (100 + i));
    }
    router_cost_merge(&small, &large);
    assert_near(router_cost_token_ms(&small), 0.25);
    assert_near(router_cost_base_ms(&small), 3);
    assert_true(small.weight > 18);
}

/* A node that is clearly faster counts by itself, too; one of few samples never. */
static void own_cost_when_clear(void **state)
{
    (void)state;
    struct router_cost own, pool = {.weight = 0}, got;
    static const double factors[] = {0.6, 0.7, 1, 1.4, 1.6};
    for (int i = 0; i < 100; i++)
        router_cost_add(&pool, 1 + i % 8, 10 + i % 8);
    for (size_t k = 0; k < sizeof(factors) / sizeof(factors[0]); k++) {
        for (int n = 20; n <= 100; n += 80) { /* 20 samples weigh less than 20 */
            own = (struct router_cost){.weight = 0};
            for (int i = 0; i < n; i++)
                router_cost_add(&own, 1 + i % 8, factors[k] * (10 + i % 8));
            got = router_cost_settle(&own, &pool);
            bool clear = n == 100 && (k == 0 || k == 4);
            assert_memory_equal(&got, clear ? &own : &pool, sizeof(got));
        }
    }
}

/* Nodes that differ by noise share the work; one that is clearly slower does not count as equal. */
static void noise_does_not_place(void **state)
{
    (void)state;
    struct router_cost own[3] = {{.weight = 0}}, pool = {.weight = 0};
    uint64_t random = 9;
    for (int i = 0; i < 300; i++)
        for (int k = 0; k < 3; k++) {
            double noise = 0.8 + 0.4 * (double)(test_random(&random) % 1000) / 1000;
            double tokens = 1 + (double)(test_random(&random) % 8);
            router_cost_add(&own[k], tokens, (k == 2 ? 4 : 1) * noise * (1 + 0.1 * tokens));
        }
    for (int k = 0; k < 2; k++)
        router_cost_merge(&pool, &own[k]);
    struct router_cost a = router_cost_settle(&own[0], &pool);
    struct router_cost b = router_cost_settle(&own[1], &pool);
    struct router_cost slow = router_cost_settle(&own[2], &pool);
    assert_memory_equal(&a, &pool, sizeof(a));
    assert_memory_equal(&b, &pool, sizeof(b));
    assert_memory_equal(&slow, &own[2], sizeof(slow));
    struct router_cost unknown = {.weight = 1, .sum_x = 1, .sum_y = 500, .sum_xx = 1};
    struct router_cost guess = router_cost_settle(&unknown, &pool);
    assert_memory_equal(&guess, &pool, sizeof(guess));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules),
        cmocka_unit_test(windows),
        cmocka_unit_test(without_one_pool),
        cmocka_unit_test(sizes),
        cmocka_unit_test(longest_match_and_load),
        cmocka_unit_test(ties),
        cmocka_unit_test(avoided),
        cmocka_unit_test(fitted_costs),
        cmocka_unit_test(noise_does_not_place),
        cmocka_unit_test(parts),
        cmocka_unit_test(single_token_at_d),
        cmocka_unit_test(costs_of_little_data),
        cmocka_unit_test(merged_costs),
        cmocka_unit_test(own_cost_when_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
