/* Placements: the accept rule, and what follows from each failure of the transfer protocol's crash
 * matrix; then random histories, in which indices must come out 0, 1, 2, … whatever happens. */
#include "coordinator/flow.h"

#include "support/support.h"

#define P    0x101u
#define D    0x202u
#define E    0x303u
#define LOST SLUICE__REASON__REASON_LOST
#define FULL SLUICE__REASON__REASON_FULL

static struct flow pair(void)
{
    struct flow flow = {.mode = FLOW_UNPLACED};
    assert_int_equal(flow_place(&flow, FLOW_PAIR, P, D), 1);
    return flow;
}

static enum flow_step token(struct flow *flow, flow_node node, uint32_t attempt, uint32_t index)
{
    uint32_t skip;
    return flow_tokens(flow, node, attempt, index, 1, &skip);
}

static void accept_rule(void **state)
{
    (void)state;
    struct flow flow = pair();
    uint32_t skip = 99;
    assert_int_equal(flow_tokens(&flow, P, 1, 0, 1, &skip), FLOW_ACCEPT);
    assert_int_equal(skip, 0);
    /* D repeats token 0, alone and together with the next. */
    assert_int_equal(token(&flow, D, 1, 0), FLOW_NOTHING);
    assert_true(flow.d_started);
    assert_int_equal(flow_tokens(&flow, D, 1, 0, 3, &skip), FLOW_ACCEPT);
    assert_int_equal(skip, 1);
    assert_int_equal(flow.next_index, 3);
    /* Of another attempt, or of a node that is not in it. */
    assert_int_equal(token(&flow, D, 2, 3), FLOW_STALE);
    assert_int_equal(token(&flow, D, 0, 3), FLOW_STALE);
    assert_int_equal(token(&flow, E, 1, 3), FLOW_STALE);
    assert_int_equal(flow.next_index, 3);
    /* A gap. */
    assert_int_equal(token(&flow, D, 1, 4), FLOW_RETRY);
    assert_int_equal(flow.next_index, 3);
    assert_int_equal(flow.failures, 1);
}

static void after_unplace_all_is_stale(void **state)
{
    (void)state;
    struct flow flow = pair();
    flow_unplace(&flow);
    assert_int_equal(token(&flow, D, 1, 0), FLOW_STALE);
    assert_int_equal(flow_admit(&flow, D, 1), FLOW_STALE);
    assert_int_equal(flow_stream_failed(&flow, P, 1, LOST, true, true), FLOW_NOTHING);
    assert_int_equal(flow_node_lost(&flow, D), FLOW_NOTHING);
    assert_int_equal(flow_place(&flow, FLOW_LOCAL, 0, D), 2);
    assert_int_equal(token(&flow, D, 1, 0), FLOW_STALE);
    assert_int_equal(token(&flow, D, 2, 0), FLOW_ACCEPT);
}

static void only_d_admits(void **state)
{
    (void)state;
    struct flow flow = pair();
    assert_int_equal(flow_admit(&flow, P, 1), FLOW_NOTHING);
    assert_int_equal(flow_admit(&flow, D, 1), FLOW_ADMITTED);
    assert_int_equal(flow_admit(&flow, D, 1), FLOW_NOTHING);
    struct flow single = {.mode = FLOW_UNPLACED};
    flow_place(&single, FLOW_SINGLE, P, 0);
    assert_int_equal(flow_admit(&single, P, 1), FLOW_ADMITTED);
}

static void prefill_dies(void **state)
{
    (void)state;
    struct flow flow = pair(); /* before anything */
    assert_int_equal(flow_node_lost(&flow, P), FLOW_RETRY);
    assert_true(flow_avoids(&flow, P));
    flow = pair(); /* token 0 has come, D has not started */
    token(&flow, P, 1, 0);
    assert_int_equal(flow_node_lost(&flow, P), FLOW_RETRY);
    flow = pair(); /* D runs */
    token(&flow, P, 1, 0);
    token(&flow, D, 1, 0);
    assert_int_equal(flow_node_lost(&flow, P), FLOW_NOTHING);
    assert_int_equal(token(&flow, D, 1, 1), FLOW_ACCEPT);
    flow = pair(); /* it had sent everything */
    token(&flow, P, 1, 0);
    flow_finished(&flow, P, 1, SLUICE__FINISH__FINISH_SENT, SLUICE__REASON__REASON_NONE);
    assert_int_equal(flow_node_lost(&flow, P), FLOW_NOTHING);
}

static void decode_dies(void **state)
{
    (void)state;
    struct flow flow = pair(); /* P still holds: redirect */
    assert_int_equal(flow_node_lost(&flow, D), FLOW_REDIRECT);
    assert_int_equal(flow_redirect(&flow, E), 2);
    assert_int_equal(token(&flow, D, 1, 0), FLOW_STALE);
    assert_int_equal(token(&flow, P, 2, 0), FLOW_ACCEPT); /* its token again, or first */
    assert_int_equal(token(&flow, E, 2, 0), FLOW_NOTHING);
    assert_int_equal(token(&flow, E, 2, 1), FLOW_ACCEPT);
    assert_int_equal(flow_node_lost(&flow, E), FLOW_RETRY); /* started: resume */
    flow = pair();                                          /* P does not hold any more */
    flow_finished(&flow, P, 1, SLUICE__FINISH__FINISH_SENT, SLUICE__REASON__REASON_NONE);
    assert_int_equal(flow_node_lost(&flow, D), FLOW_RETRY);
    flow = pair(); /* both */
    flow_node_lost(&flow, P);
    assert_int_equal(flow_node_lost(&flow, D), FLOW_RETRY);
}

static void streams_fail(void **state)
{
    (void)state;
    struct flow flow = pair();
    assert_int_equal(flow_stream_failed(&flow, P, 1, LOST, true, true), FLOW_REDIRECT);
    flow_redirect(&flow, E);
    assert_int_equal(flow_stream_failed(&flow, P, 1, LOST, true, true), FLOW_NOTHING); /* old */
    assert_int_equal(flow_stream_failed(&flow, P, 2, LOST, true, true), FLOW_REDIRECT);
    flow_redirect(&flow, D);
    /* Two in a row are enough. */
    assert_int_equal(flow_stream_failed(&flow, P, 3, LOST, true, true), FLOW_RETRY);
    flow = pair();
    assert_int_equal(flow_stream_failed(&flow, P, 1, LOST, false, true), FLOW_RETRY);
    flow = pair();
    assert_int_equal(flow_stream_failed(&flow, P, 1, FULL, true, true), FLOW_FULL);
    flow = pair(); /* D says so first */
    assert_int_equal(flow_stream_failed(&flow, D, 1, LOST, false, false), FLOW_REDIRECT);
    flow = pair(); /* D runs: P may let go */
    token(&flow, D, 1, 0);
    assert_int_equal(flow_stream_failed(&flow, P, 1, LOST, true, true), FLOW_RELEASE);
    assert_int_equal(flow_stream_failed(&flow, P, 1, LOST, false, true), FLOW_NOTHING);
}

static void refusals(void **state)
{
    (void)state;
    struct flow flow = pair();
    assert_int_equal(flow_refused(&flow, D, 1, FULL), FLOW_FULL);
    assert_int_equal(flow.failures, 0);
    assert_int_equal(flow_refused(&flow, P, 1, FULL), FLOW_RETRY);
    assert_int_equal(flow.failures, 0);
    assert_true(flow_avoids(&flow, P));
    assert_int_equal(flow_refused(&flow, D, 1, SLUICE__REASON__REASON_TOO_LARGE), FLOW_REFUSE);
    assert_int_equal(flow_refused(&flow, P, 1, SLUICE__REASON__REASON_INVALID), FLOW_REFUSE);
    assert_int_equal(flow_refused(&flow, D, 1, SLUICE__REASON__REASON_DRAINING), FLOW_REDIRECT);
    assert_int_equal(flow.failures, 0);
    assert_int_equal(flow_refused(&flow, P, 1, SLUICE__REASON__REASON_INTERNAL), FLOW_RETRY);
    assert_int_equal(flow.failures, 1);
    assert_int_equal(flow_refused(&flow, D, 1, SLUICE__REASON__REASON_INTERNAL), FLOW_REDIRECT);
    assert_int_equal(flow.failures, 2);
    assert_int_equal(flow_refused(&flow, P, 1, SLUICE__REASON__REASON_PREEMPTED), FLOW_RETRY);
    assert_int_equal(flow.failures, 2);
    flow_node_lost(&flow, P);
    assert_int_equal(flow_refused(&flow, D, 1, SLUICE__REASON__REASON_DRAINING), FLOW_RETRY);
    assert_int_equal(flow_refused(&flow, D, 7, FULL), FLOW_NOTHING);
}

static void four_failures_are_the_end(void **state)
{
    (void)state;
    struct flow flow = {.mode = FLOW_UNPLACED};
    for (uint32_t i = 0; i < FLOW_FAILURES_MAX; i++) {
        assert_true(flow_may_retry(&flow));
        flow_place(&flow, FLOW_LOCAL, 0, D + i);
        assert_int_equal(flow_node_lost(&flow, D + i), FLOW_RETRY);
        flow_unplace(&flow);
    }
    assert_false(flow_may_retry(&flow));
}

static void a_placement_begins_anew(void **state)
{
    (void)state;
    struct flow flow = pair();
    flow_admit(&flow, D, 1);
    token(&flow, D, 1, 0);
    flow_unplace(&flow);
    assert_false(flow.admitted || flow.d_started || flow.p_holds);
    assert_true(flow.p == 0 && flow.d == 0);
    assert_int_equal(flow_place(&flow, FLOW_LOCAL, 0, D), 2);
    assert_false(flow.admitted || flow.d_started || flow.p_holds);
    assert_false(flow_can_redirect(&flow)); /* there is no P that holds */
    assert_int_equal(flow_admit(&flow, D, 2), FLOW_ADMITTED);
    flow = pair();
    flow_admit(&flow, D, 1);
    assert_true(flow_can_redirect(&flow));
    flow_redirect(&flow, E);
    assert_false(flow.admitted || flow.d_started);
    assert_int_equal(flow_admit(&flow, D, 2), FLOW_STALE);
    assert_int_equal(flow_admit(&flow, E, 2), FLOW_ADMITTED);
    assert_int_equal(flow.redirects, 1);
    flow_unplace(&flow); /* a full placement counts redirects from the start */
    flow_place(&flow, FLOW_PAIR, P, D);
    assert_int_equal(flow.redirects, 0);
}

static void avoided_nodes(void **state)
{
    (void)state;
    struct flow flow = {.mode = FLOW_UNPLACED};
    flow_avoid(&flow, 0); /* nobody */
    assert_int_equal(flow.n_avoid, 0);
    assert_false(flow_avoids(&flow, P));
    for (flow_node node = 1; node <= FLOW_AVOID_MAX; node++) {
        flow_avoid(&flow, node);
        flow_avoid(&flow, node); /* known already */
    }
    assert_int_equal(flow.n_avoid, FLOW_AVOID_MAX);
    assert_true(flow_avoids(&flow, 1));
    flow_avoid(&flow, 100); /* the oldest makes room */
    assert_int_equal(flow.n_avoid, FLOW_AVOID_MAX);
    assert_false(flow_avoids(&flow, 1));
    for (flow_node node = 2; node <= FLOW_AVOID_MAX; node++)
        assert_true(flow_avoids(&flow, node));
    assert_true(flow_avoids(&flow, 100));
}

/* Who is to blame, and what counts as a failure. */
static void blame(void **state)
{
    (void)state;
    struct flow flow = pair();
    flow_stream_failed(&flow, P, 1, LOST, true, true); /* P holds: it was D */
    assert_true(flow_avoids(&flow, D) && !flow_avoids(&flow, P));
    assert_int_equal(flow.failures, 1);
    flow = pair();
    flow_stream_failed(&flow, P, 1, LOST, false, true); /* P lost the blocks: it was P */
    assert_true(flow_avoids(&flow, P) && !flow_avoids(&flow, D));
    assert_int_equal(flow.failures, 1);
    flow = pair();
    flow_node_lost(&flow, D);
    flow_redirect(&flow, E);
    flow_node_lost(&flow, E);
    flow_redirect(&flow, D);
    assert_false(flow_avoids(&flow, P));
    assert_int_equal(flow_node_lost(&flow, D), FLOW_RETRY);
    assert_true(flow_avoids(&flow, P)); /* three destinations: P may be the one */
    assert_true(flow_avoids(&flow, D) && flow_avoids(&flow, E));
    assert_int_equal(flow.failures, 3);
    flow = pair();
    token(&flow, D, 1, 7); /* a gap is nobody's fault, but it counts */
    assert_int_equal(flow.n_avoid, 0);
    assert_int_equal(flow.failures, 1);
    flow = pair();
    token(&flow, D, 1, 0);
    assert_int_equal(flow_stream_failed(&flow, D, 1, LOST, false, false), FLOW_RETRY);
    assert_true(flow_avoids(&flow, D));
    assert_int_equal(flow.failures, 1);
    flow = pair();
    assert_int_equal(flow_stream_failed(&flow, D, 1, FULL, false, false), FLOW_FULL);
    assert_int_equal(flow.failures, 0);
    flow = pair(); /* D's word that it was the source does not make it P */
    assert_int_equal(flow_stream_failed(&flow, D, 1, LOST, false, true), FLOW_REDIRECT);
    assert_true(flow_avoids(&flow, D) && flow.p_holds);
    flow = pair(); /* no room at one that has started is its failure */
    token(&flow, D, 1, 0);
    assert_int_equal(flow_stream_failed(&flow, D, 1, FULL, false, false), FLOW_RETRY);
    assert_int_equal(flow.failures, 1);
    flow = pair(); /* no tokens are no start */
    uint32_t skip;
    assert_int_equal(flow_tokens(&flow, D, 1, 0, 0, &skip), FLOW_NOTHING);
    assert_true(flow_can_redirect(&flow));
    assert_int_equal(flow_refused(&flow, D, 1, SLUICE__REASON__REASON_DRAINING), FLOW_REDIRECT);
    assert_true(flow_avoids(&flow, D));
    struct flow local = {.mode = FLOW_UNPLACED};
    flow_place(&local, FLOW_LOCAL, 0, D);
    assert_int_equal(flow_stream_failed(&local, D, 1, LOST, false, false), FLOW_NOTHING);
}

static void ends(void **state)
{
    (void)state;
    const Sluice__Finish error = SLUICE__FINISH__FINISH_ERROR;
    struct flow flow = pair();
    assert_int_equal(flow_finished(&flow, E, 1, error, LOST), FLOW_NOTHING);
    assert_int_equal(flow_finished(&flow, D, 2, error, LOST), FLOW_NOTHING);
    assert_int_equal(flow_finished(&flow, D, 1, error, FULL), FLOW_FULL);
    assert_int_equal(flow_finished(&flow, D, 1, error, SLUICE__REASON__REASON_TOO_LARGE),
                     FLOW_REFUSE);
    assert_int_equal(flow.failures, 0);
    assert_int_equal(flow_finished(&flow, D, 1, error, SLUICE__REASON__REASON_PREEMPTED),
                     FLOW_RETRY);
    assert_int_equal(flow_finished(&flow, D, 1, error, SLUICE__REASON__REASON_DRAINING),
                     FLOW_RETRY);
    assert_int_equal(flow.failures, 0);
    assert_int_equal(flow_finished(&flow, P, 1, error, FULL), FLOW_RETRY); /* P waits for nobody */
    assert_int_equal(flow.failures, 1);
    assert_true(flow_avoids(&flow, P));
    /* Only P can have sent; of D the word would be an end with tokens missing. */
    assert_int_equal(
        flow_finished(&flow, D, 1, SLUICE__FINISH__FINISH_SENT, SLUICE__REASON__REASON_NONE),
        FLOW_RETRY);
    flow = pair();
    token(&flow, D, 1, 0);
    assert_int_equal(flow_finished(&flow, P, 1, error, LOST), FLOW_NOTHING);
    assert_int_equal(flow.failures, 0);
    assert_int_equal(flow_finished(&flow, D, 1, error, LOST), FLOW_RETRY);
    assert_int_equal(flow.failures, 1);
    struct flow single = {.mode = FLOW_UNPLACED};
    flow_place(&single, FLOW_SINGLE, P, 0);
    assert_int_equal(flow_admit(&single, D, 1), FLOW_STALE);
    assert_int_equal(flow_finished(&single, P, 1, error, FULL), FLOW_FULL);
    assert_int_equal(flow_refused(&single, P, 1, FULL), FLOW_FULL);
    assert_true(flow_avoids(&single, P));
    assert_int_equal(flow_finished(&single, P, 1, error, LOST), FLOW_RETRY);
    assert_int_equal(flow_node_lost(&single, 0), FLOW_NOTHING);
    assert_int_equal(flow_node_lost(&single, P), FLOW_RETRY);
}

/* Nodes of random histories generate the one right sequence; whatever is lost, refused or late, what
 * is accepted must be that sequence. */
static void random_histories(void **state)
{
    (void)state;
    uint64_t random = 42;
    for (int run = 0; run < 3000; run++) {
        struct flow flow = {.mode = FLOW_UNPLACED};
        uint32_t accepted = 0;
        uint32_t sent[64] = {0}; /* next index that an attempt's nodes send */
        for (int step = 0; step < 60 && flow_may_retry(&flow) && flow.attempt < 60; step++) {
            if (flow.mode == FLOW_UNPLACED) {
                bool local = test_random(&random) % 3 == 0;
                flow_place(&flow, local ? FLOW_LOCAL : FLOW_PAIR, local ? 0 : P, D);
                sent[flow.attempt] = accepted;
                continue;
            }
            uint64_t dice = test_random(&random) % 10;
            uint32_t attempt = test_random(&random) % 4 == 0
                                   ? (uint32_t)(test_random(&random) % (flow.attempt + 1))
                                   : flow.attempt;
            flow_node node = test_random(&random) % 2 == 0 ? P : D;
            enum flow_step result = FLOW_NOTHING;
            if (dice < 6) {
                uint32_t n = 1 + (uint32_t)(test_random(&random) % 3), skip = 0;
                uint32_t first = sent[attempt];
                first -= first > 0 && test_random(&random) % 3 == 0 ? 1 : 0;
                result = flow_tokens(&flow, node, attempt, first, n, &skip);
                if (result == FLOW_ACCEPT) {
                    assert_int_equal(attempt, flow.attempt);
                    assert_int_equal(first + skip, accepted);
                    accepted = first + n;
                }
                if (attempt == flow.attempt && first + n > sent[attempt])
                    sent[attempt] = first + n;
            } else if (dice == 6) {
                result = flow_node_lost(&flow, node);
            } else if (dice == 7) {
                result = flow_stream_failed(&flow, node, attempt, LOST,
                                            test_random(&random) % 2 == 0, node == P);
            } else {
                result = flow_refused(&flow, node, attempt, FULL);
            }
            assert_int_equal(flow.next_index, accepted);
            if (result == FLOW_REDIRECT) {
                uint32_t old = flow.attempt;
                assert_true(flow.p == P && !flow.d_started);
                flow_redirect(&flow, D);
                assert_int_equal(flow.attempt, old + 1);
                sent[flow.attempt] = 0;
            } else if (result == FLOW_RETRY || result == FLOW_FULL) {
                flow_unplace(&flow);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accept_rule),
        cmocka_unit_test(after_unplace_all_is_stale),
        cmocka_unit_test(only_d_admits),
        cmocka_unit_test(prefill_dies),
        cmocka_unit_test(decode_dies),
        cmocka_unit_test(streams_fail),
        cmocka_unit_test(refusals),
        cmocka_unit_test(four_failures_are_the_end),
        cmocka_unit_test(a_placement_begins_anew),
        cmocka_unit_test(avoided_nodes),
        cmocka_unit_test(blame),
        cmocka_unit_test(ends),
        cmocka_unit_test(random_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
