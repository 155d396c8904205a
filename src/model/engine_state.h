/* What engine.c and step.c share. Private to model/. */
#ifndef SL_MODEL_ENGINE_STATE_H
#define SL_MODEL_ENGINE_STATE_H

#include "base/ring.h"
#include "base/thread.h"
#include "model/classes.h"
#include "model/engine.h"
#include "model/forward.h"

#include <stdatomic.h>

#define ENGINE_COPIES_MAX 256 /* block copies waiting for one batch */
#define ENGINE_LOGITS_MAX 64  /* rows of logits in memory at once; more are done in turns */

struct engine_copy {
    uint32_t class_index;
    kv_block_id to, from;
};

struct engine_run {
    uint32_t slot;
    enum model_logits logits;
    uint32_t first_row, n_rows;
    uint32_t sample_position;
    struct model_sampling sampling;
    uint32_t n_scored_top;
};

/* A row whose logits are asked about a token. */
struct engine_scored {
    uint32_t row, run, id;
};

/* One batch in the engine. Filled by submit, then the compute thread's until RETIRED is polled. */
struct engine_ticket {
    uint64_t number;
    struct kernel_batch batch;
    uint32_t *tokens;        /* [rows_max] */
    uint32_t *positions;     /* [rows_max] */
    struct kernel_seq *seqs; /* [seqs_max] */
    struct engine_run *runs; /* [seqs_max] */
    uint32_t *tables;        /* [seqs_max][n_classes][table_max] */
    uint32_t *logit_rows;    /* [seqs_max + rows_max]: rows of LAST, then those of ALL */
    uint32_t *logit_runs;    /* [seqs_max]: whose row each of LAST is */
    uint32_t n_last, n_all;
    struct engine_scored *scored; /* [rows_max] */
    struct model_token *scores;   /* [rows_max], as `scored` */
    uint32_t n_scored;
    uint32_t n_copies;
    struct engine_copy copies[ENGINE_COPIES_MAX];
    struct model_result *results; /* [seqs_max] */
    float *all_logits;            /* [all_capacity]; NULL until a batch wants them */
    size_t all_capacity;
    sl_status status;
    char error[SL_ERROR_BYTES_MAX];
    uint64_t compute_us;
};

struct engine_event {
    enum model_event_type type;
    uint64_t ticket;
    uint32_t layer_end;
};

struct model_engine {
    /* Constant once open. */
    struct model_info info;
    struct model_config config;
    struct model_classes classes;
    uint32_t rows_max, seqs_max, table_max, logits_max, n_groups;
    const struct kernel_ops *ops;
    struct device *device;
    struct kernel_context *context;
    struct model_weights weights;
    struct device_memory pools[KV_CLASSES_MAX];
    struct device_memory logits; /* f32 [logits_max][vocab] */
    float inv_freq[MODEL_ROPES_MAX][MODEL_ROPE_PAIRS_MAX];
    void (*notify)(void *arg);
    void *notify_arg;

    struct engine_ticket tickets[MODEL_TICKETS_MAX]; /* ticket n lies in (n - 1) % MAX */
    struct sl_ring *events;                          /* compute -> scheduler */
    struct sl_wake wake;                             /* scheduler -> compute */
    bool wake_made;
    struct sl_thread thread;
    _Atomic bool stop;
    _Atomic uint64_t submitted; /* tickets */
    _Atomic uint64_t retired;   /* tickets, by the compute thread */
    _Atomic uint64_t progress_us;

    /* Scheduler thread. */
    uint64_t polled;              /* tickets whose RETIRED was polled */
    bool *slot_used;              /* [seqs_max]: twice in one batch? */
    struct model_result *results; /* [seqs_max]: of the last RETIRED polled */
    char error[SL_ERROR_BYTES_MAX];
    const float *last_logits;
    uint32_t n_last_logits;
    uint32_t n_copies;
    struct engine_copy copies[ENGINE_COPIES_MAX]; /* for the next batch */

    /* Compute thread. */
    struct kernel_acts *acts;
    struct device_stream *stream;
    struct device_event **group_ready; /* [n_groups] */
    struct model_forward forward;
    struct model_sampler *sampler;
    float *host_logits;    /* [logits_max][vocab]; NULL where the host can read `logits` */
    uint32_t *last_tokens; /* [seqs_max]: what a slot sampled last; MODEL_TOKEN_PREVIOUS: nothing */
};

/* The compute thread. */
void engine_compute(void *arg);

#endif
