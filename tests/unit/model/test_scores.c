/* What the engine says of a prompt's tokens, against transformers' log-softmax in float32
 * (tools/make_sampling_goldens.py), in chunks of several sizes.
 *
 * Tolerance: a logprob is a logit less a log of a sum; test_golden.c allows each of them four times the
 * file's f32_error. Ranks and ids are compared where the logits beside them are further away than that. */
#include "base/json.h"
#include "base/mem.h"
#include "engine_run.h"

#include "support/support.h"

#include <math.h>
#include <stdbool.h>

#define GOLDEN     "tests/golden/sampling/scores.json"
#define TOKENS_MAX 200u
#define N_TOP      5u
#define TOLERANCE  8.0 /* times f32_error */

static double real(const json_t *object, const char *field)
{
    return json_number_value(json_object_get(object, field));
}

static double element(const json_t *object, const char *field, size_t i)
{
    return json_number_value(json_array_get(json_object_get(object, field), i));
}

struct tally {
    uint32_t n_ranks, n_ids; /* compared */
};

static void check_score(const json_t *want, const struct model_token *score, double tolerance,
                        struct tally *tally)
{
    if (!(fabs((double)score->logprob - real(want, "logprob")) <= tolerance))
        fail_msg("logprob %.7f, want %.7f", (double)score->logprob, real(want, "logprob"));
    if (real(want, "gap") > tolerance) {
        assert_int_equal(score->rank, (uint32_t)real(want, "rank"));
        tally->n_ranks++;
    }
    assert_int_equal(score->n_top, N_TOP);
    for (uint32_t i = 0; i < N_TOP; i++) {
        double value = element(want, "top", i);
        assert_true(fabs((double)score->top_logprobs[i] - value) <= tolerance);
        bool apart = value - element(want, "top", i + 1) > tolerance &&
                     (i == 0 || element(want, "top", i - 1) - value > tolerance);
        if (apart) {
            assert_int_equal(score->top_ids[i], (uint32_t)element(want, "top_ids", i));
            tally->n_ids++;
        }
    }
}

static void check_model(const json_t *golden, uint32_t chunk)
{
    uint32_t prompt[TOKENS_MAX];
    const json_t *list = json_object_get(golden, "prompt");
    const json_t *scores = json_object_get(golden, "scores");
    uint32_t n = (uint32_t)json_array_size(list);
    assert_true(n > 100 && n <= TOKENS_MAX && json_array_size(scores) == n - 1);
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    const char *name = json_string_value(json_object_get(golden, "model"));
    struct model_engine *engine = run_open(run_model_path(name), "cpu", "f32", 1);
    struct run_seq seq = run_seq_of(0, 3, 7);
    struct tally tally = {0, 0};
    for (uint32_t at = 0; at < n;) {
        uint32_t n_run = n - at < chunk ? n - at : chunk;
        struct model_run run = run_next(&seq, prompt + at, n_run, MODEL_LOGITS_NONE);
        run.n_scored = n - at - 1 < n_run ? n - at - 1 : n_run;
        run.scored = prompt + at + 1;
        run.n_scored_top = N_TOP;
        struct model_event event = run_one(engine, run);
        assert_int_equal(event.results[0].status, SL_OK);
        assert_int_equal(event.results[0].n_scores, run.n_scored);
        for (uint32_t i = 0; i < run.n_scored; i++)
            check_score(json_array_get(scores, at + i), &event.results[0].scores[i],
                        TOLERANCE * real(golden, "f32_error"), &tally);
        at += n_run;
    }
    assert_true(tally.n_ranks > (n - 1) * 9 / 10 && tally.n_ids > (n - 1) * N_TOP * 9 / 10);
    model_engine_close(engine);
}

static void test_golden(void **state)
{
    (void)state;
    json_t *golden;
    assert_ok(sl_json_load(GOLDEN, 4u << 20, &golden));
    const json_t *models = json_object_get(golden, "models");
    assert_true(json_array_size(models) == 2);
    for (size_t i = 0; i < json_array_size(models); i++) {
        check_model(json_array_get(models, i), 37);
        check_model(json_array_get(models, i), 1000);
    }
    json_decref(golden);
}

/* Several runs of a batch, one of them sampling, one with nothing to score: each has its own scores. */
static void test_batch(void **state)
{
    (void)state;
    json_t *golden;
    assert_ok(sl_json_load(GOLDEN, 4u << 20, &golden));
    const json_t *model = json_array_get(json_object_get(golden, "models"), 0);
    const char *name = json_string_value(json_object_get(model, "model"));
    struct model_engine *engine = run_open(run_model_path(name), "cpu", "f32", 1);
    const uint32_t tokens[] = {5, 9, 200, 31, 7, 8};
    struct model_token alone[4];
    struct run_seq a = run_seq_of(0, 0, 1);
    struct model_run run = run_next(&a, tokens, 5, MODEL_LOGITS_NONE);
    run.n_scored = 4;
    run.scored = tokens + 1;
    run.n_scored_top = 3;
    memcpy(alone, run_one(engine, run).results[0].scores, sizeof(alone));
    struct run_seq b = run_seq_of(1, 20, 1), c = run_seq_of(2, 30, 1), d = run_seq_of(3, 40, 1);
    struct model_run runs[] = {run_next(&b, tokens + 2, 4, MODEL_LOGITS_LAST),
                               run_next(&c, tokens, 5, MODEL_LOGITS_LAST),
                               run_next(&d, tokens, 2, MODEL_LOGITS_NONE)};
    runs[1].n_scored = 4;
    runs[1].scored = tokens + 1;
    runs[1].n_scored_top = 3;
    runs[2].n_scored = 2;
    runs[2].scored = tokens + 1;
    struct model_event event = run_batch(engine, runs, 3);
    assert_int_equal(event.results[0].n_scores, 0);
    assert_true(event.results[0].sampled && event.results[1].sampled && !event.results[2].sampled);
    assert_memory_equal(event.results[1].scores, alone, sizeof(alone));
    assert_int_equal(event.results[2].n_scores, 2);
    for (uint32_t i = 0; i < 2; i++) {
        assert_true(event.results[2].scores[i].logprob == alone[i].logprob);
        assert_int_equal(event.results[2].scores[i].n_top, 0);
    }
    uint64_t ticket;
    struct model_batch one = {.runs = runs, .n_runs = 1};
    runs[0] = run_next(&b, tokens, 2, MODEL_LOGITS_NONE);
    runs[0].scored = tokens;
    runs[0].n_scored = 3;
    assert_fails(model_engine_submit(engine, &one, &ticket), SL_INVALID, "3 of 2 tokens scored");
    runs[0].n_scored = 2;
    runs[0].n_scored_top = MODEL_LOGPROBS_MAX + 1;
    assert_fails(model_engine_submit(engine, &one, &ticket), SL_INVALID, "21 likeliest");
    runs[0].n_scored_top = 0;
    runs[0].logits = MODEL_LOGITS_ALL;
    assert_fails(model_engine_submit(engine, &one, &ticket), SL_INVALID, "all logits besides");
    const uint32_t beyond[] = {1u << 20, 0};
    runs[0].logits = MODEL_LOGITS_NONE;
    runs[0].scored = beyond;
    assert_fails(model_engine_submit(engine, &one, &ticket), SL_INVALID, "scored token 1048576");
    model_engine_close(engine);
    json_decref(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_batch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
