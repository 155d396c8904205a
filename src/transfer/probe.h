/* The probe of a link: what it can carry, measured with a few messages of the transfer's own when a
 * session that somebody is going to send by is up. */
#ifndef SL_TRANSFER_PROBE_H
#define SL_TRANSFER_PROBE_H

#include "transfer/frame.h"
#include "transfer/stream.h"

#define PROBE_MESSAGE_BYTES_MAX ((size_t)1 << 20)
#define PROBE_MESSAGES_MAX      17u /* that a destination takes in a session; the first warms up */

/* One session's, in both directions. */
struct probe {
    /* As the source. */
    uint64_t until_us; /* then it is given up; 0: not begun */
    uint32_t n_sent;
    bool over;
    bool waiting; /* the answer to the last one has not come */
    /* As the destination. */
    uint32_t n_taken;
    bool receiving;
    bool alone; /* no piece of the peer's was on its way beside it */
    struct frame_probe message;
    uint64_t begun_us;
    uint64_t timed_bytes, busy_us;
};

/* SL_INVALID, SL_NO_MEMORY. */
sl_status probe_init(struct transfer *transfer) SL_MUST_USE;
void probe_fini(struct transfer *transfer);
/* Sends the next message if there is one and nothing of a stream wants the link. */
void probe_pump(struct transfer *transfer, struct peer *peer);
void probe_sent(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason);
/* The destination's answer. */
void probe_answered(struct transfer *transfer, struct peer *peer, const struct frame *frame);
/* A message as it comes in: as transport_sink.offer. */
enum transfer_reason probe_offered(struct transfer *transfer, struct peer *peer,
                                   const struct frame *frame, size_t length, bool rendezvous,
                                   void **to_out, void **op_out);
void probe_landed(struct transfer *transfer, struct transfer_op *op, enum transfer_reason reason);

#endif
