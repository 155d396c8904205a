/* The whole of it in threads, over the fake device: schedulers, engines, transfers, and this thread as
 * the coordinator's control thread. Meant for ThreadSanitizer; the tokens must be right without it
 * too. */
#include "fixture.h"

#include "base/clock.h"

static struct fx fx;

static void run(enum fx_model model, const char *backend, uint32_t n_requests)
{
    fx_open(
        &fx,
        &(struct fx_args){
            .model = model,
            .backend = backend,
            .n_prefill = 2,
            .n_decode = 2,
            .n_blocks = 100,
            .chunk_tokens = 32,
            .threaded = true,
            .verify = true,
            .loop = {
                .seed = 5, .delay_us = 200, .land_us = 200, .local_percent = 50, .purge_us = 200}});
    static uint32_t prompts[16][80];
    struct fx_submit submits[16];
    for (uint32_t i = 0; i < n_requests; i++) {
        fx_prompt(prompts[i], 80, 700 + i);
        submits[i] = (struct fx_submit){.id = 1 + i,
                                        .tokens = prompts[i],
                                        .n_tokens = 5 + 5 * i,
                                        .max_tokens = 12,
                                        .temperature = i % 2 == 0 ? 0.9f : 0.0f,
                                        .seed = i};
        if (i % 4 == 3)
            (void)fx_local(&fx, 2 + i % 2, &submits[i]);
        else
            (void)fx_pair(&fx, i % 2, 2 + i % 2, &submits[i]);
    }
    for (uint32_t i = 0; i < 3;
         i++) { /* one is cancelled in the middle, another is asked for in vain */
        struct worker_snapshot now;
        struct worker_sample samples[8];
        worker_snapshot(fx.nodes[i].worker, &now);
        (void)worker_samples(fx.nodes[i].worker, samples, 8);
        fx_snapshot_request(&fx, i);
        (void)fx_metric(&fx, i, "sluice_engine_steps_total ");
    }
    struct fx_submit gone = {.id = 99, .tokens = prompts[0], .n_tokens = 70, .max_tokens = 500};
    (void)fx_pair(&fx, 0, 2, &gone);
    sl_sleep_us(2000);
    fx_cancel(&fx, 0, 99, 1);
    fx_cancel(&fx, 2, 99, 1);
    fx_wait_all(&fx, n_requests);
    fx_expect_all(&fx, submits, n_requests);
    fx_settled(&fx);
    fx_close(&fx);
}

static void test_ref(void **state)
{
    (void)state;
    run(FX_FULL, "ref", 16);
}

static void test_fake(void **state)
{
    (void)state;
    run(FX_FULL, "fake", 12);
}

/* Two KV classes: what slides is let go while streams read the rest. */
static void test_window(void **state)
{
    (void)state;
    run(FX_MIXED, "fake", 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ref),
        cmocka_unit_test(test_fake),
        cmocka_unit_test(test_window),
    };
    return cmocka_run_group_tests(tests, NULL, fx_models_remove);
}
