/* What waits to be sent on one stream, and the flow control of both directions. Pure: no gRPC, no
 * lock, no clock; the stream's lock covers it.
 *
 * Three queues, each bounded in bytes; urgent goes before submit before bulk. Counted items also
 * need room in the peer's window: sent - consumed + bytes <= window, where `consumed` is what the
 * peer last announced (cumulative, so a repeated or an old announcement does no harm). */
#ifndef SL_PROTO_OUTBOX_H
#define SL_PROTO_OUTBOX_H

#include "base/status.h"
#include "proto/rpc.h"

#include <stdbool.h>
#include <stdint.h>

#define OUTBOX_ITEM_OVERHEAD 128u /* each item counts as its bytes and this in the bound */

/* Embedded in what the user queues. */
struct outbox_item {
    struct outbox_item *next;
    uint32_t bytes;
    bool counted;
};

struct outbox_queue {
    struct outbox_item *head, *tail;
    uint64_t bytes; /* with overhead */
};

struct outbox {
    struct outbox_queue queues[RPC_CLASS_COUNT];
    uint64_t queue_bytes_max;
    uint64_t window_bytes;
    uint64_t sent;      /* counted bytes that went out … */
    uint64_t consumed;  /* … and what the peer has said it freed of them */
    uint64_t received;  /* counted bytes that came in … */
    uint64_t freed;     /* … that were freed here … */
    uint64_t announced; /* … and that the peer knows to be freed */
};

void outbox_init(struct outbox *outbox, uint64_t queue_bytes_max, uint64_t window_bytes);
/* Queues a chain of items (linked by next, the last one's NULL) in order, all or none.
 * SL_EXHAUSTED: over the bound. */
sl_status outbox_push(struct outbox *outbox, enum rpc_class class,
                      struct outbox_item *chain) SL_MUST_USE;
/* Takes the item that shall go next, NULL when nothing may. */
struct outbox_item *outbox_pop(struct outbox *outbox);
/* Takes one item of any class whatever the window, for emptying; NULL when empty. */
struct outbox_item *outbox_discard(struct outbox *outbox);
bool outbox_empty(const struct outbox *outbox);

/* The peer announces. SL_CORRUPT: it claims more than was sent. */
sl_status outbox_peer_consumed(struct outbox *outbox, uint64_t consumed) SL_MUST_USE;
/* A counted item came in. SL_CORRUPT: beyond the window that was granted. */
sl_status outbox_received(struct outbox *outbox, uint32_t bytes) SL_MUST_USE;
/* A counted item that came in was freed. */
void outbox_freed(struct outbox *outbox, uint32_t bytes);
/* True, with the figure to announce, once a quarter of the window has been freed since the last. */
bool outbox_announce(struct outbox *outbox, uint64_t *consumed_out);

#endif
