/* Streams of KV blocks between nodes: the protocol of docs/transfer.md over `ucx` or `loop`.
 *
 * The transfer thread owns transports, sessions and stream records; it knows memory and block ids that
 * it was given, never the pool. The scheduler thread talks to it through the functions below: commands
 * go down a bounded ring, events come up another one (never dropped: a full event ring stops
 * progress). All functions are for that one thread unless a comment says otherwise.
 *
 *   source:       send_open ─► WANTED ─► send_ready* … send_token ─► ACKED ─► SEND_ENDED
 *                                  └────────────── FAILED ───────────────────┘
 *   destination:  recv_expect ─► OPENED ─► recv_admit, recv_refill* ─► LANDED* ─► SEALED ─► RECV_ENDED
 *                                  └────────────── FAILED, BLOCK_BACK* ──────────────────────┘ */
#ifndef SL_TRANSFER_TRANSFER_H
#define SL_TRANSFER_TRANSFER_H

#include "base/metrics.h"
#include "base/status.h"
#include "device/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRANSFER_CLASSES_MAX       4
#define TRANSFER_PREFIX_BYTES      12u /* of a block hash: enough to tell two prompts apart */
#define TRANSFER_ADDRESS_BYTES_MAX 4096
#define TRANSFER_RING_BLOCKS_MAX   32 /* ids of a stream that are given but not used, per lane */
#define TRANSFER_EVENTS_MAX        4096
#define TRANSFER_COMMANDS_MAX      4096
#define TRANSFER_STREAM_BLOCKS_MAX 65536
#define TRANSFER_PROBE_BYTES_MAX   (16u << 20)
#define TRANSFER_NOTE_BYTES_MAX    192u

struct transfer;
struct transfer_loop; /* in-process network for tests and simulation: loop.h */

/* On the wire, in messages to the coordinator, and as metric label (transfer_reason_name). */
enum transfer_reason {
    TRANSFER_UNKNOWN = 1,
    TRANSFER_CANCELLED,
    TRANSFER_DEADLINE,
    TRANSFER_FULL,
    TRANSFER_MISMATCH,
    TRANSFER_INCARNATION,
    TRANSFER_DRAINING,
    TRANSFER_MISBEHAVED,
    TRANSFER_LOST,
    TRANSFER_CORRUPT, /* a digest differs */
    TRANSFER_REASON_COUNT
};
const char *transfer_reason_name(enum transfer_reason reason);

/* One KV class's memory as the transfer layer sees it. */
struct transfer_class {
    const struct device_memory *pool;
    uint32_t n_blocks;
    uint32_t n_layers;
    size_t layer_bytes; /* of one block; a block is n_layers * layer_bytes, contiguous */
};

/* Microseconds and bounds of docs/transfer.md section 8; transfer_limits_default() fills them. */
struct transfer_limits {
    uint64_t beat_us, suspect_us, dead_us;
    uint64_t parked_us;
    uint64_t open_us; /* source: open to want */
    uint64_t seal_us; /* source: seal to seal_ack; destination: HELD */
    uint64_t landing_us;
    uint64_t drain_us; /* FAILING, DRAINING: then the session is closed by force */
    uint64_t tombstone_us;
    uint64_t reconnect_min_us, reconnect_max_us;
    uint32_t parked_per_session, parked_per_node;
    uint32_t offers_per_lane, offers_per_session;
    uint64_t bytes_per_session;
    uint32_t streams_max; /* at once, both directions */
};
void transfer_limits_default(struct transfer_limits *limits);

struct transfer_args {
    const char *transport;      /* "ucx", "loop" */
    struct transfer_loop *loop; /* for "loop" */
    const char *node_id;        /* at most 15 bytes */
    uint64_t incarnation;
    uint8_t identity[16]; /* must be equal at both ends */
    uint8_t layout[16];
    uint32_t block_tokens;
    uint32_t n_classes;
    struct transfer_class classes[TRANSFER_CLASSES_MAX];
    uint32_t layers_per_piece; /* 0: all layers of a block in one piece */
    bool verify;               /* digests per piece and per stream */
    uint64_t probe_bytes;      /* measured when a link opens, beside a first message; 0: no probe */
    const char *bind;          /* ucx: IP or interface the transport uses; NULL: any */
    struct transfer_limits limits;
    struct sl_metrics *metrics;
    void (*notify)(void *arg); /* transfer thread: an event was queued */
    void *notify_arg;
    /* Transfer thread, once: this process cannot receive any more, another one in its place can. May be NULL. */
    void (*deaf)(void *arg, const char *why);
    void *deaf_arg;
    bool manual; /* no thread: the test calls transfer_progress */
};

/* The worker's own view of a peer, from the coordinator's Submit. */
struct transfer_peer {
    const char *node_id;
    uint64_t incarnation;
    const void *address; /* transfer_address() of the peer; copied */
    size_t address_bytes;
};

/* Of a stream's blocks 0..n_blocks-1 a class sends those from first_block[class] on: what lies before
 * is outside its window, and nobody will read it again. Both ends say the same. */
struct transfer_send_args {
    uint64_t key;
    uint32_t attempt;
    struct transfer_peer peer;
    uint32_t n_blocks; /* all of the prompt, the partial one too */
    uint32_t n_tokens;
    uint32_t first_block[TRANSFER_CLASSES_MAX]; /* 0..n_blocks */
    uint8_t prefix_hash[TRANSFER_PREFIX_BYTES]; /* of the last full block; zeros if there is none */
    /* [n_blocks] ids of each class; borrowed until SEND_ENDED. An entry is read once its block was told
     * to be ready, and from then on pinned by the caller. */
    const uint32_t *blocks[TRANSFER_CLASSES_MAX];
};

struct transfer_recv_args {
    uint64_t key;
    uint32_t attempt;
    struct transfer_peer peer;                  /* the source */
    uint32_t n_blocks, n_tokens;                /* what open must say … */
    uint32_t first_block[TRANSFER_CLASSES_MAX]; /* … of each class … */
    uint8_t prefix_hash[TRANSFER_PREFIX_BYTES]; /* … of the tokens, as the source hashes them */
};

/* A block that the scheduler gives to a stream. */
struct transfer_block {
    uint32_t class_index, id;
};

enum transfer_event_type {
    TRANSFER_EVENT_WANTED,     /* source: destination admitted; first_block: the first it lacks */
    TRANSFER_EVENT_SENT,       /* source: a send completed; block_index. May be left out */
    TRANSFER_EVENT_ACKED,      /* source: destination runs; stats */
    TRANSFER_EVENT_SEND_ENDED, /* source: nothing outstanding; blocks may go; stats */
    TRANSFER_EVENT_OPENED,     /* destination: the source's open came (once; may precede expect) */
    TRANSFER_EVENT_TAKEN,      /* destination: block_id left the ring for block_index: refill one */
    TRANSFER_EVENT_LANDED,     /* destination: every piece of block_index is in block_id */
    TRANSFER_EVENT_SEALED, /* destination: all landed and sealed: run. token, token_index, eos, note */
    TRANSFER_EVENT_BLOCK_BACK, /* destination: block_id is the scheduler's again */
    TRANSFER_EVENT_RECV_ENDED, /* destination: no block of the stream is here any more; stats */
    TRANSFER_EVENT_FAILED,     /* either: reason; ENDED follows when nothing is outstanding */
};

struct transfer_stats {
    uint64_t bytes, pieces; /* completed on this side */
    uint64_t busy_us;       /* union of in-flight intervals */
    uint64_t exposed_us;    /* source: last send completion - end of the last compute, >= 0 */
    uint64_t handover_us;   /* source: seal_ack - end of the last compute */
    uint64_t credit_stall_us, window_stall_us;
};

/* What the source's scheduler says to the destination's along with the token. Means nothing here. */
struct transfer_note {
    uint32_t n_bytes;
    uint8_t bytes[TRANSFER_NOTE_BYTES_MAX];
};

struct transfer_token {
    uint32_t id, index;
    bool eos;
    uint64_t compute_end_us; /* sl_now_us() of the stream's last compute */
    struct transfer_note note;
};

struct transfer_event {
    enum transfer_event_type type;
    uint64_t key;
    uint32_t attempt;
    enum transfer_reason reason;
    uint32_t first_block[TRANSFER_CLASSES_MAX]; /* of each class */
    uint32_t class_index, block_index, block_id;
    uint32_t token, token_index;
    bool eos;
    struct transfer_note note;
    struct transfer_stats stats;
};

/* SL_UNSUPPORTED transport; SL_DEVICE when UCX cannot start; SL_INVALID. */
sl_status transfer_create(const struct transfer_args *args,
                          struct transfer **transfer_out) SL_MUST_USE;
/* Closes every session by force; waits for callbacks; no event after. */
void transfer_destroy(struct transfer *transfer);
/* What a peer needs to reach this node; lives as long as the transfer. Any thread. */
void transfer_address(const struct transfer *transfer, const void **address_out, size_t *bytes_out);
/* "ucx", "loop". */
const char *transfer_transport(const struct transfer *transfer);

/* The engine's step counter, for beats. Any thread. */
void transfer_set_step(struct transfer *transfer, uint64_t step);

/* Source. All are SL_AGAIN when the command ring is full (retry at the next tick). */
sl_status transfer_send_open(struct transfer *transfer,
                             const struct transfer_send_args *args) SL_MUST_USE;
/* Layers [0, layer_ends[class]) of the blocks [first_block, end_block) are final in memory. */
sl_status transfer_send_ready(struct transfer *transfer, uint64_t key, uint32_t first_block,
                              uint32_t end_block, const uint32_t *layer_ends) SL_MUST_USE;
/* The first token is sampled: seal when every send has completed. Copied. SL_INVALID: a note that is too long. */
sl_status transfer_send_token(struct transfer *transfer, uint64_t key,
                              const struct transfer_token *token) SL_MUST_USE;
sl_status transfer_send_cancel(struct transfer *transfer, uint64_t key,
                               enum transfer_reason reason) SL_MUST_USE;

/* Destination. */
sl_status transfer_recv_expect(struct transfer *transfer,
                               const struct transfer_recv_args *args) SL_MUST_USE;
/* The whole request is promised: of each class the blocks [first_blocks[class], n_blocks) are wanted.
 * blocks: the first ones of the ring (at most TRANSFER_RING_BLOCKS_MAX), lowest block index first and
 * for each index its classes, since the source may offer an index once every class that lacks it was
 * given one; more by refill as TAKEN events come (not LANDED: when layers leave one by one, many blocks
 * are on the way at once). Those beyond the ring or beyond what the stream lacks come back as
 * BLOCK_BACK. */
sl_status transfer_recv_admit(struct transfer *transfer, uint64_t key, const uint32_t *first_blocks,
                              const struct transfer_block *blocks, uint32_t n_blocks) SL_MUST_USE;
sl_status transfer_recv_refill(struct transfer *transfer, uint64_t key,
                               const struct transfer_block *blocks, uint32_t n_blocks) SL_MUST_USE;
sl_status transfer_recv_cancel(struct transfer *transfer, uint64_t key,
                               enum transfer_reason reason) SL_MUST_USE;

/* Next event; false when there is none. */
bool transfer_poll(struct transfer *transfer, struct transfer_event *event_out);
/* Manual mode: one turn of what the transfer thread does; true if something happened. */
bool transfer_progress(struct transfer *transfer);

/* Totals per peer and direction, for heartbeats and /cluster. Any thread. */
struct transfer_totals {
    char src[16], dst[16];
    bool send; /* counted by this node as the source */
    uint64_t bytes, pieces, streams;
    uint64_t busy_us, exposed_us;
    uint64_t failures[TRANSFER_REASON_COUNT];
};
/* Fills at most max; returns how many there are. */
uint32_t transfer_totals_read(struct transfer *transfer, struct transfer_totals *totals_out,
                              uint32_t max);

#endif
