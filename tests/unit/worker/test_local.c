/* One node, requests that it computes and continues itself: the tokens are those of an engine that is
 * driven directly, whatever the chunks, the batch, the prefix hits and preemption do. */
#include "fixture.h"

#include "base/clock.h"

static const uint32_t lengths[] = {1, 15, 16, 17, 50, 100};
#define N_LENGTHS (sizeof(lengths) / sizeof(lengths[0]))

static struct fx fx;

static void test_chunks(void **state)
{
    (void)state;
    static const uint32_t budgets[] = {1, 7, 64, 512};
    for (size_t b = 0; b < sizeof(budgets) / sizeof(budgets[0]); b++) {
        fx_open(&fx, &(struct fx_args){.n_decode = 1, .chunk_tokens = budgets[b]});
        for (uint32_t i = 0; i < N_LENGTHS; i++) {
            uint32_t prompt[128];
            fx_prompt(prompt, lengths[i], i);
            struct fx_submit submit = {.id = 1 + i,
                                       .tokens = prompt,
                                       .n_tokens = lengths[i],
                                       .max_tokens = 20,
                                       .temperature = i % 2 == 0 ? 0.0f : 1.0f,
                                       .seed = i};
            struct fx_request *r = fx_local(&fx, 0, &submit);
            fx_wait(&fx, r);
            assert_int_equal(r->finish, SLUICE__FINISH__FINISH_LENGTH);
            assert_int_equal(r->n_admitted, 1);
            assert_int_equal(r->computed, lengths[i]);
            fx_expect(r, &submit);
        }
        fx_settled(&fx);
        fx_close(&fx);
    }
}

/* Sixteen at once, of mixed lengths: full batches, and what each gives alone. */
static void test_batch(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1, .n_blocks = 200, .chunk_tokens = 37});
    struct fx_submit submits[FX_MIXED_SUBMITS];
    fx_mixed(submits, 40, 100);
    for (uint32_t i = 0; i < FX_MIXED_SUBMITS; i++)
        (void)fx_local(&fx, 0, &submits[i]);
    fx_wait_all(&fx, FX_MIXED_SUBMITS);
    fx_expect_all(&fx, submits, FX_MIXED_SUBMITS);
    fx_settled(&fx);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[0].worker, &now);
    assert_true(now.step_sequences >= 8 * now.steps);
    assert_int_equal(now.generated_tokens, 16 * 40);
    assert_true(fx_metric(&fx, 0, "sluice_engine_steps_total ") == (double)now.steps);
    assert_true(fx_metric(&fx, 0, "sluice_generation_tokens_total ") == 640.0);
    fx_close(&fx);
}

/* A late arrival is in the very next step. */
static void test_joins_next_step(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[16];
    fx_prompt(prompt, 16, 5);
    struct fx_submit first = {.id = 1, .tokens = prompt, .n_tokens = 10, .max_tokens = 60};
    struct fx_submit late = {.id = 2, .tokens = prompt, .n_tokens = 5, .max_tokens = 1};
    struct fx_request *r = fx_local(&fx, 0, &first);
    while (r->n < 20)
        (void)fx_turn(&fx);
    uint32_t before = r->n;
    struct fx_request *joined = fx_local(&fx, 0, &late);
    while (joined->n == 0)
        (void)fx_turn(&fx);
    assert_true(r->n - before <= 2); /* the step that ran, and the one it joined */
    fx_wait(&fx, r);
    fx_settled(&fx);
    fx_close(&fx);
}

static void test_prefix_hits(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[256];
    fx_prompt(prompt, 64, 9);
    struct fx_submit submit = {.id = 1, .tokens = prompt, .n_tokens = 64, .max_tokens = 40};
    struct fx_request *first = fx_local(&fx, 0, &submit);
    fx_wait(&fx, first);
    assert_int_equal(first->cached, 0);

    submit.id = 2; /* the same: all but the last block, so that one token is computed */
    struct fx_request *second = fx_local(&fx, 0, &submit);
    fx_wait(&fx, second);
    assert_int_equal(second->cached, 48);
    assert_int_equal(second->computed, 16);
    assert_int_equal(second->n, first->n);
    assert_memory_equal(second->tokens, first->tokens, first->n * sizeof(uint32_t));

    /* The generated text is cached too: 64 + 40 tokens, of which 103 have their KV. */
    memcpy(prompt + 64, first->tokens, 40 * sizeof(uint32_t));
    fx_prompt(prompt + 104, 10, 10);
    struct fx_submit longer = {.id = 3, .tokens = prompt, .n_tokens = 114, .max_tokens = 10};
    struct fx_request *third = fx_local(&fx, 0, &longer);
    fx_wait(&fx, third);
    assert_int_equal(third->cached, 96);
    fx_expect(third, &longer);
    fx_settled(&fx);
    assert_true(fx_metric(&fx, 0, "sluice_prefix_cache_hits_tokens_total ") == 48.0 + 96.0);
    fx_close(&fx);
}

/* Identical prompts at once: each computes, duplicates are not shared, nothing leaks. */
static void test_duplicates(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1, .n_blocks = 100, .chunk_tokens = 512});
    uint32_t prompt[64];
    fx_prompt(prompt, 50, 3);
    struct fx_submit submit = {.tokens = prompt, .n_tokens = 50, .max_tokens = 30};
    for (submit.id = 1; submit.id <= 4; submit.id++)
        (void)fx_local(&fx, 0, &submit);
    fx_wait_all(&fx, 4);
    for (uint32_t i = 1; i < 4; i++)
        assert_memory_equal(fx.requests[i].tokens, fx.requests[0].tokens, 30 * sizeof(uint32_t));
    submit.id = 4;
    fx_expect(&fx.requests[3], &submit);
    fx_settled(&fx);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[0].worker, &now);
    assert_int_equal(now.blocks.cached, 4); /* 79 tokens with KV, once */
    fx_close(&fx);
}

/* Penalties of every kind, a bias, and words: what follows depends on all the tokens before. */
static const uint32_t bias_ids[] = {7, 200}, word_lengths[] = {1, 2}, word_ids[] = {9, 11, 12};
static const float biases[] = {1.5f, -3};
static const struct model_adjust adjust = {.repetition = 1.3f,
                                           .presence = 0.4f,
                                           .frequency = 0.6f,
                                           .n_biases = 2,
                                           .bias_ids = bias_ids,
                                           .biases = biases,
                                           .n_words = 2,
                                           .word_lengths = word_lengths,
                                           .word_ids = word_ids};

/* A pool that cannot hold all of them to their end: some are recomputed, none changes. */
static void run_preemption(const struct model_adjust *adjusted)
{
    fx_open(&fx, &(struct fx_args){.n_decode = 1, .n_blocks = 16, .chunk_tokens = 32});
    static uint32_t prompts[6][16];
    struct fx_submit submits[6];
    for (uint32_t i = 0; i < 6; i++) {
        fx_prompt(prompts[i], 16, 50 + i);
        submits[i] = (struct fx_submit){.id = 1 + i,
                                        .tokens = prompts[i],
                                        .n_tokens = 10 + i,
                                        .max_tokens = 90,
                                        .adjust = adjusted};
        (void)fx_local(&fx, 0, &submits[i]);
    }
    fx_wait_all(&fx, 6);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[0].worker, &now);
    assert_true(now.preemptions > 0);
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(fx.requests[i].n_admitted, 1);
        assert_int_equal(fx.requests[i].n_repeated, 0);
        fx_expect(&fx.requests[i], &submits[i]);
    }
    fx_settled(&fx);
    fx_close(&fx);
}

static void test_preemption(void **state)
{
    (void)state;
    run_preemption(NULL);
    run_preemption(&adjust);
}

/* Each of them changes the tokens; a word never comes, nor twice what a high penalty forbids. */
static void test_adjustments(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[40], first_word[2], pair[] = {2};
    fx_prompt(prompt, 40, 22);
    const struct fx_submit plain = {.id = 1, .tokens = prompt, .n_tokens = 40, .max_tokens = 40};
    struct fx_request *r = fx_local(&fx, 0, &plain);
    fx_wait(&fx, r);
    memcpy(first_word, r->tokens + 1, sizeof(first_word));
    const float bias = -50;
    const struct model_adjust cases[] = {
        {.repetition = 2},
        {.presence = 2},
        {.frequency = 2},
        {.n_biases = 1, .bias_ids = &r->tokens[3], .biases = &bias},
        {.n_words = 1, .word_lengths = pair, .word_ids = first_word},
    };
    for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct fx_submit submit = plain;
        submit.id = 2 + i;
        submit.adjust = &cases[i];
        struct fx_request *s = fx_local(&fx, 0, &submit);
        fx_wait(&fx, s);
        assert_int_equal(s->n, 40);
        assert_memory_not_equal(s->tokens, r->tokens, 40 * sizeof(uint32_t));
        fx_expect(s, &submit);
        for (uint32_t k = 0; k < 39; k++)
            assert_true(i != 4 || s->tokens[k] != first_word[0] ||
                        s->tokens[k + 1] != first_word[1]);
    }
    fx_settled(&fx);
    fx_close(&fx);
}

static void test_stop_ids_and_logprobs(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[16];
    fx_prompt(prompt, 16, 21);
    struct fx_submit free_run = {.id = 1, .tokens = prompt, .n_tokens = 16, .max_tokens = 12};
    struct fx_request *r = fx_local(&fx, 0, &free_run);
    fx_wait(&fx, r);

    struct fx_submit stopped = free_run;
    stopped.id = 2;
    stopped.logprobs = 1 + 3;
    stopped.stop_ids[stopped.n_stop_ids++] = r->tokens[4];
    struct fx_request *s = fx_local(&fx, 0, &stopped);
    fx_wait(&fx, s);
    assert_int_equal(s->finish, SLUICE__FINISH__FINISH_STOP);
    fx_expect(s, &stopped);
    assert_true(s->n <= 5 && s->tokens[s->n - 1] == r->tokens[4]);
    for (uint32_t i = 0; i < s->n; i++) { /* greedy: the token is the likeliest */
        assert_int_equal(s->logprobs[i].n_top, 3);
        assert_int_equal(s->logprobs[i].top_ids[0], s->tokens[i]);
        assert_true(s->logprobs[i].logprob == s->logprobs[i].top_logprobs[0]);
        assert_true(s->logprobs[i].top_logprobs[0] >= s->logprobs[i].top_logprobs[1]);
        assert_true(s->logprobs[i].logprob < 0.0f);
    }
    stopped.id = 3; /* masked until the tenth token */
    stopped.min_tokens = 10;
    struct fx_request *m = fx_local(&fx, 0, &stopped);
    fx_wait(&fx, m);
    assert_true(m->n >= 10);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_not_equal(m->tokens[i], r->tokens[4]);
    fx_expect(m, &stopped);
    fx_settled(&fx);
    fx_close(&fx);
}

/* The prompt is scored in chunks of any size, all of it although the cache holds it already. */
static void test_prompt_scores(void **state)
{
    (void)state;
    static const uint32_t budgets[] = {1, 37, 512};
    for (uint32_t b = 0; b < 3; b++) {
        fx_open(&fx, &(struct fx_args){.n_decode = 1, .chunk_tokens = budgets[b]});
        uint32_t prompt[150];
        fx_prompt(prompt, 150, 61);
        struct fx_submit submit = {.id = 1, .tokens = prompt, .n_tokens = 150, .max_tokens = 3};
        struct fx_request *r = fx_local(&fx, 0, &submit);
        fx_wait(&fx, r);
        assert_int_equal(r->n_scores, 0);
        for (uint32_t top = 0; top <= MODEL_LOGPROBS_MAX; top += MODEL_LOGPROBS_MAX) {
            submit.id++;
            submit.prompt_logprobs = 1 + top;
            r = fx_local(&fx, 0, &submit);
            fx_wait(&fx, r);
            assert_int_equal(r->cached, 0);
            assert_int_equal(r->computed, 150);
            assert_int_equal(r->n_scores, 149);
            fx_expect_scores(r, &submit);
            fx_expect(r, &submit);
        }
        submit.n_tokens = 1; /* nothing to score */
        submit.id++;
        r = fx_local(&fx, 0, &submit);
        fx_wait(&fx, r);
        assert_int_equal(r->n_scores, 0);
        fx_settled(&fx);
        fx_close(&fx);
    }
}

/* A resumed attempt goes on with the token that the first would have given. */
static void run_resume(const struct model_adjust *adjusted)
{
    fx_open(&fx, &(struct fx_args){.n_decode = 2});
    uint32_t prompt[64];
    fx_prompt(prompt, 20, 31);
    struct fx_submit submit = {.id = 1,
                               .tokens = prompt,
                               .n_tokens = 20,
                               .max_tokens = 30,
                               .temperature = 1.0f,
                               .seed = 77,
                               .adjust = adjusted};
    struct fx_request *r = fx_local(&fx, 0, &submit);
    while (r->n < 12)
        (void)fx_turn(&fx);
    fx_cancel(&fx, 0, 1, 1);
    uint32_t delivered = r->n;
    memcpy(prompt + 20, r->tokens, delivered * sizeof(uint32_t));
    struct fx_submit resumed = submit;
    resumed.attempt = 2;
    resumed.n_tokens = 20 + delivered;
    resumed.prompt_tokens = 20;
    (void)fx_local(&fx, 1, &resumed);
    fx_wait(&fx, r);
    assert_int_equal(r->n, 30);
    r->n = 30;
    fx_expect(r, &submit);
    fx_settled(&fx);
    fx_close(&fx);
}

static void test_resume(void **state)
{
    (void)state;
    run_resume(NULL);
    run_resume(&adjust);
}

static void test_parts(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[200];
    fx_prompt(prompt, 200, 8);
    struct fx_submit submit = {
        .id = 1, .tokens = prompt, .n_tokens = 200, .max_tokens = 5, .part_tokens = 33};
    struct fx_request *r = fx_local(&fx, 0, &submit);
    fx_wait(&fx, r);
    fx_expect(r, &submit);
    fx_settled(&fx);
    fx_close(&fx);
}

static struct fx_request *refused(const struct fx_submit *submit)
{
    struct fx_request *r = fx_local(&fx, 0, submit);
    fx_wait(&fx, r);
    assert_int_equal(r->n, 0);
    assert_int_equal(r->n_admitted, 0);
    return r;
}

static void test_refusals(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .n_blocks = 20});
    uint32_t prompt[400], outside[4] = {2, 3, FX_VOCAB, 4};
    fx_prompt(prompt, 400, 4);
    struct fx_submit large = {.id = 1, .tokens = prompt, .n_tokens = 300, .max_tokens = 22};
    assert_int_equal(refused(&large)->refused, SLUICE__REASON__REASON_TOO_LARGE);
    large.id = 2; /* the last token needs no KV: 320 fit */
    large.max_tokens = 21;
    struct fx_request *fits = fx_local(&fx, 0, &large);
    fx_wait(&fx, fits);
    assert_int_equal(fits->n, 21);

    struct fx_submit bad = {.id = 3, .tokens = outside, .n_tokens = 4, .max_tokens = 2};
    assert_int_equal(refused(&bad)->refused, SLUICE__REASON__REASON_INVALID);
    struct fx_submit context = {.id = 4, .tokens = prompt, .n_tokens = 4, .max_tokens = 4000};
    assert_int_equal(refused(&context)->refused, SLUICE__REASON__REASON_INVALID);
    static const uint32_t beyond[] = {FX_VOCAB};
    const struct model_adjust outside_bias = {.n_biases = 1, .bias_ids = beyond, .biases = biases};
    struct fx_submit biased = {
        .id = 10, .tokens = prompt, .n_tokens = 4, .max_tokens = 2, .adjust = &outside_bias};
    assert_int_equal(refused(&biased)->refused, SLUICE__REASON__REASON_INVALID);
    struct fx_submit old = {
        .id = 5, .tokens = prompt, .n_tokens = 4, .max_tokens = 2, .incarnation = 12345};
    assert_int_equal(refused(&old)->refused, SLUICE__REASON__REASON_INCARNATION);
    struct fx_submit sane = {.id = 6, .tokens = prompt, .n_tokens = 40, .max_tokens = 2, .key = 1};
    struct fx_request *r = fx_send(&fx, 0, SLUICE__MODE__MODE_DECODE, &sane, 1);
    fx_wait(&fx, r);
    assert_int_equal(r->refused, SLUICE__REASON__REASON_INVALID);
    sane.id = 7;
    r = fx_send(&fx, 1, SLUICE__MODE__MODE_PREFILL, &sane, 0);
    fx_wait(&fx, r);
    assert_int_equal(r->refused, SLUICE__REASON__REASON_INVALID);

    struct fx_submit last = {.id = 8, .tokens = prompt, .n_tokens = 40, .max_tokens = 40};
    r = fx_local(&fx, 0, &last);
    while (r->n < 3)
        (void)fx_turn(&fx);
    worker_drain(fx.nodes[0].worker); /* what is in work ends, nothing new begins */
    last.id = 9;
    assert_int_equal(refused(&last)->refused, SLUICE__REASON__REASON_DRAINING);
    fx_wait(&fx, r);
    assert_int_equal(r->n, 40);
    fx_settled(&fx);
    assert_true(fx_metric(&fx, 0, "sluice_requests_rejected_total{reason=\"too_large\"} ") == 1.0);
    fx_close(&fx);
}

/* What has come to a node before the drain is looked at before the node calls itself empty. */
static void test_drain(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[40];
    fx_prompt(prompt, 40, 13);
    struct worker *worker = fx.nodes[0].worker;
    struct fx_submit submit = {.id = 1, .tokens = prompt, .n_tokens = 40, .max_tokens = 5};
    struct fx_request *r = fx_local(&fx, 0, &submit);
    while (r->n < 2)
        (void)fx_turn(&fx);
    assert_false(worker_drained(worker));
    fx_wait(&fx, r);
    fx_settled(&fx);
    assert_false(worker_drained(worker));
    submit.id = 2;
    r = fx_local(&fx, 0, &submit);
    worker_drain(worker); /* the last turn knew of neither */
    assert_false(worker_drained(worker));
    fx_wait(&fx, r);
    assert_int_equal(r->refused, SLUICE__REASON__REASON_DRAINING);
    fx_settled(&fx);
    assert_true(worker_drained(worker));
    fx_close(&fx);
}

static bool waits(struct fx *f, void *arg)
{
    struct worker_snapshot now;
    worker_snapshot(f->nodes[0].worker, &now);
    return now.waiting == *(uint32_t *)arg;
}

static bool has_grown(struct fx *f, void *arg)
{
    (void)f;
    return ((struct fx_request *)arg)->n >= 12;
}

/* A full pool makes requests wait; one that fits overtakes one that does not, but not for long; then they
 * are refused. */
static void test_waiting(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1, .n_blocks = 12});
    uint32_t prompt[160], two = 2, none = 0;
    fx_prompt(prompt, 160, 12);
    struct fx_submit first = {.id = 1, .tokens = prompt, .n_tokens = 100, .max_tokens = 70};
    struct fx_submit large = {.id = 2, .tokens = prompt + 3, .n_tokens = 120, .max_tokens = 2};
    struct fx_submit small = {.id = 3, .tokens = prompt + 5, .n_tokens = 8, .max_tokens = 2};
    struct fx_request *a = fx_local(&fx, 0, &first);
    while (a->n < 1)
        (void)fx_turn(&fx);
    struct fx_request *b = fx_local(&fx, 0, &large);
    struct fx_request *c = fx_local(&fx, 0, &small);
    fx_wait(&fx, c);
    assert_int_equal(c->n, 2);
    assert_true(a->n < 10 && b->n_admitted == 0);
    assert_true(fx_metric(&fx, 0, "sluice_admission_overtakes_total ") == 1.0);
    sl_clock_advance(3 * SL_SECOND_US); /* over a quarter of its ten */
    small.id = 5;
    c = fx_local(&fx, 0, &small);
    fx_until(&fx, has_grown, a);
    fx_until(&fx, waits, &two);
    assert_int_equal(c->n_admitted, 0);
    sl_clock_advance(8 * SL_SECOND_US);
    fx_wait(&fx, b);
    assert_int_equal(b->refused, SLUICE__REASON__REASON_FULL);
    fx_wait(&fx, c); /* nobody before it any more */
    assert_int_equal(c->n, 2);
    assert_true(a->n < 70);
    assert_true(fx_metric(&fx, 0, "sluice_admission_overtakes_total ") == 1.0);
    large.id = 4;
    b = fx_local(&fx, 0, &large);
    fx_wait(&fx, a);
    fx_wait(&fx, b); /* now there is room */
    assert_int_equal(b->n, 2);
    fx_until(&fx, waits, &none);
    fx_settled(&fx);
    fx_close(&fx);
}

/* The more urgent is admitted first, whenever it came. */
static void test_priority_in_the_line(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1, .n_blocks = 12});
    uint32_t prompt[160], three = 3;
    fx_prompt(prompt, 160, 14);
    struct fx_submit submit = {.id = 1, .tokens = prompt, .n_tokens = 120, .max_tokens = 30};
    struct fx_request *a = fx_local(&fx, 0, &submit);
    while (a->n < 1)
        (void)fx_turn(&fx);
    static const int32_t priorities[] = {0, 7, -7};
    struct fx_request *r[3];
    for (uint32_t i = 0; i < 3; i++) { /* one at a time fits */
        submit.id = 2 + i;
        submit.tokens = prompt + 2 + i;
        submit.priority = priorities[i];
        r[i] = fx_local(&fx, 0, &submit);
    }
    fx_until(&fx, waits, &three);
    fx_wait(&fx, r[2]);
    assert_int_equal(r[0]->n + r[1]->n, 0);
    fx_wait(&fx, r[0]);
    assert_int_equal(r[1]->n, 0);
    fx_wait(&fx, r[1]);
    fx_settled(&fx);
    fx_close(&fx);
}

/* When blocks run out the less urgent one gives way, be it the older or the younger. */
static void test_priority_of_preemption(void **state)
{
    (void)state;
    for (int32_t first = 0; first < 2; first++) {
        fx_open(&fx, &(struct fx_args){.n_decode = 1, .n_blocks = 12});
        uint32_t prompt[160];
        fx_prompt(prompt, 160, 15);
        struct fx_submit old = {
            .id = 1, .tokens = prompt, .n_tokens = 40, .max_tokens = 100, .priority = first};
        struct fx_submit late = {.id = 2,
                                 .tokens = prompt + 9,
                                 .n_tokens = 40,
                                 .max_tokens = 100,
                                 .priority = 1 - first};
        struct fx_request *a = fx_local(&fx, 0, &old);
        while (a->n < 5)
            (void)fx_turn(&fx);
        struct fx_request *b = fx_local(&fx, 0, &late);
        fx_wait(&fx, first == 0 ? a : b);
        assert_true((first == 0 ? b : a)->n < 90); /* it lost what it had, and waited */
        fx_wait(&fx, first == 0 ? b : a);
        struct worker_snapshot now;
        worker_snapshot(fx.nodes[0].worker, &now);
        assert_true(now.preemptions > 0);
        fx_expect(a, &old);
        fx_expect(b, &late);
        fx_settled(&fx);
        fx_close(&fx);
    }
}

static void test_deadline(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[16];
    fx_prompt(prompt, 16, 13);
    struct fx_submit submit = {.id = 1,
                               .tokens = prompt,
                               .n_tokens = 16,
                               .max_tokens = 900,
                               .deadline_us = 5 * SL_SECOND_US};
    struct fx_request *r = fx_local(&fx, 0, &submit);
    while (r->n < 3)
        (void)fx_turn(&fx);
    sl_clock_advance(6 * SL_SECOND_US);
    fx_wait(&fx, r);
    assert_int_equal(r->finish, SLUICE__FINISH__FINISH_ERROR);
    assert_int_equal(r->finish_reason, SLUICE__REASON__REASON_DEADLINE);
    fx_settled(&fx);
    fx_close(&fx);
}

/* Cancelled after every number of turns: blocks are back, and the node goes on. */
static void test_cancel_everywhere(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1, .chunk_tokens = 16});
    uint32_t prompt[100];
    for (uint32_t turns = 0; turns < 40; turns++) {
        fx_prompt(prompt, 100, 1000 + turns);
        struct fx_submit submit = {
            .id = 1 + turns, .tokens = prompt, .n_tokens = 90, .max_tokens = 500};
        struct fx_request *r = fx_local(&fx, 0, &submit);
        for (uint32_t i = 0; i < turns; i++) {
            (void)fx_turn(&fx);
            sl_sleep_us(30);
        }
        fx_cancel(&fx, 0, submit.id, 7); /* of an attempt that is newer: also meant */
        fx_cancel(&fx, 0, submit.id, 1); /* twice is harmless */
        fx_cancel(&fx, 0, 99999, 1);
        fx_wait(&fx, r);
        assert_int_equal(r->finish, SLUICE__FINISH__FINISH_CANCELLED);
        assert_int_equal(r->n_finished, 1);
        fx_settled(&fx);
    }
    fx_close(&fx);
}

/* A Cancel of an older attempt does nothing to the newer one. */
static void test_stale_cancel(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[16];
    fx_prompt(prompt, 16, 14);
    struct fx_submit submit = {
        .id = 1, .attempt = 3, .tokens = prompt, .n_tokens = 16, .max_tokens = 30};
    struct fx_request *r = fx_local(&fx, 0, &submit);
    while (r->n < 2)
        (void)fx_turn(&fx);
    fx_cancel(&fx, 0, 1, 2);
    fx_wait(&fx, r);
    assert_int_equal(r->finish, SLUICE__FINISH__FINISH_LENGTH);
    fx_expect(r, &submit);
    /* A new attempt ends the old one by itself. */
    submit.attempt = 4;
    submit.id = 2;
    submit.max_tokens = 500;
    r = fx_local(&fx, 0, &submit);
    while (r->n < 2)
        (void)fx_turn(&fx);
    r->n = 0;
    submit.attempt = 5;
    submit.max_tokens = 10;
    r = fx_local(&fx, 0, &submit);
    fx_wait(&fx, r);
    assert_int_equal(r->n, 10);
    fx_settled(&fx);
    fx_close(&fx);
}

/* The grace, then everything is dropped; when the coordinator is back, at once: it has placed all anew. */
static void test_coordinator_lost(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1});
    uint32_t prompt[16];
    fx_prompt(prompt, 16, 15);
    struct fx_submit submit = {.id = 1, .tokens = prompt, .n_tokens = 16, .max_tokens = 900};
    struct fx_request *r = fx_local(&fx, 0, &submit);
    while (r->n < 2)
        (void)fx_turn(&fx);
    fx.deaf = true;
    worker_lost(fx.nodes[0].worker);
    for (uint32_t i = 0; i < 20; i++)
        (void)fx_turn(&fx);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[0].worker, &now);
    assert_int_equal(now.running, 1);
    sl_clock_advance(11 * SL_SECOND_US);
    fx_settled(&fx);
    fx.deaf = false;
    worker_joined(fx.nodes[0].worker);

    submit.id = 2;
    r = fx_local(&fx, 0, &submit);
    while (r->n < 2)
        (void)fx_turn(&fx);
    worker_lost(fx.nodes[0].worker);
    worker_joined(fx.nodes[0].worker);
    fx_settled(&fx);
    assert_int_equal(r->finish, SLUICE__FINISH__FINISH_ERROR);
    fx_close(&fx);
}

static void test_events_and_snapshot(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_decode = 1, .n_blocks = 24});
    fx.nodes[0].seq = 7; /* until the snapshot says otherwise, though nothing is in it */
    fx_snapshot_request(&fx, 0);
    (void)fx_turn(&fx);
    assert_int_equal(fx.nodes[0].seq, 0);
    uint32_t prompt[100];
    for (uint64_t id = 1; id <= 8; id++) {
        fx_prompt(prompt, 100, id);
        struct fx_submit submit = {.id = id, .tokens = prompt, .n_tokens = 100, .max_tokens = 30};
        fx_wait(&fx, fx_local(&fx, 0, &submit));
    }
    fx_settled(&fx);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[0].worker, &now);
    assert_int_equal(fx.nodes[0].n_events, now.blocks.cached);
    assert_int_equal(fx.nodes[0].seq, now.events_seq);
    assert_true(now.events_seq > 24); /* evictions were among them */
    fx_snapshot_request(&fx, 0);
    (void)fx_turn(&fx);
    assert_int_equal(fx.nodes[0].n_snapshot, now.blocks.cached);
    assert_int_equal(fx.nodes[0].snapshot_seq, now.events_seq);
    fx_close(&fx);
}

/* Time stands still unless a test moves it: however slow the machine, no request is refused because it
 * waited for its turn. */
static int stop_clock(void **state)
{
    (void)state;
    sl_clock_fake(1000 * SL_SECOND_US);
    return 0;
}

static int remove_model(void **state)
{
    (void)state;
    sl_clock_real();
    return fx_models_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_joins_next_step),
        cmocka_unit_test(test_prefix_hits),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_preemption),
        cmocka_unit_test(test_adjustments),
        cmocka_unit_test(test_stop_ids_and_logprobs),
        cmocka_unit_test(test_prompt_scores),
        cmocka_unit_test(test_resume),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_priority_in_the_line),
        cmocka_unit_test(test_priority_of_preemption),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_cancel_everywhere),
        cmocka_unit_test(test_stale_cancel),
        cmocka_unit_test(test_coordinator_lost),
        cmocka_unit_test(test_events_and_snapshot),
    };
    return cmocka_run_group_tests(tests, stop_clock, remove_model);
}
