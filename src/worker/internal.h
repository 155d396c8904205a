/* The parts of a worker, for its own files. All of it belongs to the scheduler thread, except what
 * struct worker says otherwise. */
#ifndef SL_WORKER_INTERNAL_H
#define SL_WORKER_INTERNAL_H

#include "base/arena.h"
#include "base/ring.h"
#include "kv/block_table.h"
#include "kv/hit.h"
#include "worker/map.h"
#include "worker/worker.h"

#include <pthread.h>
#include <stdatomic.h>

#define WORKER_REASONS       16   /* Reason values, for counters */
#define WORKER_OUTBOX_RUNS   256  /* flushed when full */
#define WORKER_TEXT_BYTES    160  /* of an error in Finished */
#define WORKER_REPLY_EVENTS  512  /* cache events in one message */
#define WORKER_SCORES_PART   512  /* prompt scores in one message: 100 KiB */
#define WORKER_SNAPSHOT_PART 8192 /* hashes in one message: 128 KiB */

/* Life of a request; each state has a list.
 *
 *   ASSEMBLING ─► WAITING ─► ACTIVE ─► HELD (source) ─► ENDING ─► gone
 *                  ▲ │  └──► LANDING ─┘ ▲ (destination)    ▲
 *                  │ └──────────────────┼──────────────────┤ from every state
 *                  └──── preempted ─────┘
 *
 * The list of WAITING is in the order of priority, and among equals of arrival. */
enum request_state {
    REQUEST_ASSEMBLING, /* parts of its Submit are missing */
    REQUEST_WAITING,    /* for a promise of all its blocks, in order */
    REQUEST_LANDING,    /* destination: blocks arrive */
    REQUEST_ACTIVE,     /* has tokens to compute */
    REQUEST_HELD,       /* source: its token is sampled, the blocks stay */
    REQUEST_ENDING,     /* over, but a batch or a stream still names its blocks */
    REQUEST_STATE_COUNT
};

struct worker_request;

/* A stream's blocks of one class at the destination. */
struct worker_landing {
    uint32_t first_block; /* the first it lacks */
    kv_block_id *given;   /* [n_given] ids that the transfer layer has, any order */
    uint32_t n_given;
    kv_block_id *landed; /* [n_blocks] by block index */
};

/* One stream of a request, at the source or the destination. Lives in the request's arena. */
struct worker_stream {
    struct worker_stream *next; /* of the same request */
    struct worker_request *request;
    uint64_t key;
    uint32_t attempt;
    bool source;
    struct transfer_peer peer; /* what it points to is in the arena */
    bool opened;               /* the transfer layer knows it; then an ENDED event will come */
    bool dead;                 /* ended, or never opened and given up */
    bool acked, failed, ended; /* ended: destination, while ids are still on their way back */
    bool cancelled, cancel_told;
    enum transfer_reason cancel_reason;
    struct transfer_stats stats;
    /* source: what the transfer layer has been told to be final */
    uint32_t told_blocks; /* [0, told_blocks) in all layers */
    uint32_t told_layers; /* of the blocks of the running chunk */
    bool token_told;
    /* destination */
    bool admit_told;
    struct worker_landing landing[KV_CLASSES_MAX];
    uint32_t next_block, next_class; /* the next that may be lacking and was not given */
    struct transfer_block
        pending[TRANSFER_RING_BLOCKS_MAX]; /* taken, to be told: the command ring was full */
    uint32_t n_pending;
};

/* The blocks of a request in one KV class: blocks.c. */
struct request_class {
    struct kv_block_table table;
    kv_block_id *shadows; /* [n_max]: the cache's block where ours is a duplicate, or none */
    uint32_t n_inserted;  /* leading blocks that the cache was given; without a window: whose entry
                             we reference */
    bool insert_off;
    uint32_t promised; /* blocks promised and not taken */
};

struct worker_request {
    struct worker_request *next, *previous; /* in the list of its state */
    uint64_t id;
    uint32_t attempt;
    Sluice__Mode mode;
    enum request_state state;
    struct sl_arena arena;
    int32_t priority; /* less is more urgent */
    uint64_t order;   /* of admission; kept through preemption */

    uint64_t arrived_us, admitted_us, computed_us, stepped_us;
    uint64_t deadline_us;  /* of the request; UINT64_MAX: none */
    uint64_t admission_us; /* instant until which it may wait; UINT64_MAX once it was admitted */
    uint64_t hold_us;      /* instant when held blocks go */

    uint32_t *tokens; /* [tokens_max]: the prompt, what was delivered, what is sampled here */
    uint32_t n_tokens, tokens_max;
    uint32_t n_submitted; /* of them came with Submit */
    uint32_t prompt_tokens, first_index, max_tokens;
    uint32_t parts, parts_max;
    struct model_sampling sampling;
    struct model_adjust adjust; /* sampling points at it, unless it is neutral */
    uint32_t prompt_logprobs;   /* 0: none; else 1 + how many likeliest */
    uint32_t
        n_stops; /* the first of sampling.stop_ids end the request, the others are only masked */

    struct request_class classes[KV_CLASSES_MAX];
    uint32_t blocks_max; /* of every class's table */
    struct kv_hash root;
    struct kv_hash *hashes; /* [blocks_max], the first n_hashes are computed */
    uint32_t n_hashes;

    uint32_t n_computed;      /* tokens whose KV is in the blocks */
    uint32_t n_running;       /* tokens in the batch that runs; 0: none */
    uint32_t layers_ready;    /* of the running batch */
    bool admitted;            /* Admitted was sent */
    bool sampled;             /* source: its token is known … */
    struct model_token first; /* … and is this, with what is said of it */
    bool decoding;            /* a token of this attempt is out */
    bool restarted;           /* preempted at least once: computes for itself */
    uint32_t cached_tokens, computed_tokens;

    struct worker_stream *streams; /* newest first */
    uint32_t n_streams;
};

struct request_list {
    struct worker_request *head, *tail;
    uint32_t n;
};

/* What the control thread puts into the inbox. */
enum inbox_kind { INBOX_MESSAGE, INBOX_JOINED, INBOX_LOST };
struct inbox_item {
    enum inbox_kind kind;
    Sluice__CoordinatorMessage *message;
};

struct outbox_run {
    Sluice__TokenRun run;
    uint32_t token;
    Sluice__Logprob logprob, *logprob_list[1];
    uint32_t top_ids[MODEL_LOGPROBS_MAX];
    float top[MODEL_LOGPROBS_MAX];
};

struct outbox_finished {
    Sluice__Finished message;
    Sluice__StageTimes times;
    char text[WORKER_TEXT_BYTES];
    char destination[WORKER_TEXT_BYTES];
};

struct worker_batch {
    bool running;
    uint64_t ticket;
    uint32_t n;
    struct worker_request *requests[MODEL_SEQS_MAX];
    struct model_run runs[MODEL_SEQS_MAX];
    struct worker_sample sample;
};

struct worker_metrics {
    struct sl_metric *steps, *step_sequences, *step_tokens, *step_seconds;
    struct sl_metric *computed, *local_hit, *fetched, *generated;
    struct sl_metric *queries, *hits, *preemptions, *overtakes;
    struct sl_metric *running, *waiting, *usage, *promised;
    struct sl_metric *blocks[KV_BLOCK_QUARANTINED];        /* of class 0 */
    struct sl_metric *window_blocks[KV_BLOCK_QUARANTINED]; /* of the others; NULL: none */
    struct sl_metric *rejected[WORKER_REASONS];
    struct sl_metric *stream_failures[WORKER_REASONS];
    struct sl_metric *queue_seconds, *lost_messages;
};

struct worker {
    struct worker_args args;
    const struct model_info *info;
    uint32_t block_tokens;
    uint32_t n_classes; /* KV classes; of each of them: */
    struct kv_pool *pools[KV_CLASSES_MAX];
    struct kv_prefix_cache *caches[KV_CLASSES_MAX];
    kv_block_id *hits[KV_CLASSES_MAX];          /* [blocks of a context], scratch of admission */
    uint32_t *landing_position[KV_CLASSES_MAX]; /* of a given block: its place in landing.given */
    struct worker_map *by_id;                   /* requests that are not ENDING */
    struct worker_map *by_key;                  /* streams that are not dead */
    struct request_list lists[REQUEST_STATE_COUNT];
    uint32_t n_requests;
    uint32_t held_blocks; /* of class 0 */
    uint64_t next_order;

    struct worker_batch batch;
    bool commands_blocked; /* some transfer command was SL_AGAIN: flush all streams */
    uint64_t scanned_us, changed_us;
    struct worker_snapshot announced; /* at changed_us */
    uint64_t lost_us;                 /* when the coordinator was lost; 0: it is there */

    struct outbox_run *runs; /* [WORKER_OUTBOX_RUNS] */
    Sluice__TokenRun **run_list;
    uint32_t n_runs;
    struct outbox_finished *finished; /* [WORKER_OUTBOX_RUNS] */
    uint32_t n_finished;
    Sluice__Logprob *scores, **score_list; /* [WORKER_SCORES_PART], scratch */
    struct kv_cache_event *events;         /* [WORKER_REPLY_EVENTS], and their messages: scratch */
    Sluice__CacheEvent *event_messages, **event_list;
    struct kv_hash *snapshot_hashes;

    struct worker_metrics metrics;
    struct worker_snapshot now; /* counters grow here; the rest is filled when published */

    /* Other threads' */
    struct sl_ring *inbox;   /* control thread -> scheduler */
    struct sl_ring *samples; /* scheduler -> heartbeats */
    _Atomic bool stop, draining, drop;
    pthread_mutex_t published_lock;
    struct worker_snapshot published;
};

#endif
