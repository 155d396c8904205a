/* What the engine's tests share: an engine with handy defaults, and a batch run to its end. */
#ifndef SL_TESTS_ENGINE_RUN_H
#define SL_TESTS_ENGINE_RUN_H

#include "model/engine.h"

#define RUN_BLOCK_TOKENS 64
#define RUN_BLOCKS       80
#define RUN_ROWS_MAX     1024
#define RUN_SEQS_MAX     16
#define RUN_TABLE_MAX    20

/* One sequence of a test: its own blocks, in no order. */
struct run_seq {
    uint32_t slot;
    uint32_t table[RUN_TABLE_MAX];
    uint32_t n_tokens; /* in the cache */
};

/* Path of a made model (make_golden_models.py); static storage, overwritten by the next call. */
const char *run_model_path(const char *name);
/* Fails the test with the engine's sentence when it does not open. */
struct model_engine *run_open(const char *directory, const char *backend, const char *kv_type,
                              uint32_t n_threads);
/* Blocks first, first + stride, … modulo the pool's size. */
struct run_seq run_seq_of(uint32_t slot, uint32_t first, uint32_t stride);
/* A run of n tokens after what the sequence has in the cache, greedy; counts them in. */
struct model_run run_next(struct run_seq *seq, const uint32_t *tokens, uint32_t n,
                          enum model_logits logits);
/* Submits and polls until RETIRED, which must be OK. */
struct model_event run_batch(struct model_engine *engine, const struct model_run *runs,
                             uint32_t n_runs);
struct model_event run_one(struct model_engine *engine, struct model_run run);
/* Polls until the ticket has retired. */
struct model_event run_wait(struct model_engine *engine, uint64_t ticket);

#endif
