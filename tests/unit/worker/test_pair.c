/* A prefill node and a decode node over the loop transport: the tokens are those of one engine that is
 * driven directly; what dies, is cancelled or refused on the way gives every block back. */
#include "fixture.h"

#include "base/clock.h"

static struct fx fx;

static const struct transfer_loop_args rough = {.seed = 11,
                                                .delay_us = 300,
                                                .land_us = 500,
                                                .local_percent = 50,
                                                .late_percent = 50,
                                                .purge_us = 500};

static bool has_failed(struct fx *f, void *arg)
{
    (void)f;
    return ((struct fx_request *)arg)->n_failed > 0;
}

static bool has_token(struct fx *f, void *arg)
{
    (void)f;
    return ((struct fx_request *)arg)->n > 0;
}

static void test_tokens(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 15, 16, 17, 32, 50, 160};
    static const uint32_t budgets[] = {1, 37, 512};
    for (size_t b = 0; b < 3; b++)
        for (uint32_t layers = 1; layers <= 3; layers += 2) {
            fx_open(&fx, &(struct fx_args){.n_prefill = 1,
                                           .n_decode = 1,
                                           .chunk_tokens = budgets[b],
                                           .layers_per_group = layers,
                                           .verify = layers == 3,
                                           .loop = rough});
            for (uint32_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
                uint32_t prompt[160];
                fx_prompt(prompt, lengths[i], i);
                struct fx_submit submit = {.id = 1 + i,
                                           .tokens = prompt,
                                           .n_tokens = lengths[i],
                                           .max_tokens = 20,
                                           .temperature = i % 2 == 0 ? 0.0f : 1.0f,
                                           .seed = i,
                                           .logprobs = (int32_t)i % 3 * 3};
                struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
                fx_wait_sent(&fx, r);
                assert_int_equal(r->finish, SLUICE__FINISH__FINISH_LENGTH);
                assert_int_equal(r->n_admitted, 2);
                assert_int_equal(r->computed, lengths[i]);
                assert_int_equal(r->n_repeated, 1); /* the first token, from the destination */
                fx_expect(r, &submit);
            }
            fx_settled(&fx);
            fx_close(&fx);
        }
}

/* Sixteen clients, two by two nodes. */
static void test_many(void **state)
{
    (void)state;
    fx_open(&fx,
            &(struct fx_args){
                .n_prefill = 2, .n_decode = 2, .n_blocks = 120, .chunk_tokens = 37, .loop = rough});
    struct fx_submit submits[FX_MIXED_SUBMITS];
    fx_mixed(submits, 30, 300);
    for (uint32_t i = 0; i < FX_MIXED_SUBMITS; i++)
        (void)fx_pair(&fx, i % 2, 2 + i / 2 % 2, &submits[i]);
    fx_wait_all(&fx, FX_MIXED_SUBMITS);
    fx_expect_all(&fx, submits, FX_MIXED_SUBMITS);
    fx_settled(&fx);
    fx_close(&fx);
}

/* The first token comes from the source, the others from the destination: both know what came before. */
static void test_adjusted(void **state)
{
    (void)state;
    static const uint32_t bias_ids[] = {5}, word_lengths[] = {1, 2}, word_ids[] = {9, 3, 4};
    static const float biases[] = {2};
    static const struct model_adjust adjust = {.repetition = 1.4f,
                                               .presence = 0.5f,
                                               .frequency = 0.7f,
                                               .n_biases = 1,
                                               .bias_ids = bias_ids,
                                               .biases = biases,
                                               .n_words = 2,
                                               .word_lengths = word_lengths,
                                               .word_ids = word_ids};
    fx_open(&fx,
            &(struct fx_args){.n_prefill = 1, .n_decode = 1, .chunk_tokens = 37, .loop = rough});
    static uint32_t prompts[6][128], plain[FX_TOKENS_MAX];
    struct fx_submit submits[6];
    for (uint32_t i = 0; i < 6; i++) {
        fx_prompt(prompts[i], 128, 500 + i);
        submits[i] = (struct fx_submit){.id = 1 + i,
                                        .tokens = prompts[i],
                                        .n_tokens = 5 + 20 * i,
                                        .max_tokens = 30,
                                        .temperature = i % 2 == 0 ? 0.8f : 0.0f,
                                        .seed = i,
                                        .adjust = &adjust};
        (void)fx_pair(&fx, 0, 1, &submits[i]);
    }
    fx_wait_all(&fx, 6);
    for (uint32_t i = 0; i < 6; i++) {
        fx_expect(&fx.requests[i], &submits[i]);
        uint32_t n;
        submits[i].adjust = NULL;
        fx_reference(&submits[i], plain, &n);
        assert_memory_not_equal(plain, fx.requests[i].tokens, n * sizeof(*plain));
    }
    fx_settled(&fx);
    fx_close(&fx);
}

/* The source scores the prompt, whatever the two hold of it already. */
static void test_prompt_scores(void **state)
{
    (void)state;
    fx_open(&fx,
            &(struct fx_args){.n_prefill = 1, .n_decode = 1, .chunk_tokens = 37, .loop = rough});
    uint32_t prompt[150];
    fx_prompt(prompt, 150, 62);
    for (uint32_t i = 0; i < 2; i++) {
        struct fx_submit submit = {
            .id = 1 + i, .tokens = prompt, .n_tokens = 150, .max_tokens = 5, .prompt_logprobs = 4};
        struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
        fx_wait_sent(&fx, r);
        assert_int_equal(r->computed, 150);
        assert_int_equal(r->n_scores, 149);
        fx_expect_scores(r, &submit);
        fx_expect(r, &submit);
    }
    fx_settled(&fx);
    fx_close(&fx);
}

static uint64_t block_bytes(void)
{
    return kv_block_bytes(&model_engine_info(fx.nodes[0].engine)->geometry, 0);
}

/* Bytes that the node counted, of all peers. */
static uint64_t counted_bytes(uint32_t node, bool send)
{
    struct transfer_totals totals[8];
    uint64_t bytes = 0;
    uint32_t n = transfer_totals_read(fx.nodes[node].transfer, totals, 8);
    for (uint32_t i = 0; i < n; i++)
        bytes += totals[i].send == send ? totals[i].bytes : 0;
    return bytes;
}

/* What the destination holds does not travel again; it counts every full block, the last one too. */
static void test_repeat_sends_nothing(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .loop = rough});
    uint32_t prompt[200];
    fx_prompt(prompt, 200, 40);
    static const struct {
        uint32_t n_tokens, blocks_sent, cached_at_d;
    } cases[] = {
        {100, 7, 0},  /* six full blocks and a part, which is sent whole */
        {100, 1, 96}, /* the part again */
        {96, 0, 96},  /* all full and all held: nothing is sent at all */
        {130, 3, 96}, /* blocks 6, 7, and the part */
    };
    for (uint32_t i = 0; i < 4; i++) {
        /* One token from the destination besides the first: its text adds no full block to 96. */
        struct fx_submit submit = {
            .id = 1 + i, .tokens = prompt, .n_tokens = cases[i].n_tokens, .max_tokens = 2};
        struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
        fx_wait_sent(&fx, r);
        assert_int_equal(r->transfer_bytes, cases[i].blocks_sent * block_bytes());
        assert_string_equal(r->destination, fx.nodes[1].id);
        fx_expect(r, &submit);
        fx_settled(&fx);
    }
    assert_int_equal(counted_bytes(0, true), 11 * block_bytes());
    assert_int_equal(counted_bytes(1, false), 11 * block_bytes());
    fx_close(&fx);
}

/* The end at the first token: an end id, or no more wanted. No destination starts. */
static void test_one_token(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .loop = rough});
    uint32_t prompt[40];
    fx_prompt(prompt, 40, 41);
    struct fx_submit submit = {.id = 1, .tokens = prompt, .n_tokens = 40, .max_tokens = 1};
    struct fx_request *r = fx_local(&fx, 0, &submit); /* the way the coordinator goes */
    fx_wait(&fx, r);
    assert_int_equal(r->finish, SLUICE__FINISH__FINISH_LENGTH);
    fx_expect(r, &submit);

    submit.id = 2;
    submit.max_tokens = 20;
    submit.stop_ids[0] = r->tokens[0];
    submit.n_stop_ids = 1;
    struct fx_request *s = fx_pair(&fx, 0, 1, &submit);
    fx_wait(&fx, s);
    assert_int_equal(s->finish, SLUICE__FINISH__FINISH_STOP);
    assert_int_equal(s->n, 1);
    fx_cancel(&fx, 1, 2, 1);
    fx_settled(&fx);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[1].worker, &now);
    assert_int_equal(now.steps, 0);
    fx_close(&fx);
}

/* Both are cancelled after every number of turns. */
static void test_cancel_everywhere(void **state)
{
    (void)state;
    struct transfer_loop_args loop = rough;
    loop.delay_us = 50;
    loop.land_us = 100;
    fx_open(&fx,
            &(struct fx_args){.n_prefill = 1, .n_decode = 1, .chunk_tokens = 16, .loop = loop});
    uint32_t prompt[100];
    for (uint32_t turns = 0; turns < 60; turns += 2) {
        fx_prompt(prompt, 100, 1000 + turns);
        struct fx_submit submit = {
            .id = 1 + turns, .tokens = prompt, .n_tokens = 90, .max_tokens = 500};
        struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
        for (uint32_t i = 0; i < turns; i++) {
            (void)fx_turn(&fx);
            sl_sleep_us(20);
        }
        fx_cancel(&fx, turns / 2 % 2, submit.id, 1);
        (void)fx_turn(&fx);
        fx_cancel(&fx, 1 - turns / 2 % 2, submit.id, 1);
        fx_settled(&fx);
        assert_true(r->finish == SLUICE__FINISH__FINISH_CANCELLED || r->n_failed > 0);
    }
    fx_close(&fx);
}

/* The destination dies while blocks land, after so many turns or tokens: the source says so, still holds them, and
 * sends them to another one; the first token comes again under the new attempt. */
static void redirect_after(uint32_t turns, uint32_t n_tokens)
{
    fx_open(&fx,
            &(struct fx_args){.n_prefill = 1, .n_decode = 2, .chunk_tokens = 16, .loop = rough});
    uint32_t prompt[150];
    fx_prompt(prompt, 150, 60);
    struct fx_submit submit = {
        .id = 1, .attempt = 1, .tokens = prompt, .n_tokens = 150, .max_tokens = 20, .logprobs = 3};
    struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
    for (uint32_t i = 0; i < turns && r->n < n_tokens; i++) {
        (void)fx_turn(&fx);
        sl_sleep_us(20);
    }
    if (r->n >= 2) { /* it was faster: nothing to redirect */
        fx_wait(&fx, r);
        fx_settled(&fx);
        fx_close(&fx);
        return;
    }
    fx_kill(&fx, 1);
    if (r->sent != SLUICE__FINISH__FINISH_SENT)
        fx_until(&fx, has_failed, r);
    if (r->n_failed > 0) {
        assert_true(r->failed_source && r->failed_held);
        submit.attempt = 2;
        fx_redirect(&fx, 0, &submit, 2);
        fx_wait_sent(&fx, r);
        assert_int_equal(r->finish, SLUICE__FINISH__FINISH_LENGTH);
        fx_expect(r, &submit);
        assert_int_equal(r->computed, 150); /* nothing was computed twice */
    }
    fx_settled(&fx);
    fx_close(&fx);
}

static void test_redirect(void **state)
{
    (void)state;
    for (uint32_t turns = 0; turns <= 60; turns += 12)
        redirect_after(turns, 2);
    redirect_after(UINT32_MAX, 1); /* when the first token is known */
}

/* The destination refuses (its pool is taken): the source hears FULL, and is redirected. */
static void test_refused_by_destination(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 2, .n_blocks = 14, .loop = rough});
    uint32_t prompt[200];
    fx_prompt(prompt, 200, 61);
    struct fx_submit filler = {.id = 9, .tokens = prompt + 7, .n_tokens = 150, .max_tokens = 70};
    struct fx_request *f = fx_local(&fx, 1, &filler);
    while (f->n < 1)
        (void)fx_turn(&fx);
    struct fx_submit submit = {.id = 1,
                               .attempt = 1,
                               .tokens = prompt,
                               .n_tokens = 150,
                               .max_tokens = 20,
                               .admission_us = 1000};
    struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
    fx_until(&fx, has_failed, r);
    assert_int_equal(r->failed, SLUICE__REASON__REASON_FULL);
    assert_int_equal(r->refused, SLUICE__REASON__REASON_FULL);
    r->refused = SLUICE__REASON__REASON_NONE;
    submit.attempt = 2;
    fx_redirect(&fx, 0, &submit, 2);
    fx_wait(&fx, r);
    fx_expect(r, &submit);
    fx_wait(&fx, f);
    fx_settled(&fx);
    fx_close(&fx);
}

/* A key that another stream has is refused by name, on both sides and in a redirect, and that stream goes on:
 * what the coordinator sends reaches no assertion. */
static void test_key_taken(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .loop = rough});
    uint32_t prompt[60];
    fx_prompt(prompt, 60, 63);
    struct fx_submit first = {
        .id = 1, .tokens = prompt, .n_tokens = 60, .max_tokens = 20, .key = 500};
    struct fx_submit second = {
        .id = 2, .tokens = prompt, .n_tokens = 33, .max_tokens = 20, .key = 500};
    (void)fx_send(&fx, 1, SLUICE__MODE__MODE_DECODE, &first, 0);
    struct fx_request *r = fx_send(&fx, 0, SLUICE__MODE__MODE_PREFILL, &first, 1);
    struct fx_request *other = fx_send(&fx, 1, SLUICE__MODE__MODE_DECODE, &second, 0);
    (void)fx_turn(&fx);
    assert_int_equal(other->refused, SLUICE__REASON__REASON_MISBEHAVED);
    assert_non_null(strstr(other->refused_text, "stream_key 00000000000001f4"));
    assert_non_null(strstr(other->refused_text, "request 1, attempt 1"));
    other->refused = SLUICE__REASON__REASON_NONE;
    (void)fx_send(&fx, 0, SLUICE__MODE__MODE_PREFILL, &second, 1);
    (void)fx_turn(&fx);
    assert_int_equal(other->refused, SLUICE__REASON__REASON_MISBEHAVED);
    fx_wait(&fx, r);
    fx_expect(r, &first);

    first.id = 3;
    second.id = 4;
    fx.next_key = 600;
    r = fx_pair(&fx, 0, 1, &first);
    other = fx_pair(&fx, 0, 1, &second);
    fx.next_key = 600;
    second.attempt = 2;
    fx_redirect(&fx, 0, &second, 1);
    (void)fx_turn(&fx);
    assert_int_equal(other->refused, SLUICE__REASON__REASON_MISBEHAVED);
    assert_int_equal(other->failed, SLUICE__REASON__REASON_MISBEHAVED);
    assert_false(other->failed_held);
    fx_wait(&fx, r);
    fx_expect(r, &first);
    fx_settled(&fx);
    fx_close(&fx);
}

/* The source dies: the destination says so and drains, whatever had landed. */
static void test_source_dies(void **state)
{
    (void)state;
    for (uint32_t turns = 1; turns <= 41; turns += 10) {
        fx_open(&fx, &(struct fx_args){
                         .n_prefill = 2, .n_decode = 1, .chunk_tokens = 16, .loop = rough});
        uint32_t prompt[150];
        fx_prompt(prompt, 150, 62);
        struct fx_submit submit = {
            .id = 1, .attempt = 1, .tokens = prompt, .n_tokens = 150, .max_tokens = 20};
        struct fx_request *r = fx_pair(&fx, 0, 2, &submit);
        for (uint32_t i = 0; i < turns; i++) {
            (void)fx_turn(&fx);
            sl_sleep_us(20);
        }
        fx_kill(&fx, 0);
        if (r->n >= 2) { /* it decodes already: no harm is done */
            fx_wait(&fx, r);
            fx_expect(r, &submit);
        } else {
            submit.attempt = 2;
            fx_cancel(&fx, 2, 1, 1);
            (void)fx_pair(&fx, 1, 2, &submit); /* another source, the same destination */
            fx_wait(&fx, r);
            fx_expect(r, &submit);
        }
        fx_settled(&fx);
        fx_close(&fx);
    }
}

/* A link that fails in the middle: both ends say so, both give back. */
static void test_link_cut(void **state)
{
    (void)state;
    fx_open(&fx,
            &(struct fx_args){.n_prefill = 1, .n_decode = 1, .chunk_tokens = 16, .loop = rough});
    uint32_t prompt[150];
    for (uint32_t round = 0; round < 6; round++) {
        fx_prompt(prompt, 150, 500 + round);
        struct fx_submit submit = {
            .id = 1 + round, .attempt = 1, .tokens = prompt, .n_tokens = 150, .max_tokens = 5};
        struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
        for (uint32_t i = 0; i < 6 * round; i++) {
            (void)fx_turn(&fx);
            sl_sleep_us(20);
        }
        transfer_loop_cut(fx.loop, fx.nodes[0].incarnation, fx.nodes[1].incarnation);
        while (r->finish == SLUICE__FINISH__FINISH_NONE && !r->failed_source)
            if (!fx_turn(&fx))
                sl_sleep_us(50);
        /* The same two, in a new session; the one that broke may not be seen as broken yet. */
        while (r->finish == SLUICE__FINISH__FINISH_NONE && submit.attempt < 5) {
            fx_cancel(&fx, 1, submit.id, submit.attempt++);
            r->failed_source = false;
            fx_redirect(&fx, 0, &submit, 1);
            while (r->finish == SLUICE__FINISH__FINISH_NONE && !r->failed_source)
                if (!fx_turn(&fx))
                    sl_sleep_us(50);
        }
        fx_expect(r, &submit);
        fx_cancel(&fx, 0, submit.id, 9);
        fx_settled(&fx);
    }
    fx_close(&fx);
}

/* Nobody takes the blocks: they go when the hold time is over. Release: at once. */
static void test_hold(void **state)
{
    (void)state;
    sl_clock_fake(1000 * SL_SECOND_US);
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .n_blocks = 20});
    uint32_t prompt[150];
    fx_prompt(prompt, 150, 63);
    struct fx_submit submit = {
        .id = 1, .tokens = prompt, .n_tokens = 150, .max_tokens = 20, .key = 5};
    /* No Submit for the destination. */
    struct fx_request *r = fx_send(&fx, 0, SLUICE__MODE__MODE_PREFILL, &submit, 1);
    fx_until(&fx, has_token, r);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[0].worker, &now);
    assert_int_equal(now.held, 1);
    assert_int_equal(now.blocks.used, 10);
    /* 10 of 20 blocks are held, more than 40%: no new prefill begins. */
    struct fx_submit other = {
        .id = 2, .tokens = prompt + 9, .n_tokens = 20, .max_tokens = 20, .key = 6};
    struct fx_request *o = fx_send(&fx, 0, SLUICE__MODE__MODE_PREFILL, &other, 1);
    for (uint32_t i = 0; i < 50; i++)
        (void)fx_turn(&fx);
    assert_int_equal(o->n_admitted, 0);
    fx_release(&fx, 0, 1, 1);
    fx_until(&fx, has_token, o);
    assert_int_equal(o->n_admitted, 1);
    for (uint32_t i = 0; i < 40; i++) { /* in steps, or the deadlines of the beats would pass too */
        sl_clock_advance(SL_SECOND_US / 2);
        for (uint32_t k = 0; k < 5; k++)
            (void)fx_turn(&fx);
    }
    fx_settled(&fx);
    assert_int_equal(o->finish, SLUICE__FINISH__FINISH_ERROR);
    fx_close(&fx);
    sl_clock_real();
}

/* A Redirect for what is gone is answered: not held. */
static void test_redirect_unknown(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .loop = rough});
    uint32_t prompt[40];
    fx_prompt(prompt, 40, 64);
    struct fx_submit submit = {
        .id = 1, .attempt = 2, .tokens = prompt, .n_tokens = 40, .max_tokens = 20};
    fx_redirect(&fx, 0, &submit, 1);
    fx_until(&fx, has_failed, &fx.requests[0]);
    assert_true(fx.requests[0].failed_source && !fx.requests[0].failed_held);
    fx_cancel(&fx, 1, 1, 2);
    fx_settled(&fx);
    fx_close(&fx);
}

/* Bytes that were spoilt on the way are found by the digest: refused, and sent again. */
static void test_spoilt(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .verify = true, .loop = rough});
    uint32_t prompt[100];
    fx_prompt(prompt, 100, 65);
    struct fx_submit submit = {
        .id = 1, .attempt = 1, .tokens = prompt, .n_tokens = 100, .max_tokens = 10};
    assert_ok(sl_fault_configure("transfer_spoil@3=fail:1"));
    struct fx_request *r = fx_pair(&fx, 0, 1, &submit);
    fx_until(&fx, has_failed, r);
    sl_fault_clear();
    assert_true(r->n <= 1); /* the destination never started */
    assert_int_equal(r->failed, SLUICE__REASON__REASON_CORRUPT);
    while (!r->failed_source)
        (void)fx_turn(&fx);
    submit.attempt = 2;
    fx_redirect(&fx, 0, &submit, 1);
    fx_wait(&fx, r);
    fx_expect(r, &submit);
    fx_settled(&fx);
    fx_close(&fx);
}

/* Sequences that came over the wire are preempted and recomputed where they are. */
static void test_preempted_destination(void **state)
{
    (void)state;
    fx_open(&fx, &(struct fx_args){.n_prefill = 1, .n_decode = 1, .n_blocks = 16, .loop = rough});
    static uint32_t prompts[5][16];
    struct fx_submit submits[5];
    for (uint32_t i = 0; i < 5; i++) {
        fx_prompt(prompts[i], 16, 70 + i);
        submits[i] = (struct fx_submit){
            .id = 1 + i, .tokens = prompts[i], .n_tokens = 12 + i, .max_tokens = 90};
        (void)fx_pair(&fx, 0, 1, &submits[i]);
    }
    fx_wait_all(&fx, 5);
    struct worker_snapshot now;
    worker_snapshot(fx.nodes[1].worker, &now);
    assert_true(now.preemptions > 0);
    fx_expect_all(&fx, submits, 5);
    fx_settled(&fx);
    fx_close(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_adjusted),
        cmocka_unit_test(test_prompt_scores),
        cmocka_unit_test(test_repeat_sends_nothing),
        cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_cancel_everywhere),
        cmocka_unit_test(test_redirect),
        cmocka_unit_test(test_refused_by_destination),
        cmocka_unit_test(test_key_taken),
        cmocka_unit_test(test_source_dies),
        cmocka_unit_test(test_link_cut),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_redirect_unknown),
        cmocka_unit_test(test_spoilt),
        cmocka_unit_test(test_preempted_destination),
    };
    return cmocka_run_group_tests(tests, NULL, fx_models_remove);
}
