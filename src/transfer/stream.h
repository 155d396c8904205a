/* The streams of both directions, what remains of them, and the pieces on their way, as the transfer
 * thread keeps them. */
#ifndef SL_TRANSFER_STREAM_H
#define SL_TRANSFER_STREAM_H

#include "transfer/destination.h"
#include "transfer/meter.h"
#include "transfer/source.h"

struct peer;
struct transfer;

struct send_stream {
    struct source source;
    uint64_t key;
    uint32_t attempt, n_tokens;
    struct peer *peer;
    const uint32_t *blocks[TRANSFER_CLASSES_MAX]; /* the scheduler's; what is ready is pinned */
    uint8_t prefix_hash[TRANSFER_PREFIX_BYTES];
    bool bound;     /* to the session its peer has now: lost with it */
    bool open_sent; /* in that session */
    bool over;
    enum transfer_reason reason;
    struct transfer_token token;
    uint64_t state_since_us, last_sent_us;
    uint64_t digest[2];
    struct busy busy;
    uint64_t stall_since_us;
    uint64_t *stall; /* which of the two stalls lasts since then; NULL: none */
    struct transfer_stats stats;
    struct send_stream *hash_next;
    struct send_stream *previous, *next; /* of the peer's list */
};

struct recv_stream {
    struct destination destination;
    uint64_t key;
    uint32_t attempt;
    struct peer *peer;
    uint8_t prefix_hash[TRANSFER_PREFIX_BYTES];
    bool submitted; /* the scheduler knows it, and is told of its end */
    bool digests;   /* the source sends them */
    bool over;
    enum transfer_reason reason;
    uint64_t state_since_us, landing_since_us;
    uint64_t digest[2];
    struct frame_seal seal;
    struct transfer_note note; /* came with it */
    struct busy busy;
    struct transfer_stats stats;
    struct recv_stream *hash_next;
    struct recv_stream *previous, *next;
};

/* A stream that is over at the destination, remembered for a while. */
struct tombstone {
    uint64_t key;
    uint64_t until_us;
    bool used, sealed;
    enum transfer_reason reason;
    uint64_t peer_incarnation;
    uint32_t hash_next; /* index + 1 */
};

/* One piece on its way, or a message of the probe. */
struct transfer_op {
    struct send_stream *send; /* one of the two; neither: the probe's */
    struct recv_stream *recv;
    struct peer *peer;
    struct piece piece;
    uint32_t block_id;
    uint64_t digest;
    uint64_t begun_us;
    struct transfer_op *next_free;
};

/* Ops are taken and given back; their memory grows to what was in flight at once. */
#define OP_SLAB_COUNT 64
struct transfer_op_slab {
    struct transfer_op_slab *next;
    struct transfer_op ops[OP_SLAB_COUNT];
};

#endif
