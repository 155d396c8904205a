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
    decode_policy.plan(c, MODEL_SEQS_MAX, 260, &plan); /* 5 would be left */
    assert_int_equal(share_of(&plan, 255), 16);
    decode_policy.plan(c, MODEL_SEQS_MAX, 1, &plan);
    assert_int_equal(plan.n_shares, 256);
    assert_int_equal(share_of(&plan, 255), 1);
}

/* The more urgent goes first, though it is longer, later and has waited less. */
static void test_priority(void **state)
{
    (void)state;
    const struct worker_candidate c[] = {
        {.order = 1, .remaining = 50, .waited_us = 9000 * 1000},
        {.priority = -1, .order = 2, .remaining = 60},
        {.priority = 1, .order = 0, .remaining = 5},
    };
    static const struct worker_policy *const policies[] = {&prefill_policy, &decode_policy};
    for (size_t i = 0; i < 2; i++) {
        struct worker_plan plan = {0};
        policies[i]->plan(c, 3, 64, &plan);
        assert_int_equal(share_of(&plan, 1), 60);
        assert_int_equal(share_of(&plan, 0), 4);
    }
}

/* ---- the line ---- */

#define LINE_POOL 100u
#define LINE_WAIT 400u /* ms that one may wait: overtaken for 100 */
#define LINE_HOLD 50u  /* longest life, ms */

struct waiter {
    uint32_t need, hold, arrived, admitted, ends;
    bool in, served;
};

struct queue {
    struct waiter w[4000]; /* by arrival */
    uint32_t n, first;     /* [first, n) may wait */
    uint32_t free;
};

static void take(struct queue *queue, struct waiter *w, uint32_t now)
{
    w->served = true;
    w->admitted = now;
    w->ends = now + w->hold;
    queue->free -= w->need;
}

/* As the worker goes through its line. */
static uint32_t pass(struct queue *queue, uint32_t now)
{
    struct worker_line line = {0};
    uint32_t overtakes = 0;
    for (uint32_t i = queue->first; i < queue->n; i++) {
        struct waiter *w = &queue->w[i];
        if (w->served)
            continue;
        if (w->need <= queue->free) {
            overtakes += line.n_missed > 0;
            take(queue, w, now);
        } else if (!worker_line_passes(&line, (now - w->arrived) * 1000ull, LINE_WAIT * 1000ull)) {
            break;
        }
    }
    return overtakes;
}

/* Whether w may be admitted, said without a loop that remembers: it fits, and of those before it none
 * has waited too long, nor are they too many. */
static bool admissible(const struct queue *queue, uint32_t index, uint32_t now)
{
    uint32_t before = 0;
    for (uint32_t i = queue->first; i < index; i++) {
        before += !queue->w[i].served;
        if (!queue->w[i].served && now - queue->w[i].arrived >= LINE_WAIT / 4)
            return false;
    }
    return queue->w[index].need <= queue->free && before < 32;
}

static void naive_pass(struct queue *queue, uint32_t now)
{
    for (bool some = true; some;) {
        some = false;
        for (uint32_t i = queue->first; i < queue->n && !some; i++)
            if (!queue->w[i].served && admissible(queue, i, now)) {
                take(queue, &queue->w[i], now);
                some = true;
            }
    }
}

static void release(struct queue *queue, uint32_t now)
{
    for (uint32_t i = queue->first; i < queue->n; i++)
        if (queue->w[i].served && !queue->w[i].in && queue->w[i].ends <= now) {
            queue->w[i].in = true;
            queue->free += queue->w[i].need;
        }
    while (queue->first < queue->n && queue->w[queue->first].in)
        queue->first++;
}

/* A long line costs no step more than a short one. */
static void test_a_long_line(void **state)
{
    (void)state;
    struct worker_line line = {0};
    for (uint32_t i = 1; i < 32; i++)
        assert_true(worker_line_passes(&line, 0, 1000));
    assert_false(worker_line_passes(&line, 0, 1000));
    line = (struct worker_line){0};
    assert_true(worker_line_passes(&line, 249, 1000));
    assert_false(worker_line_passes(&line, 250, 1000));
    assert_false(worker_line_passes(&line, 0, 0)); /* one that was preempted */
}

/* Small ones come faster than they go, and now and then one that wants the whole pool. */
static void test_the_line(void **state)
{
    (void)state;
    static struct queue fast, naive;
    uint64_t random = 5;
    uint32_t overtakes = 0, n_large = 0, worst = 0;
    fast.free = naive.free = LINE_POOL;
    for (uint32_t now = 0; now < 4000 || fast.first < fast.n; now++) {
        for (uint32_t k = 0; now < 4000 && k < 2 && test_random(&random) % 4 == 0; k++) {
            uint32_t need = 1 + (uint32_t)(test_random(&random) % 20);
            if (test_random(&random) % 60 == 0)
                need = LINE_POOL - (uint32_t)(test_random(&random) % 5);
            fast.w[fast.n++] = (struct waiter){
                .need = need,
                .hold = 1 + (uint32_t)(test_random(&random) % LINE_HOLD),
                .arrived = now,
            };
            naive.w[naive.n] = fast.w[naive.n];
            naive.n++;
            assert_in_range(fast.n, 0, sizeof(fast.w) / sizeof(fast.w[0]));
        }
        release(&fast, now);
        release(&naive, now);
        overtakes += pass(&fast, now);
        naive_pass(&naive, now);
        assert_true(now < 100000); /* it ends */
    }
    assert_int_equal(fast.free, LINE_POOL);
    for (uint32_t i = 0; i < fast.n; i++) {
        assert_int_equal(fast.w[i].admitted, naive.w[i].admitted);
        uint32_t waited = fast.w[i].admitted - fast.w[i].arrived;
        n_large += fast.w[i].need > 90;
        worst = fast.w[i].need > 90 && waited > worst ? waited : worst;
    }
    assert_true(overtakes > 50);
    assert_true(n_large > 5);
    /* Alone of its kind it waits until the pool has emptied; some of them follow each other here. */
    assert_in_range(worst, 1, LINE_WAIT / 4 + 8 * LINE_HOLD);
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
        cmocka_unit_test(test_priority),       cmocka_unit_test(test_the_line),
        cmocka_unit_test(test_a_long_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
