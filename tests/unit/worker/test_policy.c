/* The two policies, as functions: what they put into the next step, and what they take at all. */
#include "support/support.h"

#include "decode/policy.h"
#include "prefill/policy.h"

static uint32_t share_of(const struct worker_plan *plan, uint32_t candidate)
{
    uint32_t n = 0, found = 0;
    for (uint32_t i = 0; i < plan->n_shares; i++)
        if (plan->shares[i].candidate == candidate) {
            n += plan->shares[i].n_tokens;
            found++;
        }
    assert_true(found <= 1);
    return n;
}

static void test_shortest_first(void **state)
{
    (void)state;
    const struct worker_candidate c[] = {
        {.order = 1, .remaining = 5000},
        {.order = 2, .remaining = 100},
        {.order = 3, .remaining = 300},
    };
    struct worker_plan plan = {0};
    prefill_policy.plan(c, 3, 512, &plan);
    assert_int_equal(share_of(&plan, 1), 100);
    assert_int_equal(share_of(&plan, 2), 300);
    assert_int_equal(share_of(&plan, 0), 112); /* what is left of the budget */
}

/* Waiting makes urgent: after two seconds, 8,192 tokens go before 100. */
static void test_ageing(void **state)
{
    (void)state;
    struct worker_candidate c[] = {
        {.order = 1, .remaining = 8192, .waited_us = 1900 * 1000},
        {.order = 2, .remaining = 100},
    };
    struct worker_plan plan = {0};
    prefill_policy.plan(c, 2, 64, &plan);
    assert_int_equal(share_of(&plan, 1), 64);
    c[0].waited_us = 2100 * 1000;
    prefill_policy.plan(c, 2, 64, &plan);
    assert_int_equal(share_of(&plan, 0), 64);
    assert_int_equal(plan.n_shares, 1);
}

static void test_decode_first(void **state)
{
    (void)state;
    const struct worker_candidate c[] = {
        {.order = 1, .remaining = 70},
        {.order = 2, .remaining = 1, .decoding = true},
        {.order = 3, .remaining = 10},
        {.order = 4, .remaining = 1, .decoding = true},
    };
    struct worker_plan plan = {0};
    decode_policy.plan(c, 4, 64, &plan);
    assert_int_equal(share_of(&plan, 1), 1);
    assert_int_equal(share_of(&plan, 3), 1);
    assert_int_equal(share_of(&plan, 0), 62); /* in order of admission, not the shortest */
    assert_int_equal(share_of(&plan, 2), 0);
}

/* A full batch does not keep prompts out; a budget of one token works. */
static void test_prompts_never_starve(void **state)
{
    (void)state;
    struct worker_candidate c[MODEL_SEQS_MAX];
    for (uint32_t i = 0; i < MODEL_SEQS_MAX; i++)
        c[i] = (struct worker_candidate){.order = i, .remaining = 1, .decoding = true};
    c[255] = (struct worker_candidate){.order = 255, .remaining = 4000};
    struct worker_plan plan = {0};
    decode_policy.plan(c, MODEL_SEQS_MAX, 128, &plan);
    assert_int_equal(plan.n_shares, 256);
    assert_int_equal(share_of(&plan, 255), 16);
    decode_policy.plan(c, MODEL_SEQS_MAX, 1, &plan);
    assert_int_equal(plan.n_shares, 256);
    assert_int_equal(share_of(&plan, 255), 1);
}

/* For any candidates: every decoding one is in, chunks stay within budget and need, and something
 * is always computed. */
static void check_plan(const struct worker_policy *policy, uint64_t *random)
{
    struct worker_candidate c[MODEL_SEQS_MAX];
    uint32_t n = 1 + (uint32_t)(test_random(random) % MODEL_SEQS_MAX);
    uint32_t chunk = 1 + (uint32_t)(test_random(random) % 600);
    uint32_t n_decoding = 0, n_chunk = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool decoding = test_random(random) % 2 == 0;
        c[i] = (struct worker_candidate){.order = i,
                                         .waited_us = test_random(random) % 5000000,
                                         .remaining = 1 + (uint32_t)(test_random(random) % 900),
                                         .decoding = decoding};
        if (decoding)
            c[i].remaining = 1;
        n_decoding += decoding;
    }
    struct worker_plan plan = {0};
    policy->plan(c, n, chunk, &plan);
    assert_true(plan.n_shares >= 1 && plan.n_shares <= n);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t share = share_of(&plan, i);
        assert_true(share <= c[i].remaining);
        if (c[i].decoding)
            assert_int_equal(share, 1);
        else
            n_chunk += share;
    }
    assert_true(n_chunk <= chunk);
    assert_true(n_chunk > 0 || n_decoding == n);
    assert_true(n_chunk + n_decoding <= chunk + n);
}

static void test_any_candidates(void **state)
{
    (void)state;
    uint64_t random = 3;
    for (uint32_t i = 0; i < 300; i++) {
        check_plan(&prefill_policy, &random);
        check_plan(&decode_policy, &random);
    }
}

static void test_modes(void **state)
{
    (void)state;
    assert_true(prefill_policy.takes(SLUICE__MODE__MODE_PREFILL));
    assert_true(prefill_policy.takes(SLUICE__MODE__MODE_LOCAL));
    assert_false(prefill_policy.takes(SLUICE__MODE__MODE_DECODE));
    assert_true(decode_policy.takes(SLUICE__MODE__MODE_DECODE));
    assert_true(decode_policy.takes(SLUICE__MODE__MODE_LOCAL));
    assert_false(decode_policy.takes(SLUICE__MODE__MODE_PREFILL));
    assert_false(decode_policy.takes(SLUICE__MODE__MODE_NONE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shortest_first), cmocka_unit_test(test_ageing),
        cmocka_unit_test(test_decode_first),   cmocka_unit_test(test_prompts_never_starve),
        cmocka_unit_test(test_any_candidates), cmocka_unit_test(test_modes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
