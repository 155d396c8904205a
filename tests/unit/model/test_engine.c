/* The engine's contract: what comes out is a function of tokens and positions, not of how the work
 * was cut; readiness, holds, failures and refusals.
 *
 * The models are those of the golden files: llama-96 (4 layers), qwen3-128, qwen2-64. */
#include "engine_run.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "support/support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define LLAMA    "llama-96-14"
#define N_LAYERS 4
#define QWEN3    "qwen3-128-20"
#define QWEN2    "qwen2-64-27"
#define GEMMA3   "gemma3-128-338"
#define EXPERTS  "qwen3-moe-fused-447"
#define N_PROMPT (TEST_TSAN ? 104 : 200)
#define N_AFTER  6 /* tokens decoded after the prompt */

static uint32_t prompt_token(uint32_t which, uint32_t i)
{
    uint32_t x = (which * 7919 + i) * 2654435761u;
    return 2 + (x >> 16) % 280;
}

/* Logits of the prompt, and of tokens that follow it one by one: what two ways of computing must
 * share bit for bit. */
struct trace {
    uint32_t vocab;
    float *logits; /* [N_PROMPT + N_AFTER][vocab] */
    uint32_t tokens[N_AFTER];
};

static struct trace *trace_create(const struct model_engine *engine)
{
    struct trace *trace = sl_zalloc(1, sizeof(*trace));
    trace->vocab = model_engine_info(engine)->vocab;
    trace->logits = sl_zalloc((N_PROMPT + N_AFTER) * (size_t)trace->vocab, sizeof(float));
    return trace;
}

static void trace_destroy(struct trace *trace)
{
    sl_free(trace->logits);
    sl_free(trace);
}

static void fill_prompt(uint32_t which, uint32_t *tokens)
{
    for (uint32_t i = 0; i < N_PROMPT; i++)
        tokens[i] = prompt_token(which, i);
}

static void keep_logits(const struct model_engine *engine, struct trace *trace, uint32_t first)
{
    uint32_t n;
    const float *logits = model_engine_logits(engine, &n);
    assert_non_null(logits);
    assert_true(first + n <= N_PROMPT + N_AFTER);
    memcpy(trace->logits + (size_t)first * trace->vocab, logits,
           (size_t)n * trace->vocab * sizeof(float));
}

static uint32_t argmax(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* The prompt in chunks, then greedy tokens; `company` other sequences decode in every batch. */
static struct trace *run_trace(struct model_engine *engine, uint32_t chunk, uint32_t company)
{
    uint32_t tokens[N_PROMPT], others[RUN_SEQS_MAX][N_PROMPT];
    struct run_seq seq = run_seq_of(0, 3, 7), other[RUN_SEQS_MAX];
    struct model_run runs[RUN_SEQS_MAX];
    struct trace *trace = trace_create(engine);
    fill_prompt(0, tokens);
    for (uint32_t i = 0; i < company; i++) {
        fill_prompt(i + 1, others[i]);
        other[i] = run_seq_of(1 + i, 40 + i, 9); /* own blocks for the few tokens that it has */
        other[i].table[1] = 60 + i;
    }
    uint32_t done = 0, step = 0;
    while (done < N_PROMPT + N_AFTER) {
        uint32_t n = done < N_PROMPT ? (N_PROMPT - done < chunk ? N_PROMPT - done : chunk) : 1;
        const uint32_t *from = done < N_PROMPT ? tokens + done : trace->tokens + done - N_PROMPT;
        uint32_t n_runs = 0;
        for (uint32_t i = 0; i < company && step + 3 < N_PROMPT; i++)
            if (other[i].n_tokens + 3 < 100)
                runs[n_runs++] = run_next(&other[i], others[i] + step, 1 + i % 3,
                                          i % 2 ? MODEL_LOGITS_LAST : MODEL_LOGITS_NONE);
        runs[n_runs++] = run_next(&seq, from, n, MODEL_LOGITS_ALL);
        (void)run_batch(engine, runs, n_runs);
        keep_logits(engine, trace, done);
        done += n;
        step++;
        if (done >= N_PROMPT && done < N_PROMPT + N_AFTER)
            trace->tokens[done - N_PROMPT] =
                argmax(trace->logits + (size_t)(done - 1) * trace->vocab, trace->vocab);
    }
    return trace;
}

static void same_trace(struct trace *a, struct trace *b)
{
    assert_int_equal(a->vocab, b->vocab);
    for (uint32_t i = 0; i < N_PROMPT + N_AFTER; i++)
        if (memcmp(a->logits + (size_t)i * a->vocab, b->logits + (size_t)i * a->vocab,
                   a->vocab * sizeof(float)) != 0)
            fail_msg("the logits differ at position %u", i);
    trace_destroy(b);
}

static void check_contract(const char *model, const char *backend, const char *kv_type)
{
    struct model_engine *engine = run_open(run_model_path(model), backend, kv_type, 1);
    struct trace *whole = run_trace(engine, N_PROMPT, 0);
    same_trace(whole, run_trace(engine, 37, 0)); /* blocks hold another run's bytes by now */
    same_trace(whole, run_trace(engine, 128, 5));
    same_trace(whole, run_trace(engine, 64, 13));
    if (strcmp(backend, "cpu") == 0) {
        same_trace(whole, run_trace(engine, 1, 2));
        struct model_engine *two = run_open(run_model_path(model), backend, kv_type, 2);
        same_trace(whole, run_trace(two, N_PROMPT, 0));
        same_trace(whole, run_trace(two, 37, 3));
        model_engine_close(two);
    }
    trace_destroy(whole);
    model_engine_close(engine);
}

static void test_contract_cpu(void **state)
{
    (void)state;
    check_contract(LLAMA, "cpu", "bf16");
    if (TEST_TSAN) {
        print_message("thread sanitizer: prompts of %d tokens, the contract on one model\n",
                      N_PROMPT);
        return;
    }
    check_contract(QWEN3, "cpu", "f32");
    check_contract(QWEN2, "cpu", "bf16");
    check_contract(GEMMA3, "cpu", "bf16");
    check_contract(EXPERTS, "cpu", "f32");
}

static void test_contract_ref(void **state)
{
    (void)state;
    check_contract(LLAMA, "ref", "bf16");
}

static void test_fake_is_ref(void **state)
{
    (void)state;
    struct model_engine *ref = run_open(run_model_path(QWEN3), "ref", "bf16", 1);
    struct model_engine *fake = run_open(run_model_path(QWEN3), "fake", "bf16", 1);
    struct trace *trace = run_trace(ref, 100, 2);
    same_trace(trace, run_trace(fake, 100, 2));
    trace_destroy(trace);
    model_engine_close(ref);
    model_engine_close(fake);
}

/* MODEL_TOKEN_PREVIOUS, two tickets in flight, against tokens fed by hand; greedy and seeded. */
static void test_previous_token(void **state)
{
    const char *backend = *state;
    struct model_engine *engine = run_open(run_model_path(LLAMA), backend, "bf16", 1);
    const uint32_t previous = MODEL_TOKEN_PREVIOUS;
    for (uint32_t sampled = 0; sampled < 2; sampled++) {
        uint32_t tokens[N_PROMPT], by_hand[12];
        struct run_seq seq = run_seq_of(5, 1, 3), again = run_seq_of(5, 30, 3);
        fill_prompt(sampled, tokens);
        struct model_run run = run_next(&seq, tokens, 20, MODEL_LOGITS_LAST);
        for (uint32_t i = 0; i < 12; i++) {
            run.sampling.temperature = sampled ? 0.9f : 0;
            run.sampling.seed = 77;
            by_hand[i] = run_one(engine, run).results[0].token.id;
            run = run_next(&seq, &by_hand[i], 1, MODEL_LOGITS_LAST);
        }
        uint64_t tickets[12];
        run = run_next(&again, tokens, 20, MODEL_LOGITS_LAST);
        for (uint32_t i = 0; i < 13; i++) {
            if (i < 12) {
                run.sampling.temperature = sampled ? 0.9f : 0;
                run.sampling.seed = 77;
                const struct model_batch batch = {&run, 1};
                assert_int_equal(model_engine_submit(engine, &batch, &tickets[i]), SL_OK);
                run = run_next(&again, &previous, 1, MODEL_LOGITS_LAST);
            }
            if (i > 0)
                assert_int_equal(run_wait(engine, tickets[i - 1]).results[0].token.id,
                                 by_hand[i - 1]);
        }
    }
    model_engine_close(engine);
}

/* A slot that has sampled nothing fails its own run alone. */
static void test_previous_missing(void **state)
{
    (void)state;
    struct model_engine *engine = run_open(run_model_path(LLAMA), "cpu", "bf16", 1);
    const uint32_t previous = MODEL_TOKEN_PREVIOUS, token = 5;
    struct run_seq a = run_seq_of(0, 1, 3), b = run_seq_of(1, 2, 3);
    struct model_run runs[] = {run_next(&a, &previous, 1, MODEL_LOGITS_LAST),
                               run_next(&b, &token, 1, MODEL_LOGITS_LAST)};
    struct model_event event = run_batch(engine, runs, 2);
    assert_int_equal(event.results[0].status, SL_CANCELLED);
    assert_false(event.results[0].sampled);
    assert_int_equal(event.results[0].user, 100);
    assert_int_equal(event.results[1].status, SL_OK);
    assert_true(event.results[1].sampled);
    model_engine_close(engine);
}

/* Layer groups are reported in order, before RETIRED, each once, and their KV is final then: the
 * copy taken at the report equals the pool's bytes at the end. */
static void test_readiness(void **state)
{
    const char *backend = *state;
    struct model_engine_args args = {
        .directory = run_model_path(LLAMA),
        .backend = backend,
        .n_threads = 1,
        .n_blocks = 4,
        .block_tokens = 64,
        .kv_type = "bf16",
        .rows_max = 128,
        .seqs_max = 2,
        .layers_per_group = 3,
        .seed = 3,
    };
    struct model_engine *engine;
    assert_int_equal(model_engine_open(&args, &engine), SL_OK);
    const struct kv_geometry *geometry = &model_engine_info(engine)->geometry;
    const struct device_memory *pool = model_engine_kv(engine, 0);
    size_t layer_bytes = kv_layer_bytes(geometry, 0), block_bytes = kv_block_bytes(geometry, 0);
    unsigned char *early = sl_zalloc(1, 3 * layer_bytes);
    uint32_t tokens[N_PROMPT];
    fill_prompt(2, tokens);
    struct run_seq seq = {.slot = 1, .table = {2, 1}};
    struct model_run run = run_next(&seq, tokens, 64, MODEL_LOGITS_LAST);
    run.n_blocks = 1;
    const struct model_batch batch = {&run, 1};
    uint64_t ticket;
    assert_int_equal(model_engine_submit(engine, &batch, &ticket), SL_OK);
    const uint32_t ends[] = {3, 4};
    uint32_t n_ready = 0;
    struct model_event event = {0};
    while (event.type != MODEL_EVENT_RETIRED) {
        if (!model_engine_poll(engine, &event)) {
            event.type = MODEL_EVENT_LAYERS_READY;
            sl_sleep_us(10);
            continue;
        }
        assert_int_equal(event.ticket, 1);
        if (event.type == MODEL_EVENT_RETIRED)
            break;
        assert_true(n_ready < 2);
        assert_int_equal(event.layer_end, ends[n_ready++]);
        if (n_ready == 1) /* what a transport would send now */
            memcpy(early, device_export(pool, 2 * block_bytes, 3 * layer_bytes), 3 * layer_bytes);
    }
    assert_int_equal(n_ready, 2);
    assert_int_equal(event.status, SL_OK);
    assert_memory_equal(early, device_export(pool, 2 * block_bytes, 3 * layer_bytes),
                        3 * layer_bytes);
    assert_int_equal(model_engine_steps(engine), 1);
    sl_free(early);
    model_engine_close(engine);
}

/* Held before layer 2 of 4: the groups before it are reported, the later ones and RETIRED are not,
 * and the engine counts as stalled. */
static void test_hold(void **state)
{
    const char *backend = *state;
    struct model_engine *engine = run_open(run_model_path(LLAMA), backend, "bf16", 1);
    char path[] = "/tmp/sluice-hold-XXXXXX", fault[128];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(unlink(path), 0);
    snprintf(fault, sizeof(fault), "engine_layer@2=hold:%s", path);
    assert_int_equal(sl_fault_configure(fault), SL_OK);

    uint32_t tokens[N_PROMPT];
    fill_prompt(0, tokens);
    struct run_seq seq = run_seq_of(0, 1, 3);
    struct model_run run = run_next(&seq, tokens, 100, MODEL_LOGITS_LAST);
    const struct model_batch batch = {&run, 1};
    uint64_t ticket;
    assert_int_equal(model_engine_stalled_us(engine), 0);
    assert_int_equal(model_engine_submit(engine, &batch, &ticket), SL_OK);
    struct model_event event;
    uint32_t n_ready = 0;
    uint64_t ready_us = sl_now_us();
    while (n_ready < 2 || sl_now_us() - ready_us < 150 * SL_MS_US) {
        if (model_engine_poll(engine, &event)) {
            assert_int_equal(event.type, MODEL_EVENT_LAYERS_READY);
            assert_int_equal(event.layer_end, ++n_ready);
            ready_us = sl_now_us();
        }
        sl_sleep_us(1000);
    }
    assert_int_equal(n_ready, 2);
    assert_true(model_engine_stalled_us(engine) > 50 * SL_MS_US);
    FILE *go = fopen(path, "we");
    assert_non_null(go);
    fclose(go);
    assert_int_equal(run_wait(engine, ticket).status, SL_OK);
    assert_int_equal(model_engine_stalled_us(engine), 0);
    sl_fault_clear();
    unlink(path);
    model_engine_close(engine);
}

/* A failing step says so, leaves the engine usable, and a slot's token of before is gone. */
static void test_failures(void **state)
{
    const char *backend = *state;
    struct model_engine *engine = run_open(run_model_path(LLAMA), backend, "bf16", 1);
    const char *faults[] = {"engine_step=fail:1", "engine_layer@1=fail:1"};
    uint32_t tokens[N_PROMPT];
    fill_prompt(0, tokens);
    struct run_seq seq = run_seq_of(0, 1, 3);
    uint32_t first =
        run_one(engine, run_next(&seq, tokens, 30, MODEL_LOGITS_LAST)).results[0].token.id;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(sl_fault_configure(faults[i]), SL_OK);
        seq.n_tokens = 0;
        struct model_run run = run_next(&seq, tokens, 30, MODEL_LOGITS_LAST);
        const struct model_batch batch = {&run, 1};
        uint64_t ticket;
        assert_int_equal(model_engine_submit(engine, &batch, &ticket), SL_OK);
        struct model_event event = run_wait(engine, ticket);
        assert_int_equal(event.status, SL_DEVICE);
        assert_non_null(strstr(event.error, "fault point"));
        assert_false(event.results[0].sampled);
        sl_fault_clear();
        seq.n_tokens = 0;
        assert_int_equal(
            run_one(engine, run_next(&seq, tokens, 30, MODEL_LOGITS_LAST)).results[0].token.id,
            first);
    }
    model_engine_close(engine);
}

/* NaN in one sequence's KV fails that sequence alone. */
static void test_bad_kv(void **state)
{
    (void)state;
    struct model_engine *engine = run_open(run_model_path(LLAMA), "cpu", "bf16", 1);
    uint32_t tokens[N_PROMPT];
    fill_prompt(0, tokens);
    struct run_seq a = run_seq_of(0, 1, 3), b = run_seq_of(1, 2, 3);
    (void)run_one(engine, run_next(&a, tokens, 70, MODEL_LOGITS_NONE));
    (void)run_one(engine, run_next(&b, tokens, 70, MODEL_LOGITS_NONE));
    const struct device_memory *pool = model_engine_kv(engine, 0);
    size_t bytes = kv_block_bytes(&model_engine_info(engine)->geometry, 0);
    memset((char *)pool->address + a.table[0] * bytes, 0xff, bytes);
    struct model_run runs[] = {run_next(&a, tokens, 1, MODEL_LOGITS_LAST),
                               run_next(&b, tokens, 1, MODEL_LOGITS_LAST)};
    struct model_event event = run_batch(engine, runs, 2);
    assert_int_equal(event.results[0].status, SL_CORRUPT);
    assert_true(event.results[1].sampled);
    model_engine_close(engine);
}

/* Blocks that the table does not name, and slots behind the last token, hold NaN: nobody reads them. */
static void test_unused_is_unread(void **state)
{
    const char *backend = *state;
    struct model_engine *engine = run_open(run_model_path(QWEN3), backend, "bf16", 1);
    struct trace *clean = run_trace(engine, 50, 0);
    const struct device_memory *pool = model_engine_kv(engine, 0);
    memset(pool->address, 0xff, pool->bytes);
    same_trace(clean, run_trace(engine, 50, 0));
    trace_destroy(clean);
    model_engine_close(engine);
}

/* A copied block is as good as the one it was copied from. */
static void test_copy_block(void **state)
{
    const char *backend = *state;
    struct model_engine *engine = run_open(run_model_path(LLAMA), backend, "bf16", 1);
    uint32_t tokens[N_PROMPT];
    fill_prompt(0, tokens);
    struct run_seq seq = run_seq_of(0, 0, 1), copy = run_seq_of(1, 0, 1);
    (void)run_one(engine, run_next(&seq, tokens, 80, MODEL_LOGITS_NONE));
    copy.table[1] = 70;
    copy.n_tokens = 80;
    assert_int_equal(model_engine_copy_block(engine, 0, 70, seq.table[1]), SL_OK);
    struct model_run runs[] = {run_next(&seq, tokens + 80, 1, MODEL_LOGITS_LAST),
                               run_next(&copy, tokens + 90, 1, MODEL_LOGITS_LAST)};
    uint32_t other = run_batch(engine, runs, 2).results[1].token.id;
    copy.n_tokens = 80;
    uint32_t alone =
        run_one(engine, run_next(&copy, tokens + 90, 1, MODEL_LOGITS_LAST)).results[0].token.id;
    assert_int_equal(other, alone);
    seq.n_tokens = 80; /* the first one's own slot 80 is its own */
    (void)run_one(engine, run_next(&seq, tokens + 90, 1, MODEL_LOGITS_LAST));
    assert_int_equal(model_engine_copy_block(engine, 0, 3, 3), SL_INVALID);
    assert_int_equal(model_engine_copy_block(engine, 0, RUN_BLOCKS, 3), SL_INVALID);
    assert_int_equal(model_engine_copy_block(engine, 1, 4, 3), SL_INVALID);
    for (uint32_t i = 0; i < 256; i++)
        assert_int_equal(model_engine_copy_block(engine, 0, 4, 3), SL_OK);
    assert_int_equal(model_engine_copy_block(engine, 0, 4, 3), SL_EXHAUSTED);
    model_engine_close(engine);
}

/* ---- refusals ---- */

static void refuse_batch(struct model_engine *engine, const struct model_run *runs, uint32_t n_runs,
                         const char *sentence)
{
    const struct model_batch batch = {.runs = runs, .n_runs = n_runs};
    uint64_t ticket;
    assert_int_equal(model_engine_submit(engine, &batch, &ticket), SL_INVALID);
    if (strstr(sl_error(), sentence) == NULL)
        fail_msg("%s; want: %s", sl_error(), sentence);
}

static void test_submit_refusals(void **state)
{
    (void)state;
    struct model_engine *engine = run_open(run_model_path(LLAMA), "cpu", "bf16", 1);
    static uint32_t tokens[RUN_ROWS_MAX + 1];
    struct run_seq seq = run_seq_of(0, 1, 3);
    const struct model_run good = run_next(&seq, tokens, 3, MODEL_LOGITS_LAST);
    struct model_run run = good;
    refuse_batch(engine, &run, 0, "batch of 0 runs");
    refuse_batch(engine, &run, RUN_SEQS_MAX + 1, "batch of 17 runs; want 1..16");
    run.slot = RUN_SEQS_MAX;
    refuse_batch(engine, &run, 1, "slot 16; want below 16");
    run = good;
    run.n_tokens = 0;
    refuse_batch(engine, &run, 1, "no tokens");
    run.n_tokens = RUN_ROWS_MAX + 1;
    refuse_batch(engine, &run, 1, "1025 rows; at most 1024");
    run = good;
    run.n_blocks = 0;
    refuse_batch(engine, &run, 1, "0 blocks for 3 tokens; want 1");
    run = good;
    run.first_position = 62;
    run.n_blocks = 1;
    refuse_batch(engine, &run, 1, "1 blocks for 65 tokens; want 2");
    run = good;
    run.first_position = 32766;
    refuse_batch(engine, &run, 1, "the context is 32768");
    run.first_position = UINT32_MAX;
    refuse_batch(engine, &run, 1, "the context is 32768");
    run = good;
    const uint32_t bad_table[] = {RUN_BLOCKS};
    run.block_tables[0] = bad_table;
    run.n_blocks = 1;
    refuse_batch(engine, &run, 1, "block 80 of a pool of 80");
    run = good;
    const uint32_t bad_tokens[] = {1, 288, 1};
    run.tokens = bad_tokens;
    refuse_batch(engine, &run, 1, "token 288; the vocabulary has 288");
    run = good;
    run.sampling.top_p = 2;
    refuse_batch(engine, &run, 1, "top_p");
    struct model_run two[] = {good, good};
    refuse_batch(engine, two, 2, "slot 0 is in the batch twice");
    two[1].slot = 1;
    two[0].logits = two[1].logits = MODEL_LOGITS_ALL;
    refuse_batch(engine, two, 2, "2 runs that want all logits");

    uint64_t tickets[MODEL_TICKETS_MAX + 1];
    const struct model_batch batch = {&good, 1};
    for (uint32_t i = 0; i < MODEL_TICKETS_MAX; i++)
        assert_int_equal(model_engine_submit(engine, &batch, &tickets[i]), SL_OK);
    assert_int_equal(model_engine_submit(engine, &batch, &tickets[0]), SL_AGAIN);
    (void)run_wait(engine, 1);
    assert_int_equal(model_engine_submit(engine, &batch, &tickets[2]), SL_OK);
    (void)run_wait(engine, 3);
    model_engine_close(engine);
}

static void refuse_open(const struct model_engine_args *args, sl_status want, const char *sentence)
{
    struct model_engine *engine;
    sl_status status = model_engine_open(args, &engine);
    if (status != want || strstr(sl_error(), sentence) == NULL)
        fail_msg("%s: %s; want: %s", sl_status_name(status), sl_error(), sentence);
}

static void test_open_refusals(void **state)
{
    (void)state;
    const struct model_engine_args good = {.directory = run_model_path(LLAMA),
                                           .backend = "ref",
                                           .n_threads = 1,
                                           .n_blocks = 2,
                                           .block_tokens = 64,
                                           .kv_type = "bf16",
                                           .rows_max = 8,
                                           .seqs_max = 2};
    struct model_engine_args args = good;
    args.directory = "/nowhere";
    refuse_open(&args, SL_NOT_FOUND, "/nowhere/config.json");
    args = good;
    args.backend = "abacus";
    refuse_open(&args, SL_NOT_FOUND, "abacus");
    args = good;
    args.kv_type = "f64";
    refuse_open(&args, SL_INVALID, "KV type 'f64'");
    args = good;
    args.block_tokens = 48;
    refuse_open(&args, SL_INVALID, "48");
    args = good;
    args.rows_max = 0;
    refuse_open(&args, SL_INVALID, "rows_max 0");
    args = good;
    args.seqs_max = MODEL_SEQS_MAX + 1;
    refuse_open(&args, SL_INVALID, "seqs_max 257");
    args = good;
    args.n_blocks = 0;
    refuse_open(&args, SL_INVALID, "n_blocks 0");
    args = good;
    args.n_blocks = 0xfffffff0u;
    refuse_open(&args, SL_NO_MEMORY, "KV blocks of");
    args = good;
    args.context_max = 32769;
    refuse_open(&args, SL_INVALID, "a context of 32769 tokens; the model has 1..32768");
}

/* A shorter context than the model's: positions end there. */
static void test_context_limit(void **state)
{
    (void)state;
    const struct model_engine_args args = {.directory = run_model_path(LLAMA),
                                           .backend = "ref",
                                           .n_threads = 1,
                                           .n_blocks = 4,
                                           .block_tokens = 64,
                                           .context_max = 70,
                                           .kv_type = "bf16",
                                           .rows_max = 8,
                                           .seqs_max = 2};
    const uint32_t tokens[] = {5, 6}, table[] = {1, 2};
    struct model_engine *engine = NULL;
    assert_int_equal(model_engine_open(&args, &engine), SL_OK);
    assert_int_equal(model_engine_info(engine)->context_max, 70);
    struct model_run run = {.tokens = tokens,
                            .n_tokens = 2,
                            .first_position = 69,
                            .block_tables = {table},
                            .n_blocks = 2};
    const struct model_batch batch = {&run, 1};
    uint64_t ticket;
    assert_int_equal(model_engine_submit(engine, &batch, &ticket), SL_INVALID);
    assert_non_null(strstr(sl_error(), "ends at position 71; the context is 70"));
    run.first_position = 68;
    assert_int_equal(model_engine_submit(engine, &batch, &ticket), SL_OK);
    assert_int_equal(run_wait(engine, ticket).status, SL_OK);
    model_engine_close(engine);
}

/* Every allocation and device call that can fail is made to fail in turn while opening and running. */
static void torture(const char *model)
{
    const struct model_engine_args args = {.directory = run_model_path(model),
                                           .backend = "fake",
                                           .n_threads = 1,
                                           .n_blocks = 2,
                                           .block_tokens = 16,
                                           .kv_type = "bf16",
                                           .rows_max = 8,
                                           .seqs_max = 2};
    const uint32_t tokens[] = {5, 6, 7}, table[] = {1};
    uint64_t nth = 1;
    sl_log_set_level(SL_LOG_ERROR);
    for (bool fired = true; fired; nth++) {
        struct model_engine *engine = NULL;
        sl_fault_torture(nth);
        sl_status status = model_engine_open(&args, &engine);
        if (status == SL_OK) {
            const struct model_run run = {.tokens = tokens,
                                          .n_tokens = 3,
                                          .block_tables = {table},
                                          .n_blocks = 1,
                                          .logits = MODEL_LOGITS_ALL};
            const struct model_batch batch = {&run, 1};
            uint64_t ticket;
            status = model_engine_submit(engine, &batch, &ticket);
            if (status == SL_OK)
                status = run_wait(engine, ticket).status;
        }
        fired = sl_fault_fired();
        sl_fault_torture(0);
        assert_true(fired ? true : status == SL_OK);
        model_engine_close(engine);
        assert_true(nth < 2000);
    }
    sl_log_set_level(SL_LOG_INFO);
    assert_true(nth > 50);
}

static void test_torture(void **state)
{
    (void)state;
    torture(QWEN2);
    torture(EXPERTS);
}

/* The digest is the same with and without its manifest, follows the bytes, and is part of the
 * identity together with KV type and block size. */
static void read_identity(const char *directory, const char *cache, const char *kv_type,
                          uint32_t block_tokens, uint8_t identity_out[16])
{
    const struct model_engine_args args = {.directory = directory,
                                           .backend = "ref",
                                           .n_threads = 1,
                                           .n_blocks = 1,
                                           .block_tokens = block_tokens,
                                           .kv_type = kv_type,
                                           .rows_max = 1,
                                           .seqs_max = 1,
                                           .digest_cache = cache};
    struct model_engine *engine;
    if (model_engine_open(&args, &engine) != SL_OK)
        fail_msg("%s", sl_error());
    memcpy(identity_out, model_engine_info(engine)->identity, 16);
    model_engine_close(engine);
}

static uint32_t count_files(const char *directory)
{
    char command[256], text[32] = "";
    snprintf(command, sizeof(command), "ls -A %s | wc -l", directory);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(text, sizeof(text), pipe));
    pclose(pipe);
    return (uint32_t)strtoul(text, NULL, 10);
}

static void test_identity(void **state)
{
    (void)state;
    char cache[] = "/tmp/sluice-digest-XXXXXX", command[512];
    uint8_t first[16], second[16];
    assert_non_null(mkdtemp(cache));
    read_identity(run_model_path(LLAMA), cache, "bf16", 64, first);
    assert_int_equal(count_files(cache), 1);
    read_identity(run_model_path(LLAMA), cache, "bf16", 64, second); /* from the manifest */
    assert_memory_equal(first, second, 16);
    read_identity(run_model_path(LLAMA), "/nowhere", "bf16", 64, second); /* cannot be written */
    assert_memory_equal(first, second, 16);
    read_identity(run_model_path(LLAMA), cache, "f32", 64, second);
    assert_memory_not_equal(first, second, 16);
    read_identity(run_model_path(LLAMA), cache, "bf16", 32, second);
    assert_memory_not_equal(first, second, 16);
    read_identity(run_model_path(QWEN2), cache, "bf16", 64, second);
    assert_memory_not_equal(first, second, 16);
    assert_int_equal(count_files(cache), 2);

    /* A copy has the same identity; with one bit of a weight turned it has another. */
    char copy[] = "/tmp/sluice-model-XXXXXX", path[256];
    assert_non_null(mkdtemp(copy));
    snprintf(command, sizeof(command), "cp %s/* %s/", run_model_path(LLAMA), copy);
    assert_int_equal(system(command), 0);
    read_identity(copy, cache, "bf16", 64, second);
    assert_memory_equal(first, second, 16);
    snprintf(path, sizeof(path), "%s/model-00002-of-00003.safetensors", copy);
    FILE *file = fopen(path, "r+e");
    assert_non_null(file);
    assert_int_equal(fseek(file, -7, SEEK_END), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, -7, SEEK_END), 0);
    assert_true(fputc(byte ^ 1, file) != EOF);
    assert_int_equal(fclose(file), 0);
    read_identity(copy, cache, "bf16", 64, second);
    assert_memory_not_equal(first, second, 16);
    snprintf(command, sizeof(command), "rm -r %s %s", copy, cache);
    assert_int_equal(system(command), 0);
}

/* Weights that do not fit the config: which tensor, which shape. */
static void test_wrong_weights(void **state)
{
    (void)state;
    char copy[] = "/tmp/sluice-model-XXXXXX", command[512];
    assert_non_null(mkdtemp(copy));
    const struct model_engine_args args = {.directory = copy,
                                           .backend = "ref",
                                           .n_threads = 1,
                                           .n_blocks = 1,
                                           .block_tokens = 64,
                                           .kv_type = "bf16",
                                           .rows_max = 1,
                                           .seqs_max = 1,
                                           .digest_cache = "/nowhere"};
    const struct {
        const char *model, *edit;
        sl_status status;
        const char *sentence;
    } cases[] = {
        {QWEN2, "s/\"intermediate_size\": 160/\"intermediate_size\": 168/", SL_INVALID,
         "model.layers.0.mlp.gate_proj.weight has shape [160][112]; config.json wants [168][112]"},
        {QWEN2, "s/\"num_hidden_layers\": 3/\"num_hidden_layers\": 4/", SL_NOT_FOUND,
         "model.layers.3.input_layernorm.weight is missing"},
        {QWEN2, "s/\"tie_word_embeddings\": true/\"tie_word_embeddings\": false/", SL_NOT_FOUND,
         "lm_head.weight is missing"},
        {QWEN2, "s/\"model_type\": \"qwen2\"/\"model_type\": \"qwen3\"/", SL_NOT_FOUND,
         "model.layers.0.self_attn.q_norm.weight is missing"},
        {QWEN2, "s/\"vocab_size\": 320/\"vocab_size\": 321/", SL_INVALID,
         "model.embed_tokens.weight has shape [320][112]"},
        {EXPERTS, "s/\"num_experts\": 12/\"num_experts\": 13/", SL_INVALID,
         "model.layers.1.mlp.gate.weight has shape [12][80]; config.json wants [13][80]"},
        {EXPERTS, "s/\"moe_intermediate_size\": 40/\"moe_intermediate_size\": 48/", SL_INVALID,
         "model.layers.1.mlp.experts.gate_up_proj has shape [12][80][80]; config.json wants "
         "[12][96][80]"},
        {EXPERTS, "s/\"decoder_sparse_step\": 2/\"decoder_sparse_step\": 1/", SL_NOT_FOUND,
         "model.layers.0.mlp.gate.weight is missing"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(command, sizeof(command), "cp %s/* %s/ && sed -i '%s' %s/config.json",
                 run_model_path(cases[i].model), copy, cases[i].edit, copy);
        assert_int_equal(system(command), 0);
        refuse_open(&args, cases[i].status, cases[i].sentence);
    }
    snprintf(command, sizeof(command), "rm -r %s", copy);
    assert_int_equal(system(command), 0);
}

#define HEAD_ROWS 20

static void logits_of(const char *directory, float *out, uint32_t vocab)
{
    struct model_engine *engine = run_open(directory, "cpu", "bf16", 1);
    struct run_seq seq = run_seq_of(0, 1, 1);
    uint32_t tokens[HEAD_ROWS], n_rows;
    for (uint32_t i = 0; i < HEAD_ROWS; i++)
        tokens[i] = 7 * i + 3;
    (void)run_one(engine, run_next(&seq, tokens, HEAD_ROWS, MODEL_LOGITS_ALL));
    const float *logits = model_engine_logits(engine, &n_rows);
    assert_int_equal(n_rows, HEAD_ROWS);
    memcpy(out, logits, (size_t)HEAD_ROWS * vocab * sizeof(float));
    model_engine_close(engine);
}

/* As transformers has it: a head that is there and differs is not the table, though the config ties them; and
 * of two that are one either may be written. */
static void test_tied_heads(void **state)
{
    static const struct {
        const char *model, *edit, *file;
    } cases[] = {
        {"llama-64-11", "s/\"tie_word_embeddings\": false/\"tie_word_embeddings\": true /",
         "config.json"},
        {QWEN2, "s/\"model.embed_tokens.weight\"/\"lm_head.weight\"           /",
         "model.safetensors"},
    };
    const uint32_t vocab = 320; /* of both */
    static float want[HEAD_ROWS * 320], got[HEAD_ROWS * 320];
    char copy[] = "/tmp/sluice-model-XXXXXX", command[512];
    (void)state;
    assert_non_null(mkdtemp(copy));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(command, sizeof(command),
                 "cp %s/* %s/ && LC_ALL=C sed -i '%s' %s/%s && ! cmp -s %s/%s %s/%s",
                 run_model_path(cases[i].model), copy, cases[i].edit, copy, cases[i].file,
                 run_model_path(cases[i].model), cases[i].file, copy, cases[i].file);
        assert_int_equal(system(command), 0);
        logits_of(run_model_path(cases[i].model), want, vocab);
        logits_of(copy, got, vocab);
        assert_memory_equal(got, want, sizeof(want));
    }
    snprintf(command, sizeof(command), "rm -r %s", copy);
    assert_int_equal(system(command), 0);
}

static _Atomic uint64_t n_notified, last_bytes;

static void count_notify(void *arg)
{
    assert_ptr_equal(arg, &n_notified);
    n_notified++;
}

static bool see_progress(void *arg, uint64_t done, uint64_t total)
{
    const uint64_t *end = arg; /* NULL: all */
    assert_true(done > last_bytes && done <= total);
    last_bytes = done;
    return end == NULL || done < *end;
}

static void test_loading_can_be_stopped(void **state)
{
    (void)state;
    uint64_t end = 1;
    struct model_engine_args args = {.directory = run_model_path(LLAMA),
                                     .backend = "cpu",
                                     .n_threads = 1,
                                     .n_blocks = 4,
                                     .block_tokens = 64,
                                     .kv_type = "bf16",
                                     .rows_max = 8,
                                     .seqs_max = 2,
                                     .progress = see_progress,
                                     .progress_arg = &end};
    struct model_engine *engine = NULL;
    last_bytes = 0;
    assert_fails(model_engine_open(&args, &engine), SL_CANCELLED, "loading was stopped at ");
    uint64_t first = last_bytes; /* of the tensor after which it was told */
    end = first + 1;
    last_bytes = 0;
    assert_fails(model_engine_open(&args, &engine), SL_CANCELLED, "loading was stopped at ");
    assert_true(last_bytes > first);
    assert_null(engine);
    last_bytes = 0;
}

static void test_callbacks_and_info(void **state)
{
    (void)state;
    const struct model_engine_args args = {.directory = run_model_path(LLAMA),
                                           .backend = "cpu",
                                           .n_threads = 1,
                                           .n_blocks = 4,
                                           .block_tokens = 64,
                                           .kv_type = "bf16",
                                           .rows_max = 8,
                                           .seqs_max = 2,
                                           .notify = count_notify,
                                           .notify_arg = &n_notified,
                                           .progress = see_progress};
    struct model_engine *engine;
    assert_int_equal(model_engine_open(&args, &engine), SL_OK);
    const struct model_info *info = model_engine_info(engine);
    assert_string_equal(info->family, "llama");
    assert_int_equal(info->n_layers, N_LAYERS);
    assert_int_equal(info->layers_per_group, 1);
    assert_int_equal(info->vocab, 288);
    assert_int_equal(info->n_eos_ids, 1);
    assert_int_equal(info->eos_ids[0], 1);
    assert_int_equal(info->context_max, 32768);
    assert_int_equal(info->weight_bytes, 2 * info->n_parameters);
    assert_int_equal(info->weight_bytes, last_bytes);
    assert_true(strncmp(info->numerics_id, "cpu", 3) == 0);
    const uint32_t token = 3, table[] = {0};
    const struct model_run run = {
        .tokens = &token, .n_tokens = 1, .block_tables = {table}, .n_blocks = 1};
    struct model_event event = run_one(engine, run);
    assert_false(event.results[0].sampled); /* logits NONE */
    uint32_t n_rows;
    assert_null(model_engine_logits(engine, &n_rows));
    model_engine_close(engine);
    assert_int_equal(n_notified, N_LAYERS + 1);
}

static int clear_faults(void **state)
{
    (void)state;
    sl_fault_clear();
    return 0;
}

int main(void)
{
#define ON(backend_name, test)                                                                     \
    {                                                                                              \
        .name = #test " on " backend_name, .test_func = test, .teardown_func = clear_faults,       \
        .initial_state = (void *)(uintptr_t)backend_name                                           \
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract_cpu),
        cmocka_unit_test(test_contract_ref),
        cmocka_unit_test(test_fake_is_ref),
        ON("cpu", test_previous_token),
        ON("fake", test_previous_token),
        cmocka_unit_test(test_previous_missing),
        ON("cpu", test_readiness),
        ON("fake", test_readiness),
        ON("cpu", test_hold),
        ON("fake", test_hold),
        ON("cpu", test_failures),
        ON("fake", test_failures),
        cmocka_unit_test(test_bad_kv),
        ON("cpu", test_unused_is_unread),
        ON("ref", test_unused_is_unread),
        ON("cpu", test_copy_block),
        ON("fake", test_copy_block),
        cmocka_unit_test(test_submit_refusals),
        cmocka_unit_test(test_open_refusals),
        cmocka_unit_test(test_context_limit),
        cmocka_unit_test(test_torture),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_wrong_weights),
        cmocka_unit_test(test_tied_heads),
        cmocka_unit_test(test_callbacks_and_info),
        cmocka_unit_test(test_loading_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
