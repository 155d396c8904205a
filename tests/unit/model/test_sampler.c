/* The sampler against a naive model that sorts everything in f64, and its frequencies by chi-square. */
#include "base/fault.h"
#include "base/mem.h"
#include "model/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VOCAB_MAX 5000

static uint64_t random_state = 1;

static uint64_t next_random(void)
{
    random_state += 0x9e3779b97f4a7c15u;
    uint64_t x = random_state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static double next_uniform(void)
{
    return (double)(next_random() >> 11) * 0x1p-53;
}

/* Logits of about N(0, spread), rounded so that many tie. */
static void make_logits(float *logits, uint32_t n, double spread, double step)
{
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (int j = 0; j < 12; j++)
            sum += next_uniform();
        logits[i] = (float)((sum - 6) * spread);
        if (step > 0)
            logits[i] = (float)(round((double)logits[i] / step) * step);
    }
}

/* ---- the naive model ---- */

struct entry {
    uint32_t id;
    double logit, weight;
};

static int by_rank(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* The kept tokens' probabilities by id (0: not kept). Returns how near a decision was to its limit,
 * relative: below 1e-5 single precision may decide otherwise. */
static double naive_kept(const float *logits, uint32_t n, const struct model_sampling *sampling,
                         double *probabilities)
{
    static struct entry entries[VOCAB_MAX];
    double nearest = 1;
    for (uint32_t i = 0; i < n; i++)
        entries[i] = (struct entry){.id = i, .logit = (double)logits[i]};
    qsort(entries, n, sizeof(entries[0]), by_rank);
    for (uint32_t i = 0; i < n; i++)
        entries[i].weight =
            exp((entries[i].logit - entries[0].logit) / (double)sampling->temperature);
    uint32_t n_kept = sampling->top_k > 0 && sampling->top_k < n ? sampling->top_k : n;
    if (sampling->top_p < 1) {
        double total = 0, sum = 0;
        for (uint32_t i = 0; i < n_kept; i++)
            total += entries[i].weight;
        double limit = (double)sampling->top_p * total;
        uint32_t i = 0;
        for (; i < n_kept; i++) {
            sum += entries[i].weight;
            nearest = fmin(nearest, fabs(sum - limit) / total);
            if (sum >= limit)
                break;
        }
        n_kept = i < n_kept ? i + 1 : n_kept;
    }
    if (sampling->min_p > 0)
        for (uint32_t i = 0; i < n_kept; i++) {
            nearest = fmin(nearest, fabs(entries[i].weight / (double)sampling->min_p - 1));
            if (entries[i].weight < (double)sampling->min_p) {
                n_kept = i;
                break;
            }
        }
    double total = 0;
    memset(probabilities, 0, n * sizeof(*probabilities));
    for (uint32_t i = 0; i < n_kept; i++)
        total += entries[i].weight;
    for (uint32_t i = 0; i < n_kept; i++)
        probabilities[entries[i].id] = entries[i].weight / total;
    return nearest;
}

static struct model_token sample(struct model_sampler *sampler, const float *logits,
                                 const struct model_sampling *sampling, uint32_t position)
{
    struct model_token token;
    if (model_sample(sampler, logits, sampling, position, &token) != SL_OK)
        fail_msg("%s", sl_error());
    return token;
}

/* ---- tests ---- */

/* Of few tokens every one that is kept comes, sooner or later: nothing is dropped that should not be. */
static void check_all_seen(struct model_sampler *sampler, const float *logits, uint32_t n,
                           const struct model_sampling *sampling, const double *probabilities)
{
    uint32_t seen[8] = {0};
    for (uint32_t position = 0; position < 400; position++)
        seen[sample(sampler, logits, sampling, position).id]++;
    for (uint32_t i = 0; i < n; i++)
        assert_true(probabilities[i] < 0.05 || seen[i] > 0);
}

static void test_kept_set(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX];
    static double probabilities[VOCAB_MAX];
    const uint32_t vocabs[] = {1, 2, 7, 300, 2048, 5000};
    const uint32_t ks[] = {0, 1, 2, 5, 40, 1000, 100000};
    const float ps[] = {1, 0.999f, 0.9f, 0.5f, 0.1f, 1e-6f};
    const float mins[] = {0, 0, 0.01f, 0.2f, 1};
    const float temperatures[] = {1, 0.7f, 0.05f, 3};
    uint32_t n_checked = 0, n_near = 0;
    for (uint32_t round = 0; round < 600; round++) {
        uint32_t n = vocabs[next_random() % 6];
        struct model_sampler *sampler;
        assert_int_equal(model_sampler_create(n, &sampler), SL_OK);
        make_logits(logits, n, 3, next_random() % 2 ? 0.5 : 0);
        struct model_sampling sampling = {
            .temperature = temperatures[next_random() % 4],
            .top_k = ks[next_random() % 7],
            .top_p = ps[next_random() % 6],
            .min_p = mins[next_random() % 5],
            .seed = next_random(),
            .n_logprobs = -1,
        };
        if (naive_kept(logits, n, &sampling, probabilities) < 1e-5) {
            n_near++;
        } else {
            for (uint32_t position = 0; position < 60; position++, n_checked++)
                assert_true(probabilities[sample(sampler, logits, &sampling, position).id] > 0);
            if (n <= 8)
                check_all_seen(sampler, logits, n, &sampling, probabilities);
        }
        model_sampler_destroy(sampler);
    }
    assert_true(n_checked > 10000 && n_near < 300);
}

/* Quantile of chi-square at z standard deviations (Wilson and Hilferty 1931). */
static double chi_square_limit(double freedom, double z)
{
    double t = 1 - 2 / (9 * freedom) + z * sqrt(2 / (9 * freedom));
    return freedom * t * t * t;
}

static void check_frequencies(const struct model_sampling *base, uint32_t n_samples)
{
    static float logits[VOCAB_MAX];
    static double probabilities[VOCAB_MAX];
    static uint32_t counts[VOCAB_MAX];
    const uint32_t n = 50;
    struct model_sampler *sampler;
    struct model_sampling sampling = *base;
    assert_int_equal(model_sampler_create(n, &sampler), SL_OK);
    make_logits(logits, n, 1.5, 0);
    (void)naive_kept(logits, n, &sampling, probabilities);
    memset(counts, 0, sizeof(counts));
    for (uint32_t i = 0; i < n_samples; i++) {
        /* Along positions of one seed and along seeds of one position alike. */
        sampling.seed = i % 2 ? 42 : i;
        counts[sample(sampler, logits, &sampling, i % 2 ? i : 7).id]++;
    }
    double sum = 0, rest = 0, rest_count = 0;
    uint32_t n_cells = 0;
    for (uint32_t i = 0; i < n; i++) {
        double expected = probabilities[i] * n_samples;
        if (expected == 0)
            assert_int_equal(counts[i], 0);
        if (expected < 10) {
            rest += expected;
            rest_count += counts[i];
            continue;
        }
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
        n_cells++;
    }
    if (rest > 5) {
        sum += (rest_count - rest) * (rest_count - rest) / rest;
        n_cells++;
    }
    assert_true(n_cells >= 3);
    assert_true(sum < chi_square_limit(n_cells - 1, 4));
    assert_true(sum > chi_square_limit(n_cells - 1, -4));
    model_sampler_destroy(sampler);
}

static void test_frequencies(void **state)
{
    (void)state;
    const struct model_sampling cases[] = {
        {.temperature = 1, .top_p = 1, .n_logprobs = -1},
        {.temperature = 0.6f, .top_p = 1, .n_logprobs = -1},
        {.temperature = 2, .top_p = 1, .top_k = 20, .n_logprobs = -1},
        {.temperature = 1, .top_p = 0.9f, .n_logprobs = -1},
        {.temperature = 1, .top_p = 0.95f, .top_k = 30, .min_p = 0.05f, .n_logprobs = -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_frequencies(&cases[i], 40000);
}

static void test_greedy(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX];
    struct model_sampler *sampler;
    assert_int_equal(model_sampler_create(1000, &sampler), SL_OK);
    const struct model_sampling greedy = {.top_p = 1, .n_logprobs = -1};
    for (uint32_t round = 0; round < 50; round++) {
        make_logits(logits, 1000, 2, 1); /* a handful of values: the largest ties */
        uint32_t best = 0;
        for (uint32_t i = 1; i < 1000; i++)
            best = logits[i] > logits[best] ? i : best;
        assert_int_equal(sample(sampler, logits, &greedy, round).id, best);
    }
    logits[17] = -0.0f;
    for (uint32_t i = 0; i < 1000; i++)
        logits[i] = i == 17 ? -0.0f : i == 18 ? 0.0f : -1;
    assert_int_equal(sample(sampler, logits, &greedy, 0).id, 17);
    const struct model_sampling first = {
        .temperature = 1, .top_k = 1, .top_p = 1, .n_logprobs = -1};
    assert_int_equal(sample(sampler, logits, &first, 0).id, 17); /* -0 and 0 tie here as well */
    model_sampler_destroy(sampler);
}

/* Among equals the lower ids are the ones that are kept. */
static void test_ties(void **state)
{
    (void)state;
    float logits[8] = {1, 3, 2, 3, 2, 3, 2, 0};
    struct model_sampler *sampler;
    assert_int_equal(model_sampler_create(8, &sampler), SL_OK);
    struct model_sampling sampling = {.temperature = 1, .top_k = 4, .top_p = 1, .n_logprobs = -1};
    uint32_t seen = 0;
    for (uint32_t i = 0; i < 300; i++)
        seen |= 1u << sample(sampler, logits, &sampling, i).id;
    assert_int_equal(seen, 1u << 1 | 1u << 3 | 1u << 5 | 1u << 2);
    sampling.top_k = 0;
    sampling.top_p = 0.4f; /* each 3 has 0.25 of the weight or so: two of them */
    seen = 0;
    for (uint32_t i = 0; i < 300; i++)
        seen |= 1u << sample(sampler, logits, &sampling, i).id;
    assert_int_equal(seen, 1u << 1 | 1u << 3);
    model_sampler_destroy(sampler);
}

static uint32_t seen_ids(struct model_sampler *sampler, const float *logits,
                         const struct model_sampling *sampling)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < 500; i++)
        seen |= 1u << sample(sampler, logits, sampling, i).id;
    return seen;
}

/* Limits that fall exactly onto a token: it is in, and the next one is not. */
static void test_exact_limits(void **state)
{
    (void)state;
    const float distinct[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct model_sampler *sampler;
    assert_int_equal(model_sampler_create(8, &sampler), SL_OK);
    struct model_sampling sampling = {.temperature = 1e20f, .top_p = 1, .n_logprobs = -1};
    assert_int_equal(seen_ids(sampler, distinct, &sampling), 0xff); /* so hot, all weigh 1 */
    for (uint32_t k = 1; k < 8; k++) {
        sampling.top_k = k;
        assert_int_equal(seen_ids(sampler, distinct, &sampling), 0xffu << (8 - k) & 0xff);
        sampling.top_k = 0;
        sampling.top_p = (float)k / 8;
        assert_int_equal(seen_ids(sampler, distinct, &sampling), 0xffu << (8 - k) & 0xff);
        sampling.top_p = 1;
    }
    /* Part of those that tie below the largest, each lighter than 1: 0.8 of 1.541 takes two of them. */
    const float tied[8] = {5, 3, 3, 3, 3, -90, -90, -90};
    sampling = (struct model_sampling){.temperature = 1, .top_p = 0.8f, .n_logprobs = -1};
    assert_int_equal(seen_ids(sampler, tied, &sampling), 7);
    sampling.top_k = 2; /* of two that are left, as many as before */
    assert_int_equal(seen_ids(sampler, tied, &sampling), 1);
    sampling.top_p = 0.9f;
    assert_int_equal(seen_ids(sampler, tied, &sampling), 3);
    model_sampler_destroy(sampler);
}

/* Which number belongs to (seed, position) may never change: requests are resumed from it. It is the
 * position's of a splitmix64 whose seed is the first of a splitmix64 of the request's seed. */
static void test_the_numbers(void **state)
{
    (void)state;
    enum { N = 4096 }; /* of equal weight: the token is the number, times N */
    static const float logits[N];
    static const uint64_t seeds[] = {0, 1, 42, UINT64_MAX};
    struct model_sampler *sampler;
    assert_int_equal(model_sampler_create(N, &sampler), SL_OK);
    uint64_t kept = random_state;
    for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++) {
        struct model_sampling sampling = {
            .temperature = 1, .top_p = 1, .seed = seeds[i], .n_logprobs = -1};
        random_state = seeds[i];
        random_state = next_random();
        for (uint32_t position = 0; position < 100; position++) {
            uint32_t wanted = (uint32_t)(next_uniform() * N);
            assert_int_equal(sample(sampler, logits, &sampling, position).id, wanted);
        }
    }
    random_state = kept;
    model_sampler_destroy(sampler);
}

static void test_no_memory(void **state)
{
    (void)state;
    uint32_t n_failed = 0;
    for (uint64_t nth = 1;; nth++, n_failed++) {
        struct model_sampler *sampler = NULL;
        sl_fault_torture(nth);
        sl_status status = model_sampler_create(100, &sampler);
        bool fired = sl_fault_fired();
        sl_fault_torture(0);
        assert_int_equal(status, fired ? SL_NO_MEMORY : SL_OK);
        model_sampler_destroy(sampler);
        if (!fired)
            break;
    }
    assert_int_equal(n_failed, 3);
}

static void test_function_of_seed_and_position(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX], before[VOCAB_MAX];
    struct model_sampler *a, *b;
    assert_int_equal(model_sampler_create(2048, &a), SL_OK);
    assert_int_equal(model_sampler_create(2048, &b), SL_OK);
    make_logits(logits, 2048, 1, 0);
    memcpy(before, logits, sizeof(logits));
    struct model_sampling sampling = {.temperature = 1, .top_p = 1, .seed = 9, .n_logprobs = 2};
    uint32_t tokens[64], n_same_position = 0, n_same_seed = 0;
    for (uint32_t i = 0; i < 64; i++)
        tokens[i] = sample(a, logits, &sampling, i).id;
    for (uint32_t i = 64; i-- > 0;) { /* another sampler, another order */
        assert_int_equal(sample(b, logits, &sampling, i).id, tokens[i]);
        if (i > 0)
            n_same_position += tokens[i] == tokens[i - 1];
    }
    sampling.seed = 10;
    for (uint32_t i = 0; i < 64; i++)
        n_same_seed += sample(a, logits, &sampling, i).id == tokens[i];
    assert_true(n_same_position < 4 && n_same_seed < 4);
    assert_memory_equal(before, logits, sizeof(logits));
    model_sampler_destroy(a);
    model_sampler_destroy(b);
}

static void test_logprobs(void **state)
{
    (void)state;
    static float logits[VOCAB_MAX];
    struct model_sampler *sampler;
    const uint32_t n = 3000;
    assert_int_equal(model_sampler_create(n, &sampler), SL_OK);
    for (uint32_t round = 0; round < 40; round++) {
        make_logits(logits, n, 3, round % 2 ? 1 : 0);
        struct model_sampling sampling = {.temperature = round % 3 ? 0.8f : 0,
                                          .top_k = 20,
                                          .top_p = 1,
                                          .seed = round,
                                          .n_logprobs =
                                              (int32_t)(round % (MODEL_LOGPROBS_MAX + 1))};
        struct model_token token = sample(sampler, logits, &sampling, round);
        double sum = 0;
        for (uint32_t i = 0; i < n; i++)
            sum += exp((double)logits[i]);
        assert_true(fabs((double)token.logprob - ((double)logits[token.id] - log(sum))) < 1e-5);
        assert_int_equal(token.n_top, sampling.n_logprobs);
        for (uint32_t j = 0; j < token.n_top; j++) {
            uint32_t n_before = 0, id = token.top_ids[j]; /* tokens that rank before it */
            for (uint32_t i = 0; i < n; i++)
                n_before += logits[i] > logits[id] || (logits[i] == logits[id] && i < id);
            assert_int_equal(n_before, j);
            assert_true(fabs((double)token.top_logprobs[j] - ((double)logits[id] - log(sum))) <
                        1e-5);
        }
    }
    model_sampler_destroy(sampler);
}

static void test_min_position(void **state)
{
    (void)state;
    float logits[6] = {0, 9, 5, 8, 1, 2};
    struct model_sampler *sampler;
    assert_int_equal(model_sampler_create(6, &sampler), SL_OK);
    struct model_sampling sampling = {
        .top_p = 1, .n_logprobs = 1, .min_position = 10, .n_stop_ids = 3, .stop_ids = {1, 3, 77}};
    struct model_token token = sample(sampler, logits, &sampling, 9);
    assert_int_equal(token.id, 2);
    assert_int_equal(token.top_ids[0], 1); /* logprobs are of the raw logits */
    assert_int_equal(sample(sampler, logits, &sampling, 10).id, 1);
    sampling.temperature = 5;
    for (uint32_t i = 0; i < 10; i++) {
        uint32_t id = sample(sampler, logits, &sampling, i).id;
        assert_true(id != 1 && id != 3);
    }
    model_sampler_destroy(sampler);
}

static void test_bad_logits(void **state)
{
    (void)state;
    float logits[4] = {1, 2, 3, 4};
    struct model_sampler *sampler;
    struct model_token token;
    assert_int_equal(model_sampler_create(4, &sampler), SL_OK);
    struct model_sampling sampling = {.temperature = 1, .top_p = 1, .n_logprobs = -1};
    logits[1] = NAN;
    assert_int_equal(model_sample(sampler, logits, &sampling, 0, &token), SL_CORRUPT);
    assert_non_null(strstr(sl_error(), "1 of 4"));
    logits[1] = INFINITY;
    assert_int_equal(model_sample(sampler, logits, &sampling, 0, &token), SL_CORRUPT);
    assert_non_null(strstr(sl_error(), "of 4 is infinite"));
    for (uint32_t i = 0; i < 4; i++)
        logits[i] = -INFINITY;
    assert_int_equal(model_sample(sampler, logits, &sampling, 0, &token), SL_CORRUPT);
    assert_non_null(strstr(sl_error(), "of 4 is minus infinite"));
    logits[2] = -3;
    assert_int_equal(sample(sampler, logits, &sampling, 0).id, 2);
    sampling = (struct model_sampling){
        .top_p = 1, .n_logprobs = -1, .min_position = 1, .n_stop_ids = 1, .stop_ids = {2}};
    assert_int_equal(model_sample(sampler, logits, &sampling, 0, &token), SL_CORRUPT);
    model_sampler_destroy(sampler);
}

static void test_extremes(void **state)
{
    (void)state;
    float logits[5] = {-1e30f, 3e38f, 2e38f, 0, -3e38f};
    struct model_sampler *sampler;
    assert_int_equal(model_sampler_create(5, &sampler), SL_OK);
    struct model_sampling sampling = {.temperature = 1e-30f, .top_p = 1e-30f, .n_logprobs = 5};
    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(sample(sampler, logits, &sampling, i).id, 1);
    sampling =
        (struct model_sampling){.temperature = 100, .top_p = 1, .min_p = 1, .n_logprobs = -1};
    for (uint32_t i = 0; i < 20; i++)
        assert_int_equal(sample(sampler, logits, &sampling, i).id, 1);
    model_sampler_destroy(sampler);
}

static void check_refused(struct model_sampling sampling, const char *field)
{
    assert_int_equal(model_sampling_check(&sampling), SL_INVALID);
    assert_non_null(strstr(sl_error(), field));
}

static void test_check(void **state)
{
    (void)state;
    const struct model_sampling good = {.temperature = 1, .top_p = 1};
    struct model_sampling s = good;
    assert_int_equal(model_sampling_check(&good), SL_OK);
    s.temperature = -1;
    check_refused(s, "temperature");
    s.temperature = NAN;
    check_refused(s, "temperature");
    s = good;
    s.top_p = 0;
    check_refused(s, "top_p");
    s.top_p = 1.5f;
    check_refused(s, "top_p");
    s = good;
    s.min_p = NAN;
    check_refused(s, "min_p");
    s = good;
    s.n_logprobs = MODEL_LOGPROBS_MAX + 1;
    check_refused(s, "logprobs");
    s = good;
    s.n_stop_ids = MODEL_STOP_IDS_MAX + 1;
    check_refused(s, "stop ids");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_set),     cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_greedy),       cmocka_unit_test(test_ties),
        cmocka_unit_test(test_exact_limits), cmocka_unit_test(test_the_numbers),
        cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_function_of_seed_and_position),
        cmocka_unit_test(test_logprobs),     cmocka_unit_test(test_min_position),
        cmocka_unit_test(test_bad_logits),   cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
