/* The engine against transformers: golden files of tests/golden/models, whose models the ctest
 * fixture makes again (tools/make_golden_models.py).
 *
 * Tolerance, KV in f32. The golden logits are float32's; the file says how far they are from
 * float64's on the same weights (f32_error, the largest of 1,000 positions, about 1e-4 on logits of
 * standard deviation 4). That is what one order of summation costs. Ours is another order, and goes
 * strictly from first to last, whose error is somewhat larger than that of the pairwise sums in BLAS:
 * TOLERANCE is 4 f32_error; the worst seen is 1.5. A wrong bias, scale, frequency or head, or a
 * rounding to bf16 somewhere, is a hundred times that.
 *
 * Tolerance, KV in bf16. transformers with a cache rounded to bf16 differs from itself with one in
 * float32 by kv_error_max and kv_error_rms (the file has both). Ours rounds the same values, but
 * where a value lies half-way between two bf16 numbers the two may fall apart; so single logits may
 * differ by up to twice kv_error_max, while the root mean square over all of them, which averages
 * that out, must be kv_error_rms within a quarter. */
#include "base/json.h"
#include "base/mem.h"
#include "engine_run.h"
#include "support/support.h"
#include "unit/model/golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define TOLERANCE        4.0  /* times f32_error */
#define GREEDY_MARGIN    10.0 /* times the tolerance */
#define KV_MAX_FACTOR    2.0
#define KV_RMS_FACTOR    1.25
#define DECIDED_AT_LEAST 0.95 /* of greedy tokens have a margin that decides */

static double log_sum_exp(const float *logits, uint32_t n, float max)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - (double)max);
    return (double)max + log(sum);
}

struct deviation {
    double max, sum_squares;
    uint32_t n;
};

static void deviate(struct deviation *deviation, double ours, double theirs)
{
    double difference = fabs(ours - theirs);
    deviation->max = fmax(deviation->max, isnan(difference) ? (double)INFINITY : difference);
    deviation->sum_squares += difference * difference;
    deviation->n++;
}

/* One position's logits against the golden row. */
static void compare_row(const struct golden_model *golden, uint32_t position, const float *logits,
                        double tolerance, struct deviation *deviation)
{
    const float *row = golden->rows[position];
    float max = -INFINITY, second = -INFINITY;
    uint32_t id = 0;
    for (uint32_t i = 0; i < golden->vocab; i++)
        if (logits[i] > max) {
            second = max;
            max = logits[i];
            id = i;
        } else if (logits[i] > second) {
            second = logits[i];
        }
    deviate(deviation, (double)max, (double)row[0]);
    deviate(deviation, (double)second, (double)row[2]);
    deviate(deviation, log_sum_exp(logits, golden->vocab, max), (double)row[3]);
    if ((double)(row[0] - row[2]) > 2 * tolerance)
        assert_int_equal(id, (uint32_t)row[1]);
    for (uint32_t j = 0; j < GOLDEN_COLUMNS; j++)
        deviate(deviation, (double)logits[(position * GOLDEN_COLUMNS + j * 7) % golden->vocab],
                (double)row[4 + j]);
}

/* Teacher-forced logits of the first n tokens, in one chunk. */
static struct deviation compare_prompt(struct model_engine *engine,
                                       const struct golden_model *golden, uint32_t n,
                                       double tolerance)
{
    struct run_seq seq = run_seq_of(3, 7, 11);
    struct deviation deviation = {0, 0, 0};
    (void)run_one(engine, run_next(&seq, golden->prompt, n, MODEL_LOGITS_ALL));
    uint32_t n_rows;
    const float *logits = model_engine_logits(engine, &n_rows);
    assert_int_equal(n_rows, n);
    for (uint32_t i = 0; i < n; i++)
        compare_row(golden, i, logits + (size_t)i * golden->vocab, tolerance, &deviation);
    return deviation;
}

/* Greedy tokens along the golden ones; returns how many had a margin that decides. */
static uint32_t compare_greedy(struct model_engine *engine, const struct golden_model *golden,
                               const struct golden_run *run, double margin)
{
    struct run_seq seq = run_seq_of(1, 2, 3);
    uint32_t n_decided = 0;
    const uint32_t *tokens = golden->prompt;
    uint32_t n = run->prompt_tokens;
    for (uint32_t i = 0; i < run->n_tokens; i++) {
        struct model_event event = run_one(engine, run_next(&seq, tokens, n, MODEL_LOGITS_LAST));
        assert_true(event.results[0].sampled);
        if (run->margins[i] > margin) {
            assert_int_equal(event.results[0].token.id, run->tokens[i]);
            n_decided++;
        }
        tokens = &run->tokens[i];
        n = 1;
    }
    return n_decided;
}

static void check_f32(const struct golden_model *golden, const char *backend, uint32_t n_max)
{
    struct model_engine *engine = run_open(run_model_path(golden->model), backend, "f32", 2);
    double tolerance = TOLERANCE * golden->f32_error, worst = 0;
    uint32_t n_decided = 0, n_tokens = 0;
    for (uint32_t i = 0; i < golden->n_runs; i++) {
        const struct golden_run *run = &golden->runs[i];
        if (run->prompt_tokens > n_max)
            continue;
        struct deviation deviation = compare_prompt(engine, golden, run->prompt_tokens, tolerance);
        worst = fmax(worst, deviation.max);
        n_decided += compare_greedy(engine, golden, run, GREEDY_MARGIN * tolerance);
        n_tokens += run->n_tokens;
    }
    print_message("%s on %s: logits within %.1e (tolerance %.1e), greedy decided %u of %u\n",
                  golden->name, backend, worst, tolerance, n_decided, n_tokens);
    assert_true(worst <= tolerance);
    assert_true(n_decided >= DECIDED_AT_LEAST * n_tokens);
    model_engine_close(engine);
}

static void check_bf16(const struct golden_model *golden, const char *backend, uint32_t n)
{
    struct model_engine *engine = run_open(run_model_path(golden->model), backend, "bf16", 2);
    struct deviation deviation =
        compare_prompt(engine, golden, n, KV_MAX_FACTOR * golden->kv_error_max);
    double rms = sqrt(deviation.sum_squares / deviation.n);
    print_message("%s on %s, KV bf16: largest %.1e of %.1e, rms %.1e of %.1e\n", golden->name,
                  backend, deviation.max, golden->kv_error_max, rms, golden->kv_error_rms);
    assert_true(deviation.max <= KV_MAX_FACTOR * golden->kv_error_max);
    if (n == GOLDEN_PROMPT_TOKENS) /* which kv_error_rms is the mean over */
        assert_true(rms <= KV_RMS_FACTOR * golden->kv_error_rms &&
                    rms >= golden->kv_error_rms / KV_RMS_FACTOR);
    model_engine_close(engine);
}

static void test_model(void **state)
{
    struct golden_model *golden = golden_read(*state);
    if (TEST_TSAN) { /* what has threads, over prompts that end */
        print_message("thread sanitizer: cpu only, prompts up to 65 tokens\n");
        check_f32(golden, "cpu", 65);
        check_bf16(golden, "cpu", 65);
        sl_free(golden);
        return;
    }
    check_f32(golden, "ref", 65);
    check_f32(golden, "fake", 64);
    check_f32(golden, "cpu", GOLDEN_PROMPT_TOKENS);
    check_bf16(golden, "cpu", GOLDEN_PROMPT_TOKENS);
    check_bf16(golden, "ref", 65);
    sl_free(golden);
}

/* The recall model: its context in the cache, each question asked on it, transformers' answers. On
 * cpu only: its 1,000 tokens take the reference seconds. */
static void test_recall(void **state)
{
    const char *backend = *state;
    if (TEST_TSAN) {
        print_message("skipped: 1,000 tokens take minutes under the thread sanitizer\n");
        skip();
    }
    json_t *root;
    if (sl_json_load("tests/golden/recall/1k.json", 1u << 20, &root) != SL_OK)
        fail_msg("%s", sl_error());
    static uint32_t context[RUN_ROWS_MAX], asked[64], answer[64];
    uint32_t n_context, n_asked, n_answer;
    golden_tokens(json_object_get(root, "context"), context, RUN_ROWS_MAX, &n_context);
    struct model_engine *engine = run_open(run_model_path("recall"), backend, "bf16", 2);
    struct run_seq seq = run_seq_of(0, 1, 3);
    (void)run_one(engine, run_next(&seq, context, n_context, MODEL_LOGITS_NONE));

    const json_t *questions = json_object_get(root, "questions");
    assert_true(json_array_size(questions) >= 20);
    for (size_t i = 0; i < json_array_size(questions); i++) {
        const json_t *question = json_array_get(questions, i);
        golden_tokens(json_object_get(question, "tokens"), asked, 64, &n_asked);
        golden_tokens(json_object_get(question, "answer"), answer, 64, &n_answer);
        assert_true(n_answer > 0);
        struct model_event event =
            run_one(engine, run_next(&seq, asked, n_asked, MODEL_LOGITS_LAST));
        for (uint32_t j = 0; j < n_answer; j++) {
            assert_int_equal(event.results[0].token.id, answer[j]);
            event = run_one(engine, run_next(&seq, &answer[j], 1, MODEL_LOGITS_LAST));
        }
        seq.n_tokens = n_context; /* the next question overwrites this one */
    }
    json_decref(root);
    model_engine_close(engine);
}

int main(void)
{
#define GOLDEN_TEST(model)                                                                         \
    {                                                                                              \
        .name = model, .test_func = test_model, .initial_state = (void *)(uintptr_t)model          \
    }
#define RECALL_TEST(backend)                                                                       \
    {                                                                                              \
        .name = "recall on " backend, .test_func = test_recall,                                    \
        .initial_state = (void *)(uintptr_t)backend                                                \
    }
    const struct CMUnitTest tests[] = {
        GOLDEN_TEST("llama-64"),     GOLDEN_TEST("llama-64-scaled"),
        GOLDEN_TEST("llama-80"),     GOLDEN_TEST("llama-96"),
        GOLDEN_TEST("llama-128"),    GOLDEN_TEST("llama-256"),
        GOLDEN_TEST("qwen2-64"),     GOLDEN_TEST("qwen2-128"),
        GOLDEN_TEST("qwen3-64"),     GOLDEN_TEST("qwen3-128"),
        GOLDEN_TEST("qwen3-20"),     GOLDEN_TEST("qwen2-window"),
        GOLDEN_TEST("mistral-128"),  GOLDEN_TEST("phi3-96"),
        GOLDEN_TEST("smollm3-64"),   GOLDEN_TEST("granite-64"),
        GOLDEN_TEST("gemma-256"),    GOLDEN_TEST("gemma2-128"),
        GOLDEN_TEST("gemma3-128"),   GOLDEN_TEST("gemma3-nested"),
        GOLDEN_TEST("llama-linear"), GOLDEN_TEST("llama-dynamic"),
        GOLDEN_TEST("qwen2-yarn"),   GOLDEN_TEST("qwen3-moe-fused"),
        GOLDEN_TEST("olmo2-64"),     GOLDEN_TEST("phi3-short"),
        GOLDEN_TEST("phi3-long"),    GOLDEN_TEST("qwen3-moe"),
        RECALL_TEST("cpu"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
