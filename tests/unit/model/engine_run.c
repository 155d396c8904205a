#include "engine_run.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

const char *run_model_path(const char *name)
{
    static char path[512];
    snprintf(path, sizeof(path), "%s/%s", MODEL_GOLDEN_DIR, name);
    return path;
}

struct model_engine *run_open(const char *directory, const char *backend, const char *kv_type,
                              uint32_t n_threads)
{
    const struct model_engine_args args = {
        .directory = directory,
        .backend = backend,
        .n_threads = n_threads,
        .n_blocks = RUN_BLOCKS,
        .block_tokens = RUN_BLOCK_TOKENS,
        .kv_type = kv_type,
        .rows_max = RUN_ROWS_MAX,
        .seqs_max = RUN_SEQS_MAX,
        .seed = 5,
    };
    struct model_engine *engine = NULL;
    if (model_engine_open(&args, &engine) != SL_OK)
        fail_msg("%s", sl_error());
    return engine;
}

struct run_seq run_seq_of(uint32_t slot, uint32_t first, uint32_t stride)
{
    struct run_seq seq = {.slot = slot};
    for (uint32_t i = 0; i < RUN_TABLE_MAX; i++)
        seq.table[i] = (first + i * stride) % RUN_BLOCKS;
    return seq;
}

struct model_run run_next(struct run_seq *seq, const uint32_t *tokens, uint32_t n,
                          enum model_logits logits)
{
    struct model_run run = {
        .user = 100 + seq->slot,
        .slot = seq->slot,
        .tokens = tokens,
        .n_tokens = n,
        .first_position = seq->n_tokens,
        .block_tables = {seq->table, seq->table},
        .n_blocks = RUN_TABLE_MAX,
        .logits = logits,
        .sampling = {.top_p = 1, .n_logprobs = -1},
    };
    seq->n_tokens += n;
    return run;
}

struct model_event run_wait(struct model_engine *engine, uint64_t ticket)
{
    struct model_event event;
    uint64_t start_us = sl_now_us();
    for (;;) {
        if (!model_engine_poll(engine, &event)) {
            assert_true(sl_now_us() - start_us < 60 * SL_SECOND_US);
            sl_sleep_us(20);
            continue;
        }
        if (event.type == MODEL_EVENT_RETIRED && event.ticket == ticket)
            return event;
    }
}

struct model_event run_batch(struct model_engine *engine, const struct model_run *runs,
                             uint32_t n_runs)
{
    const struct model_batch batch = {.runs = runs, .n_runs = n_runs};
    uint64_t ticket;
    if (model_engine_submit(engine, &batch, &ticket) != SL_OK)
        fail_msg("%s", sl_error());
    struct model_event event = run_wait(engine, ticket);
    if (event.status != SL_OK)
        fail_msg("%s", event.error);
    assert_int_equal(event.n_results, n_runs);
    return event;
}

struct model_event run_one(struct model_engine *engine, struct model_run run)
{
    return run_batch(engine, &run, 1);
}
