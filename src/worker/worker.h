/* The machine that a prefill node and a decode node both are: one scheduler thread that owns the KV
 * pool, the requests, and the engine's and the transfer layer's queues.
 *
 *   coordinator ─► worker_deliver (ring) ─► tick: events, admission, next step ─► args.send
 *                                            ▲ engine events   ▲ transfer events
 *
 * worker_create and everything without a note: the scheduler thread, or before it starts. */
#ifndef SL_WORKER_WORKER_H
#define SL_WORKER_WORKER_H

#include "base/metrics.h"
#include "base/status.h"
#include "base/thread.h"
#include "kv/pool.h"
#include "model/engine.h"
#include "proto/rpc.h"
#include "serve/admin.h"
#include "transfer/transfer.h"
#include "worker/policy.h"

#include <stdbool.h>
#include <stdint.h>

#define WORKER_REQUESTS_MAX 4096  /* records at once; more are refused (FULL) */
#define WORKER_INBOX_MAX    65536 /* messages from the coordinator that wait for the scheduler */

struct worker;

/* Microseconds and bounds; worker_limits_default() fills in what docs/transfer.md section 8 says. */
struct worker_limits {
    uint64_t hold_us;        /* source: blocks stay so long after the end of compute */
    uint64_t stream_us;      /* source: a stream that goes on may take so long after that */
    uint64_t coordinator_us; /* grace after the coordinator was lost */
    uint64_t admission_us;   /* longest wait for a promise, whatever the request says */
    uint64_t assembly_us;    /* from a Submit to the last of its parts */
    uint32_t growth_blocks;  /* promised besides those of the prompt */
    uint32_t held_percent;   /* of the pool; above it no new prefill is taken */
    uint32_t streams_per_request;
};
void worker_limits_default(struct worker_limits *limits);

struct worker_args {
    const struct worker_policy *policy;
    uint64_t incarnation;
    struct model_engine *engine; /* borrowed, like all of these */
    struct transfer *transfer;   /* NULL: local requests only */
    struct sl_metrics *metrics;
    struct sl_wake *wake; /* signalled by engine, transfer and worker_deliver */
    uint32_t chunk_tokens;
    uint32_t seqs_max;
    struct worker_limits limits;
    /* To the coordinator; any failure means the message is lost (not joined). Copies. */
    sl_status (*send)(void *arg, enum rpc_class class, const Sluice__NodeMessage *message);
    void *send_arg;
    /* The load differs from what the last heartbeat said; at most 20 times a second. May be NULL. */
    void (*changed)(void *arg);
    void *changed_arg;
};

/* rows_max that the engine of such a worker needs. */
uint32_t worker_rows_max(uint32_t chunk_tokens, uint32_t seqs_max);

/* SL_NO_MEMORY; SL_INVALID limits that contradict the engine. */
sl_status worker_create(const struct worker_args *args, struct worker **worker_out) SL_MUST_USE;
/* After the engine is idle or closed and the transfer is destroyed, or to be closed unused. */
void worker_destroy(struct worker *worker);

/* One turn; true if something was done (then turn again at once). */
bool worker_tick(struct worker *worker);
/* Turns and sleeps until worker_stop; beats `pulse`. */
void worker_run(struct worker *worker, struct serve_pulse *pulse);
/* Any thread. */
void worker_stop(struct worker *worker);

/* Control thread (one thread): takes the message. */
void worker_deliver(struct worker *worker, Sluice__CoordinatorMessage *message);
/* Control thread: the coordinator is there, and knows of no request here any more; or it is gone. */
void worker_joined(struct worker *worker);
void worker_lost(struct worker *worker);
/* Any thread: new requests are refused from now on (DRAINING). */
void worker_drain(struct worker *worker);
/* Nothing is left of what came before the drain, as the scheduler sees it: not before its first turn that knows of the
 * drain has ended. Any thread. */
bool worker_drained(struct worker *worker);
/* Ends everything in work at the next turn: Finished(ERROR, DRAINING). Any thread. */
void worker_drop_all(struct worker *worker);

/* What heartbeats, /cluster and tests read. Any thread. */
struct worker_sample {
    uint32_t tokens;
    uint64_t context_tokens, compute_us;
};
struct worker_snapshot {
    struct kv_pool_counts blocks;        /* of class 0: what --kv-blocks counts */
    struct kv_pool_counts window_blocks; /* of the other classes together */
    uint32_t requests;                   /* records, ending ones too: 0 when nothing is left */
    uint32_t running, waiting, landing, held;
    uint64_t queued_tokens;
    uint64_t steps, step_sequences;
    uint64_t generated_tokens, preemptions;
    uint64_t events_seq;
    bool draining;
};
void worker_snapshot(struct worker *worker, struct worker_snapshot *snapshot_out);
/* Step samples since the last call, at most max; one thread. */
uint32_t worker_samples(struct worker *worker, struct worker_sample *samples_out, uint32_t max);

#endif
