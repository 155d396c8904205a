/* The router: each rule and each tie, and that it is a function. */
#include "coordinator/router.h"

#include "support/support.h"

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
    struct router_cost flat = {.weight = 0};
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
        cmocka_unit_test(rules),        cmocka_unit_test(without_one_pool),
        cmocka_unit_test(sizes),        cmocka_unit_test(longest_match_and_load),
        cmocka_unit_test(ties),         cmocka_unit_test(avoided),
        cmocka_unit_test(fitted_costs), cmocka_unit_test(noise_does_not_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
