/* The destination's half of a stream: its state table as a pure function, and the record of blocks
 * and pieces. No I/O, no clock: receiving.c carries the actions out. */
#ifndef SL_TRANSFER_DESTINATION_H
#define SL_TRANSFER_DESTINATION_H

#include "transfer/frame.h"
#include "transfer/shape.h"

#define DESTINATION_NO_BLOCK UINT32_MAX

enum destination_state {
    DESTINATION_NONE,
    DESTINATION_PARKED,  /* open, no Submit */
    DESTINATION_QUEUED,  /* Submit, no promise */
    DESTINATION_LANDING, /* promised */
    DESTINATION_HELD,    /* seal seen, own bitmap not yet full */
    DESTINATION_RUNNING, /* sealed: the blocks are the scheduler's */
    DESTINATION_DRAINING,
    DESTINATION_FREED, /* tombstone */
    DESTINATION_STATE_COUNT
};

enum destination_event {
    DESTINATION_ON_SUBMIT,
    DESTINATION_ON_SUBMIT_BAD, /* contradicts the open that is parked */
    DESTINATION_ON_OPEN,
    DESTINATION_ON_OPEN_BAD, /* wrong incarnation or shape */
    DESTINATION_ON_PROMISE,
    DESTINATION_ON_REFILL,
    DESTINATION_ON_OFFER, /* valid, index < credit */
    DESTINATION_ON_OFFER_BAD,
    DESTINATION_ON_LANDED,
    DESTINATION_ON_RECEIVE_FAILED, /* error, or the bytes differ from their digest */
    DESTINATION_ON_SEAL,
    DESTINATION_ON_PEER_CANCEL,
    DESTINATION_ON_CANCEL, /* by this node's scheduler */
    DESTINATION_ON_LOST,
    DESTINATION_ON_DEADLINE,
    DESTINATION_EVENT_COUNT
};

/* In the order in which they are carried out. */
enum destination_action {
    DESTINATION_DO_OPENED = 1u << 0,    /* tell the scheduler of the open */
    DESTINATION_DO_WANT = 1u << 1,      /* send want */
    DESTINATION_DO_GRANT = 1u << 2,     /* send grant */
    DESTINATION_DO_POST = 1u << 3,      /* post the receive: the only way to accept an offer */
    DESTINATION_DO_REFUSE = 1u << 4,    /* refuse the message: by status for an offer */
    DESTINATION_DO_SEALED = 1u << 5,    /* all blocks to the scheduler */
    DESTINATION_DO_SEAL_ACK = 1u << 6,  /* send seal_ack */
    DESTINATION_DO_CANCEL = 1u << 7,    /* send cancel */
    DESTINATION_DO_CANCELLED = 1u << 8, /* send cancelled */
    DESTINATION_DO_TELL = 1u << 9,      /* tell the scheduler that the stream failed */
    DESTINATION_DO_BACK = 1u << 10,     /* give back what no posted receive can write */
    DESTINATION_DO_CLOSE = 1u << 11,    /* close the session by force */
    DESTINATION_DO_MISBEHAVED = 1u << 12,
    DESTINATION_DO_FORGET = 1u << 13, /* drop the tombstone */
    DESTINATION_DO_BUG = 1u << 14
};

/* After the event. */
struct destination_facts {
    bool opened;
    bool all_posted; /* every piece was posted */
    bool full;       /* every piece has landed */
    bool idle;       /* no receive is posted */
    bool sealed;     /* FREED: it ran before */
    bool refusing;   /* ON_CANCEL: for a reason that is said as refuse (FULL, DEADLINE, …) */
};

struct destination_step {
    enum destination_state next;
    uint32_t actions;
};

struct destination_step destination_next(enum destination_state state, enum destination_event event,
                                         struct destination_facts facts);
const char *destination_state_name(enum destination_state state);

struct destination_block {
    uint32_t id;       /* DESTINATION_NO_BLOCK: not taken */
    uint16_t n_posted; /* receives that may still write it */
    uint16_t n_landed;
};

/* Of one class. */
struct destination_class {
    uint32_t sent_from;   /* the first block that the source sends */
    uint32_t first_block; /* the first that is lacking, once promised */
    uint32_t given_end;   /* blocks below that are lacking have an id, in the ring or taken */
    uint32_t ring[TRANSFER_RING_BLOCKS_MAX]; /* ids given, not taken */
    uint32_t ring_head, ring_count;
    struct destination_block *blocks; /* [n_blocks - first_block]; NULL before the promise */
};

struct destination {
    enum destination_state state;
    struct shape shape; /* as the open says */
    uint32_t n_blocks, n_tokens, n_classes;
    uint32_t credit; /* blocks below may be offered: the lowest given_end */
    bool opened, promised;
    struct destination_class classes[TRANSFER_CLASSES_MAX];
    /* Bitmaps over the pieces of blocks [lowest, n_blocks), lowest = the least first_block (bits of
     * what a class does not lack stay 0); NULL before cut and promise are known. */
    uint64_t *posted, *landed;
    uint32_t lowest;
    uint32_t n_pieces, n_posted, n_landed, n_outstanding; /* n_pieces: those that are lacking */
};

/* sent_from [n_classes]: the first block that the source sends of each class. */
void destination_init(struct destination *destination, uint32_t n_blocks, uint32_t n_tokens,
                      uint32_t n_classes, const uint32_t *sent_from);
void destination_fini(struct destination *destination);
/* Whether an open describes a stream that these classes can take (Submit is compared elsewhere). */
bool destination_open_fits(const struct shape *own, const struct frame_open *open,
                           uint32_t block_tokens, struct shape *shape_out);
/* The open came: how the blocks are cut. SL_NO_MEMORY. */
sl_status destination_open(struct destination *destination, const struct shape *shape) SL_MUST_USE;
/* Blocks [first_blocks[class], n_blocks) are wanted. SL_INVALID a first block outside what is sent;
 * SL_NO_MEMORY. */
sl_status destination_promise(struct destination *destination,
                              const uint32_t *first_blocks) SL_MUST_USE;
/* False when the ring is full or the stream lacks no further block: the id stays the caller's. */
bool destination_give(struct destination *destination, const struct transfer_block *block);
/* Checks an offer against shape, credit, ring and bitmaps. False: OFFER_BAD. */
bool destination_offer_fits(const struct destination *destination, const struct frame_offer *offer,
                            size_t length, struct piece *piece_out);
/* Marks the piece as posted; takes an id from the ring for the first piece of its block (*taken_out).
 * Returns the block id. destination_offer_fits was true. */
uint32_t destination_post(struct destination *destination, const struct piece *piece,
                          bool *taken_out);
/* A posted receive has ended. Returns the block's entry; *complete_out: every piece has landed. */
struct destination_block *destination_landed(struct destination *destination,
                                             const struct piece *piece, bool ok,
                                             bool *complete_out);
/* Next block that no receive can write any more, out of rings and blocks; false: none left. *cursor
 * starts at 0; *index_out is DESTINATION_NO_BLOCK for an id that was never taken. */
bool destination_back(struct destination *destination, uint32_t *cursor,
                      struct transfer_block *block_out, uint32_t *index_out);
struct destination_facts destination_facts(const struct destination *destination);

#endif
