/* Models with a window, far beyond it: every layer has one (one class, whose blocks slide), or all but
 * the first (two classes). The tokens are those of an engine that keeps every block; the blocks that
 * are held and the bytes that are sent are those of the window. */
#include "fixture.h"

#include "base/clock.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

static struct fx fx;
static uint32_t prompt[800];

static const enum fx_model models[] = {FX_SLIDING, FX_MIXED};

static const struct kv_geometry *geometry(void)
{
    return &model_engine_info(fx.nodes[0].engine)->geometry;
}

static uint32_t window_class(void)
{
    return geometry()->n_classes - 1;
}

/* What node holds of the class with a window. */
static struct kv_pool_counts window_counts(uint32_t node)
{
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[node].worker, &now);
    return window_class() == 0 ? now.blocks : now.window_blocks;
}

static void test_classes(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.model = FX_FULL, .n_decode = 1});
    assert_true(geometry()->n_classes == 1 && geometry()->classes[0].window == 0);
    fx_close(&fx);
    fx_open(&fx, &(struct fx_args){.model = FX_SLIDING, .n_decode = 1});
    assert_true(geometry()->n_classes == 1 && geometry()->classes[0].window == FX_WINDOW);
    assert_int_equal(geometry()->classes[0].n_layers, 3);
    fx_close(&fx);
    fx_open(&fx, &(struct fx_args){.model = FX_MIXED, .n_decode = 1});
    assert_true(geometry()->n_classes == 2 && geometry()->classes[0].window == 0);
    assert_true(geometry()->classes[0].n_layers == 1 && geometry()->classes[1].n_layers == 2);
    assert_int_equal(geometry()->classes[1].window, FX_WINDOW);
    fx_close(&fx);
}

/* Alone and among others, in chunks of any size, and again with what the cache has. */
static void test_local(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 13, 64, 512}, lengths[] = {5, 39, 41, 100, 333, 700};
    for (size_t m = 0; m < N(models); m++)
        for (size_t k = 0; k < N(chunks); k++) {
            if (chunks[k] == 1 && m == 0)
                continue;
            fx_open(&fx, &(struct fx_args){.model = models[m],
                                           .backend = k == 2 ? "fake" : "ref",
                                           .n_decode = 1,
                                           .n_blocks = 120,
                                           .chunk_tokens = chunks[k]});
            struct fx_submit submits[2 * N(lengths)];
            for (uint32_t i = 0; i < 2 * N(lengths); i++) {
                uint32_t n = lengths[i % N(lengths)];
                fx_prompt(prompt, 800, 9); /* all begin alike */
                submits[i] = (struct fx_submit){.id = 1 + i,
                                                .tokens = prompt,
                                                .n_tokens = n,
                                                .max_tokens = 30 + 3 * i,
                                                .temperature = i % 2 == 0 ? 0.0f : 0.9f,
                                                .seed = i};
                (void)fx_local(&fx, 0, &submits[i]);
                if (i >= N(lengths)) /* the second time one by one */
                    fx_wait(&fx, &fx.requests[i]);
            }
            for (uint32_t i = 0; i < 2 * N(lengths); i++) {
                fx_wait(&fx, &fx.requests[i]);
                fx_expect(&fx.requests[i], &submits[i]);
                if (i >= N(lengths))
                    assert_int_equal(fx.requests[i].cached, (submits[i].n_tokens - 1) / 16 * 16);
            }
            fx_settled(&fx);
            fx_close(&fx);
        }
}

/* A long prompt and a long decode hold the blocks of the window and no more, at every turn; and so a
 * request that is longer than the window class's pool fits it. */
static void test_bounded(void **state)
{
    (void)state;
    for (size_t m = 0; m < N(models); m++) {
        const uint32_t chunk = 32;
        fx_open(&fx, &(struct fx_args){.model = models[m],
                                       .n_decode = 1,
                                       .n_blocks = models[m] == FX_SLIDING ? 9 : 60,
                                       .seqs_max = 1,
                                       .chunk_tokens = chunk});
        fx_prompt(prompt, 400, 17);
        struct fx_submit submit = {
            .id = 1, .tokens = prompt, .n_tokens = 400, .max_tokens = 500, .temperature = 0.7f};
        struct fx_request *r = fx_local(&fx, 0, &submit);
        uint32_t most[2] = {0, 0}; /* while the prompt is computed, and after */
        while (r->finish == SLUICE__FINISH__FINISH_NONE) {
            if (!fx_turn(&fx))
                sl_sleep_us(20);
            uint32_t used = window_counts(0).used;
            most[r->n > 1] = used > most[r->n > 1] ? used : most[r->n > 1];
            if (r->n > 1) { /* what the last token's window has passed is gone */
                uint32_t n = 400 + r->n - 1;
                assert_true(used <= kv_blocks_of(geometry(), n + 1) -
                                        kv_window_first(geometry(), window_class(), n));
            }
        }
        assert_int_equal(r->finish, SLUICE__FINISH__FINISH_LENGTH);
        assert_int_equal(r->n, 500);
        assert_true(window_counts(0).total < kv_blocks_of(geometry(), 899) / 2);
        assert_true(most[0] <= kv_window_blocks(geometry(), window_class(), 900, chunk));
        assert_int_equal(most[1], kv_window_blocks(geometry(), window_class(), 900, 1));
        fx_expect(r, &submit);
        fx_settled(&fx);
        fx_close(&fx);
    }
}

static size_t bytes_of(const uint32_t lacking[2], uint32_t n_blocks)
{
    size_t bytes = 0;
    for (uint32_t c = 0; c < geometry()->n_classes; c++)
        bytes += (n_blocks - lacking[c]) * kv_block_bytes(geometry(), c);
    return bytes;
}

/* From the prefill node to the decode node: bytes = blocks inside the window, class by class. */
static void test_pair(void **state)
{
    (void)state;
    /* Not longer: the reference stops the clock of both nodes, and a silent peer is dead in five seconds. */
    static const uint32_t lengths[] = {20, 39, 40, 55, 56, 96, 333};
    const char *hits = "sluice_prefix_cache_hits_tokens_total ";
    const uint32_t n_lengths = TEST_TSAN ? N(lengths) - 1 : N(lengths);
    for (size_t m = 0; m < N(models); m++)
        for (uint32_t layers = 1; layers <= (TEST_TSAN ? 1u : 3u); layers++) {
            const struct transfer_loop_args rough = {
                .seed = 11 + layers, .delay_us = 300, .land_us = 500, .local_percent = 50};
            fx_open(&fx, &(struct fx_args){.model = models[m],
                                           .n_prefill = 1,
                                           .n_decode = 1,
                                           .n_blocks = 120,
                                           .chunk_tokens = 60 * layers,
                                           .layers_per_group = layers,
                                           .verify = layers == 2,
                                           .loop = rough});
            for (uint32_t i = 0; i < n_lengths; i++) {
                uint32_t n = lengths[i], n_blocks = kv_blocks_of(geometry(), n);
                fx_prompt(prompt, n, 100 + i);
                struct fx_submit submit = {
                    .id = 1 + 2 * i, .tokens = prompt, .n_tokens = n, .max_tokens = 70};
                double before = fx_metric(&fx, 1, hits);
                struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
                fx_wait_sent(&fx, r);
                fx_expect(r, &submit);
                uint32_t lacking[2];
                for (uint32_t c = 0; c < geometry()->n_classes; c++)
                    lacking[c] = kv_window_first(geometry(), c, n);
                assert_int_equal(r->transfer_bytes, bytes_of(lacking, n_blocks));
                /* What lies in front of the window was not found. */
                assert_true(fx_metric(&fx, 1, hits) == before);

                /* Again: what the decode node still holds of each class stays where it is. */
                submit.id++;
                submit.max_tokens = 3;
                r = fx_pair(&fx, 0, 1, &submit);
                fx_wait_sent(&fx, r);
                fx_expect(r, &submit);
                lacking[0] = lacking[1] = n / FX_BLOCK;
                assert_int_equal(r->transfer_bytes, bytes_of(lacking, n_blocks));
            }
            fx_settled(&fx);
            fx_close(&fx);
        }
}

/* More than the pools hold: some go back and are computed again, on both sides, and none changes. */
static void test_preemption(void **state)
{
    (void)state;
    struct worker_limits limits;
    worker_limits_default(&limits);
    limits.admission_us = 100 * SL_SECOND_US; /* none is refused on a slow machine */
    for (size_t m = 0; m < N(models); m++) {
        fx_open(&fx, &(struct fx_args){.model = models[m],
                                       .limits = limits,
                                       .n_prefill = 1,
                                       .n_decode = 1,
                                       .n_blocks = m == 0 ? 16 : 28,
                                       .chunk_tokens = 32});
        static uint32_t prompts[6][200];
        struct fx_submit submits[6];
        for (uint32_t i = 0; i < 6; i++) {
            fx_prompt(prompts[i], 200, 50 + i);
            submits[i] = (struct fx_submit){.id = 1 + i,
                                            .tokens = prompts[i],
                                            .n_tokens = 10 + 30 * (i % 3),
                                            .max_tokens = 150,
                                            .admission_us = limits.admission_us};
            if (i % 2 == 0)
                (void)fx_local(&fx, 1, &submits[i]);
            else
                (void)fx_pair(&fx, 0, 1, &submits[i]);
        }
        fx_wait_all(&fx, 6);
        fx_expect_all(&fx, submits, 6);
        struct worker_snapshot now;
        worker_snapshot(fx.nodes[1].worker, &now);
        assert_true(now.preemptions > 0);
        fx_settled(&fx);
        fx_close(&fx);
    }
}

/* Sources cannot give their blocks back in the middle: what one was promised carries it through its
 * largest chunk, however many wait beside it. */
static void test_sources(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.model = FX_SLIDING,
                                   .n_prefill = 1,
                                   .n_decode = 1,
                                   .n_blocks = 14,
                                   .chunk_tokens = 64});
    static uint32_t prompts[4][300];
    struct fx_submit submits[4];
    for (uint32_t i = 0; i < 4; i++) {
        fx_prompt(prompts[i], 300, 90 + i);
        submits[i] = (struct fx_submit){
            .id = 1 + i, .tokens = prompts[i], .n_tokens = 300 - 9 * i, .max_tokens = 30};
        (void)fx_pair(&fx, 0, 1, &submits[i]);
    }
    fx_wait_all(&fx, 4);
    fx_expect_all(&fx, submits, 4);
    fx_settled(&fx);
    fx_close(&fx);
}

/* The window class forgets sooner: then a hit is as long as what both still hold, and the announced
 * hashes are those that both hold. */
static void test_forgotten(void **state)
{
    (void)state;
    fx_open(&fx,
            &(struct fx_args){.model = FX_MIXED, .n_decode = 1, .n_blocks = 100, .seqs_max = 1});
    assert_true(window_counts(0).total < 40);
    static uint32_t prompts[4][300];
    struct fx_submit submit = {.n_tokens = 300, .max_tokens = 4};
    uint32_t n_cut = 0;
    for (uint32_t round = 0; round < 3; round++)
        for (uint32_t i = 0; i < 4; i++) {
            fx_prompt(prompts[i], 300, 70 + i);
            submit.id = 1 + 4 * round + i;
            submit.tokens = prompts[i];
            submit.n_tokens = 300 - 40 * round;
            struct fx_request *r = fx_local(&fx, 0, &submit);
            fx_wait(&fx, r);
            fx_expect(r, &submit);
            n_cut += round > 0 && r->cached < (submit.n_tokens - 1) / 16 * 16;
            fx_settled(&fx);
            fx_snapshot_request(&fx, 0);
            uint32_t announced = fx.nodes[0].n_events;
            while (fx.nodes[0].snapshot_seq == 0 || fx_turn(&fx))
                (void)fx_turn(&fx);
            assert_int_equal(fx.nodes[0].n_snapshot, announced);
            assert_true(announced <= window_counts(0).cached);
        }
    assert_true(n_cut > 0);
    fx_close(&fx);
}

/* Larger than a pool can ever hold: refused by its name; the same tokens fit where the window lets go. */
static void test_too_large(void **state)
{
    (void)state;
    fx_prompt(prompt, 800, 1);
    struct fx_submit submit = {.id = 1, .tokens = prompt, .n_tokens = 300, .max_tokens = 2};
    fx_open(&fx, &(struct fx_args){
                     .model = FX_SLIDING, .n_decode = 1, .n_blocks = 5, .chunk_tokens = 64});
    struct fx_request *r = fx_local(&fx, 0, &submit);
    (void)fx_turn(&fx);
    assert_int_equal(r->refused, SLUICE__REASON__REASON_TOO_LARGE);
    fx_close(&fx);
    fx_open(&fx, &(struct fx_args){
                     .model = FX_SLIDING, .n_decode = 1, .n_blocks = 5, .chunk_tokens = 16});
    r = fx_local(&fx, 0, &submit);
    fx_wait(&fx, r);
    fx_expect(r, &submit);
    fx_close(&fx);
    fx_open(&fx, &(struct fx_args){.model = FX_MIXED, .n_decode = 1, .n_blocks = 18});
    r = fx_local(&fx, 0, &submit); /* 301 tokens: 19 blocks of class 0 */
    (void)fx_turn(&fx);
    assert_int_equal(r->refused, SLUICE__REASON__REASON_TOO_LARGE);
    fx_close(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),    cmocka_unit_test(test_local),
        cmocka_unit_test(test_bounded),    cmocka_unit_test(test_pair),
        cmocka_unit_test(test_preemption), cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_too_large),  cmocka_unit_test(test_sources),
    };
    return cmocka_run_group_tests(tests, NULL, fx_models_remove);
}
