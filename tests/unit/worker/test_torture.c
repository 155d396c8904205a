/* Two nodes over the loop, with the nth fault point that they reach failing (memory, device, engine,
 * transport): each run ends in a status, every request in one that the coordinator hears of or could
 * time out on, and what the nodes hold is free again. */
#include "fixture.h"

#include "base/clock.h"

#define RUNS_MAX 4000u

static struct fx fx;

static bool all_gone(void)
{
    for (uint32_t i = 0; i < fx.n_nodes; i++) {
        struct worker_snapshot now;
        worker_snapshot(fx.nodes[i].worker, &now);
        if (now.requests != 0)
            return false;
    }
    return true;
}

/* The coordinator cancels what is left when it hears of a failure, or when its patience ends. */
static void turn_until_gone(void)
{
    uint64_t patience = sl_real_us() + 2 * SL_SECOND_US, end = patience + 10 * SL_SECOND_US;
    bool cancelled = false;
    (void)fx_turn(&fx); /* takes the messages */
    while (!all_gone()) {
        if (!fx_turn(&fx))
            sl_sleep_us(50);
        uint64_t now = sl_real_us();
        const struct fx_request *pair = &fx.requests[0];
        bool over = pair->n_failed > 0 || pair->refused != SLUICE__REASON__REASON_NONE ||
                    pair->finish > SLUICE__FINISH__FINISH_LENGTH;
        if ((over || now > patience) && !cancelled) {
            cancelled = true;
            for (uint32_t node = 0; node < fx.n_nodes; node++)
                for (uint64_t id = 1; id <= 2; id++)
                    fx_cancel(&fx, node, id, 9);
        }
        assert_true(now < end);
    }
}

/* True while a fault fired: false ends the series. */
static bool run(enum fx_model model, uint64_t nth, uint32_t *n_unfinished)
{
    static uint32_t prompt[60];
    fx_prompt(prompt, 60, 5);
    struct fx_submit pair = {.id = 1, .tokens = prompt, .n_tokens = 40, .max_tokens = 4};
    const struct model_adjust adjust = {.repetition = 1.2f}; /* allocates too */
    struct fx_submit local = {.id = 2,
                              .tokens = prompt,
                              .n_tokens = 25,
                              .max_tokens = 4,
                              .prompt_logprobs = 3,
                              .adjust = &adjust};
    /* With digests: one of the points spoils bytes that have landed. */
    fx_open(&fx,
            &(struct fx_args){
                .model = model, .n_prefill = 1, .n_decode = 1, .n_blocks = 20, .verify = true});
    sl_fault_torture(nth);
    struct fx_request *a = fx_pair(&fx, 0, 1, &pair);
    struct fx_request *b = fx_local(&fx, 1, &local);
    turn_until_gone();
    bool fired = sl_fault_fired();
    sl_fault_torture(0);
    bool done =
        a->finish == SLUICE__FINISH__FINISH_LENGTH && b->finish == SLUICE__FINISH__FINISH_LENGTH;
    *n_unfinished += !done;
    assert_true(done || fired);
    if (done) {
        fx_expect(a, &pair);
        fx_expect(b, &local);
    }
    /* The nodes still work. */
    pair.id = 3;
    pair.tokens = prompt + 7;
    struct fx_request *again = fx_pair(&fx, 0, 1, &pair);
    for (uint32_t attempt = 2; again->finish != SLUICE__FINISH__FINISH_LENGTH; attempt++) {
        while (again->finish == SLUICE__FINISH__FINISH_NONE && again->n_failed == 0)
            if (!fx_turn(&fx))
                sl_sleep_us(50);
        if (again->finish == SLUICE__FINISH__FINISH_LENGTH)
            break;
        assert_true(attempt < 4); /* a session that the fault broke is opened anew */
        again->n_failed = 0;
        pair.attempt = attempt;
        fx_cancel(&fx, 0, 3, attempt - 1);
        fx_cancel(&fx, 1, 3, attempt - 1);
        (void)fx_pair(&fx, 0, 1, &pair);
    }
    fx_expect(again, &pair);
    fx_settled(&fx);
    fx_close(&fx);
    return fired;
}

static void torture(enum fx_model model)
{
    uint64_t nth = 1;
    uint32_t n_unfinished = 0;
    while (nth < RUNS_MAX && run(model, nth, &n_unfinished))
        nth++;
    assert_true(nth > 10 && nth < RUNS_MAX);
    assert_true(n_unfinished > 0); /* some faults were felt */
    print_message("%lu fault points, %u of them ended a request\n", (unsigned long)nth - 1,
                  n_unfinished);
}

static void test_torture(void **state)
{
    (void)state;
    torture(FX_FULL);
}

/* Two KV classes, of which one has a window. */
static void test_torture_classes(void **state)
{
    (void)state;
    torture(FX_MIXED);
}

/* Opening a node with the nth fault: a status and nothing left. */
static void test_open(void **state)
{
    (void)state;
    uint64_t nth = 1;
    for (;; nth++) {
        const struct fx_args args = {.model = FX_MIXED, .n_decode = 1, .n_blocks = 20};
        (void)fx_model(FX_MIXED);
        sl_fault_torture(nth);
        sl_status status = fx_try_open(&fx, &args);
        bool fired = sl_fault_fired();
        sl_fault_torture(0);
        assert_true(fired || status == SL_OK);
        if (status == SL_OK)
            fx_close(&fx);
        if (!fired)
            break;
    }
    assert_true(nth > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torture),
        cmocka_unit_test(test_torture_classes),
        cmocka_unit_test(test_open),
    };
    return cmocka_run_group_tests(tests, NULL, fx_models_remove);
}
